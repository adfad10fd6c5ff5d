"""Models that a server elsewhere runs, beside those that run here: answers, statuses, and how they come and go."""

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import httpx
import pytest

from tests.support.references import MODELS
from tests.support.remote import RemoteServer, remote_folder
from tests.support.serving import DEFAULT_MS, PATIENCE, Server, until
from tests.support.toys import metric, serving
from tta_server.repository.loader import load_model

pytestmark = pytest.mark.timing

NAMES = ("bloodcells", "cifar10", "clothing", "mouse", "nuclei", "nuclei-count")
IMAGES = {name: next((MODELS / name).glob("sample.*")).read_bytes() for name in NAMES}
LONG = {"budget_ms": str(DEFAULT_MS), "max_views": "1"}


def files(*names: str) -> dict[str, Path]:
    return {name: MODELS / name / "1" / "model.onnx" for name in names}


def ask(client: httpx.Client, name: str = "clothing", **options: str) -> httpx.Response:
    return client.post(f"/v1/models/{name}/predict", content=IMAGES[name], params={**LONG, **options})


@pytest.fixture(scope="module")
def remote() -> Iterator[RemoteServer]:
    with RemoteServer(files("clothing")) as running:
        yield running


@pytest.fixture(scope="module")
def client(remote: RemoteServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with clothing from elsewhere and cifar10 from its file."""
    folder = remote_folder(tmp_path_factory.mktemp("models") / "clothing", MODELS / "clothing", remote.url, permits=2)
    with serving(load_model(folder), load_model(MODELS / "cifar10"), workers=1) as http:
        yield http


def recover(client: httpx.Client) -> None:
    until(lambda: ask(client).status_code == 200)
    until(lambda: client.get("/readyz").json().get("not_ready") == [])


@pytest.mark.parametrize("name", [*NAMES[:3], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[3:])])
def test_a_model_answers_as_its_file_does(tmp_path: Path, name: str) -> None:
    with RemoteServer(files(name), max_batch=4) as remote:
        folder = remote_folder(tmp_path / name, MODELS / name, remote.url)
        here, there = load_model(MODELS / name), load_model(folder)
        with serving(replace(here, name="here"), there, workers=1) as client:
            options = {"budget_ms": "5000", "min_views": "all", "stop": "all"}
            answers = [
                client.post(f"/v1/models/{model}/predict", content=IMAGES[name], params=options).json()
                for model in ("here", name)
            ]
        assert set(remote.rows) <= {1, 2, 4}
    assert answers[0]["receipt"]["views"] == answers[1]["receipt"]["views"]
    assert rounded(answers[0]["prediction"]) == rounded(answers[1]["prediction"])


def rounded(value):
    """Sums of views in another order differ in their last bits."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return pytest.approx(value, rel=1e-4, abs=2e-4) if isinstance(value, float) else value


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 502, "backend_failed"),
        (grpc.StatusCode.INTERNAL, 502, "backend_failed"),
        (grpc.StatusCode.UNAVAILABLE, 503, "not_ready"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504, "deadline_exceeded"),
    ],
)
def test_a_failure_of_the_server_has_its_status_and_none_of_its_text(
    client: httpx.Client, remote: RemoteServer, failure: grpc.StatusCode, status: int, code: str
) -> None:
    recover(client)
    remote.failure = failure
    answer = ask(client)
    remote.failure = None
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "on purpose" not in answer.text
    assert remote.url not in answer.text
    assert ask(client, "cifar10").status_code == 200
    recover(client)


def test_a_model_whose_server_is_gone_is_not_ready_until_it_is_back(client: httpx.Client, remote: RemoteServer) -> None:
    recover(client)
    remote.stop()
    assert ask(client).status_code == 503
    until(lambda: client.get("/readyz").json()["not_ready"])  # one failed batch is enough
    assert metric(client, 'tta_model_ready{model="clothing"}') == 0
    assert "model clothing is unhealthy" in ask(client).json()["error"]
    assert ask(client, "cifar10").status_code == 200
    remote.start()
    recover(client)


