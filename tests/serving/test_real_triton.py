"""A real Triton 2.51 behind the server: answers, and what clients see while it is stopped, killed and started again.

How soon it recovers, and how late any answer is, `benchmarks/remote_triton.py` measures.
"""

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.ensembles import export
from tests.support.real_triton import VENV, RealTriton, is_installed
from tests.support.references import MODELS
from tests.support.remote import remote_folder
from tests.support.serving import Server, until

pytestmark = [
    pytest.mark.triton,
    pytest.mark.timing,
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason=f"no Triton in {VENV}: `make triton` installs it"),
]

IMAGE = (MODELS / "clothing" / "sample.jpg").read_bytes()
BUDGET_MS = 1000
CLIENTS = 4


@pytest.fixture(params=["local", "graph"])
def views(request: pytest.FixtureRequest) -> str:
    """`backend.views`: made here, or by an exported ensemble."""
    found: str = request.param
    return found


@pytest.fixture
def triton(tmp_path: Path, views: str) -> Iterator[RealTriton]:
    with RealTriton(tmp_path / "triton") as running:
        if views == "graph":
            export(MODELS / "clothing", running.repository)
        else:
            running.add("clothing")
        yield running


@pytest.fixture
def models(tmp_path: Path, triton: RealTriton, views: str) -> Path:
    """clothing in Triton as `clothing`, and from its file as `local`."""
    folder = tmp_path / "models"
    model = {"local": "clothing", "graph": "clothing_tta"}[views]
    remote_folder(folder / "clothing", MODELS / "clothing", triton.url, model=model, views=views)
    (folder / "local").symlink_to(MODELS / "clothing")
    return folder


@pytest.fixture
def server(models: Path, triton: RealTriton) -> Iterator[Server]:
    triton.start()
    with Server("--port", "0", "--workers", "1", "--models", str(models)) as running:
        assert running.url
        yield running


def ask(client: httpx.Client, model: str = "clothing", **options: object) -> httpx.Response:
    params = {"budget_ms": BUDGET_MS, **options}
    return client.post(f"/v1/models/{model}/predict", content=IMAGE, params=params)


class Traffic:
    """Clients that ask without a pause; `statuses` counts the responses, and `unanswered` those that never came."""

    def __init__(self, server: Server) -> None:
        self.statuses: Counter[int] = Counter()
        self.unanswered: list[str] = []
        self._server = server
        self._ends = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        with self._server.client() as client:
            while not self._ends.is_set():
                try:
                    status = ask(client).status_code
                except httpx.HTTPError as error:
                    self.unanswered.append(repr(error))
                    return
                with self._lock:
                    self.statuses[status] += 1
                if status == 503:
                    self._ends.wait(0.01)  # refused at once: leave the cores to the others

    def more(self, *statuses: int) -> None:
        """Waits until one of these statuses was seen again."""
        before = sum(self.statuses[status] for status in statuses)
        until(lambda: sum(self.statuses[status] for status in statuses) > before or self.unanswered)

    @contextmanager
    def running(self) -> Iterator["Traffic"]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            for _ in range(CLIENTS):
                pool.submit(self.run)
            try:
                yield self
            finally:
                self._ends.set()


def test_answers_equal_those_of_the_file_with_many_in_flight(server: Server, triton: RealTriton) -> None:
    def probabilities(model: str) -> list[float]:
        with server.client() as client:
            options = {"budget_ms": 5000, "min_views": "all", "stop": "all", "include": "probabilities"}
            answer = ask(client, model, **options)
        assert answer.status_code == 200, answer.text
        found: list[float] = answer.json()["prediction"]["probabilities"]
        return found

    expected = probabilities("local")
    with ThreadPoolExecutor(8) as clients:
        for found in clients.map(probabilities, ["clothing"] * 24):
            assert found == pytest.approx(expected, abs=1e-6)
    rows, batches = triton.executed("clothing")
    assert rows > batches


@pytest.mark.parametrize("fault", ["stopped", "killed"])
def test_every_request_is_answered_while_triton_is_gone_and_after(
    server: Server, triton: RealTriton, fault: str
) -> None:
    """Stopped: at their deadlines, then not ready. Killed: not ready at once."""
    with Traffic(server).running() as traffic:
        traffic.more(200)
        if fault == "stopped":
            triton.send_signal(signal.SIGSTOP)
            traffic.more(504)
        else:
            triton.kill()
        traffic.more(503)
        with server.client() as client:
            until(lambda: not_ready(client) == ["clothing"])
            assert ask(client, "local").status_code == 200
            if fault == "stopped":
                triton.send_signal(signal.SIGCONT)
            else:
                triton.start()
            until(lambda: triton.keep_up() and ask(client).status_code == 200)
            until(lambda: not_ready(client) == [])
        traffic.more(200)
    assert traffic.unanswered == []
    assert set(traffic.statuses) <= {200, 429, 502, 503, 504}
    assert server.process.poll() is None


def not_ready(client: httpx.Client) -> list[str]:
    return [entry["name"] for entry in client.get("/readyz").json()["not_ready"]]


def test_a_model_comes_up_by_itself_once_triton_does(models: Path, triton: RealTriton) -> None:
    with Server("--port", "0", "--workers", "1", "--models", str(models)) as server, server.client() as client:
        until(lambda: client.get("/readyz").status_code == 200)
        assert not_ready(client) == ["clothing"]
        assert ask(client).status_code == 503
        triton.start()
        until(lambda: triton.keep_up() and ask(client).status_code == 200)


def test_a_missing_model_is_named_with_those_that_there_are(triton: RealTriton, tmp_path: Path) -> None:
    triton.start()
    folder = remote_folder(tmp_path / "models" / "clothing", MODELS / "clothing", triton.url, model="coats")
    with Server("--port", "0", "--models", str(folder.parent)) as server:
        assert server.exit_status() == 2
        assert "has no model coats; it has clothing" in "".join(server.lines["stderr"])


def test_a_triton_that_is_shut_down_is_not_ready(server: Server, triton: RealTriton) -> None:
    """Triton stops gracefully: it answers what it has, and refuses what comes."""
    with Traffic(server).running() as traffic:
        traffic.more(200)
        triton.send_signal(signal.SIGTERM)
        traffic.more(503)
        triton.kill()
        triton.start()
        traffic.more(200)
    assert traffic.unanswered == []