def test_requests_to_a_server_that_hangs_are_answered_at_their_deadlines(
    client: httpx.Client, remote: RemoteServer
) -> None:
    """More than it has permits, and those that are refused at once since it is busy."""
    recover(client)
    remote.requests.clear()
    with ThreadPoolExecutor(6) as clients, remote.hanging():
        asked = [clients.submit(ask, client, budget_ms="700") for _ in range(6)]
        statuses = {answer.result(PATIENCE).status_code for answer in asked}
    assert 504 in statuses
    assert statuses <= {504, 503, 429}
    assert 0 < remote.requests[0].parameters["timeout"].int64_param < 700_000
    recover(client)


def test_a_batch_whose_client_has_left_is_cancelled_in_its_server(client: httpx.Client, remote: RemoteServer) -> None:
    """Nothing is held against the model, as it would be if it had been ended as overdue."""
    recover(client)
    ended = metric(client, 'tta_faults_total{kind="ended",model="clothing"}')
    remote.cancelled.clear()
    with remote.hanging():
        connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=PATIENCE)
        connection.request("POST", "/v1/models/clothing/predict?budget_ms=60000&max_views=1", IMAGES["clothing"])
        assert remote.entered.wait(PATIENCE)
        connection.close()
        assert remote.cancelled.wait(PATIENCE)
    assert client.get("/readyz").json().get("not_ready") == []
    assert ask(client).status_code == 200
    assert metric(client, 'tta_faults_total{kind="ended",model="clothing"}') == ended


def test_a_model_is_loaded_once_its_server_is_there(tmp_path: Path) -> None:
    """The command starts without it, says so, and serves the other model meanwhile."""
    remote = RemoteServer(files("clothing"))
    remote_folder(tmp_path / "clothing", MODELS / "clothing", remote.url)
    (tmp_path / "cifar10").symlink_to(MODELS / "cifar10")
    with Server("--port", "0", "--slots", "1", "--workers", "1", "--models", str(tmp_path)) as server:
        server.wait_for("model clothing failed to load: its Triton server is not ready")
        with server.client() as client:
            until(lambda: client.get("/readyz").status_code == 200)
            refused = ask(client)
            assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
            assert "its Triton server is not ready; it is tried again every second" in refused.json()["error"]
            assert remote.url not in refused.text
            with remote:
                recover(client)
        assert "Traceback" not in "".join(server.lines["stderr"])


def test_a_server_without_any_other_model_waits_too(tmp_path: Path) -> None:
    remote = RemoteServer(files("clothing"))
    remote_folder(tmp_path / "clothing", MODELS / "clothing", remote.url)
    with Server("--port", "0", "--models", str(tmp_path)) as server, server.client() as client:
        until(lambda: "its Triton server is not ready" in client.get("/readyz").text)
        assert client.get("/readyz").status_code == 503
        with remote:
            recover(client)


def test_with_strict_the_command_ends(tmp_path: Path) -> None:
    remote = RemoteServer(files("clothing"))
    remote_folder(tmp_path / "clothing", MODELS / "clothing", remote.url)
    with Server("--port", "0", "--strict", "--models", str(tmp_path)) as server:
        assert server.exit_status() == 2
        assert f"its Triton server is not ready ({remote.url}: UNAVAILABLE" in "".join(server.lines["stderr"])


def test_a_model_that_the_server_does_not_have_is_not_waited_for(tmp_path: Path, remote: RemoteServer) -> None:
    remote_folder(tmp_path / "clothing", MODELS / "clothing", remote.url, model="coats")
    with Server("--port", "0", "--models", str(tmp_path)) as server:
        assert server.exit_status() == 2
        assert f"{remote.url} has no model coats; it has clothing" in "".join(server.lines["stderr"])
