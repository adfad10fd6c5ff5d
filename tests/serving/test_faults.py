"""A real server whose models hang, fail, give NaN or never come back: no client waits past its deadline."""

import asyncio
import json
import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.faults import measure
from benchmarks.faulty_server import FAULTS
from benchmarks.leaving_clients import Load
from tests.support import pictures
from tests.support.gated import GatedServer
from tests.support.serving import PATIENCE, Server, until
from tests.support.toys import expect_ended_runs, metric, serving, switchable, trap_image, trap_model
from tta_server.repository.loader import load_model

pytestmark = pytest.mark.timing

TOY, SLOW, CALM, SHARED = (f"/v1/models/{name}/predict" for name in ("toy", "slow", "calm", "shared"))
PATIENT = {"budget_ms": "8000"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Models with traps on two slots.

    `slow` is kept for slow views, since they raise estimates; views of `shared` share batches.
    """
    folder = tmp_path_factory.mktemp("models")
    for name in ("toy", "slow", "calm"):
        trap_model(folder / name)
    trap_model(folder / "shared", batch="n")
    with Server("--port", "0", "--slots", "2", "--models", str(folder)) as running:
        yield running
        assert "Traceback" not in "".join(running.lines["stderr"])


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http


def post(
    client: httpx.Client, plain: str | None = None, mirrored: str | None = None, path: str = TOY, **query: str
) -> httpx.Response:
    image = pictures.encoded(trap_image(plain, mirrored))
    return client.post(path, content=image, params={**PATIENT, "include": "probabilities", **query})


def fault(response: httpx.Response) -> str:
    """The sentence of a model's failure."""
    assert response.status_code == 502, response.text
    body = response.json()
    assert set(body) == {"error", "code"}
    assert body["code"] == "backend_failed"
    return str(body["error"])


# ---- laws ----


def test_every_request_is_answered_whatever_its_images_do(toy: Path) -> None:
    """Six clients at once; every sixth view runs for ever, and others are slow, fail or give NaN."""
    with Server("--port", "0", "--slots", "2", "--models", str(toy)) as server, server.client() as client:
        check_answers(server, client)


def check_answers(server: Server, client: httpx.Client) -> None:
    source = random.Random(7)
    kinds = [None, None, "slow", "endless", "fails", "nan"]

    def visit(requests: list[tuple[str | None, str | None, int]]) -> list[httpx.Response]:
        with server.client() as own:
            return [post(own, plain, mirrored, budget_ms=str(budget)) for plain, mirrored, budget in requests]

    plans = [
        [(source.choice(kinds), source.choice(kinds), source.randrange(100, 1200)) for _ in range(4)] for _ in range(6)
    ]
    with ThreadPoolExecutor(6) as clients:
        responses = [response for answers in clients.map(visit, plans) for response in answers]
    assert {response.status_code for response in responses} <= {200, 400, 429, 502, 503, 504}
    for response in responses:
        if response.status_code == 200:
            assert response.json()["receipt"]["views"][0]["name"] == "plain"
    until(lambda: metric(client, "tta_jobs") == 0)
    ids = [response.headers["X-Request-Id"] for response in responses]
    until(lambda: len(server.lines["stdout"]) >= len(ids))
    logged = [json.loads(line)["request_id"] for line in server.lines["stdout"]]
    assert all(logged.count(name) == 1 for name in ids)
    until(lambda: post(client).status_code == 200)


@pytest.mark.parametrize(
    "trouble", [pytest.param(name, marks=[] if name == "third" else [pytest.mark.slow]) for name in FAULTS]
)
def test_under_load_with_a_third_disconnecting_every_request_is_answered(trouble: str) -> None:
    """benchmarks/faults.py in short: seconds instead of minutes, without its checks of time and memory."""
    load = Load(requests=150, clients=12, think=0.01, budget_ms=2000)
    tally = (result := asyncio.run(measure(trouble, load, "cifar10"))).tally
    assert 150 <= tally.started < 150 + load.clients
    assert tally.left > 20
    assert tally.left + sum(tally.statuses.values()) == tally.started
    assert tally.unanswered == 0
    assert result.jobs == 0
    assert set(tally.statuses) <= {200, 400, 429, 502, 504}  # 400: what is known to cost more than the budget
    assert tally.statuses[200] > 0
    if trouble == "slow":
        assert result.recovery is not None
    if trouble in ("third", "nan"):
        assert tally.statuses[502] > 0


# ---- a view that would run for ever ----


def test_an_endless_view_is_ended_and_the_others_are_the_answer(server: Server, client: httpx.Client) -> None:
    with expect_ended_runs(client, "toy", 1):
        answered = post(client, None, "endless")
    assert answered.status_code == 200, answered.text
    receipt = answered.json()["receipt"]
    assert [view["name"] for view in receipt["views"]] == ["plain"]
    assert (receipt["stop_reason"], receipt["planned"]) == ("backend_failed", 2)
    assert receipt["elapsed_ms"] >= 1000
    plain = post(client, None, "endless", max_views="1").json()["prediction"]["probabilities"]
    assert answered.json()["prediction"]["probabilities"] == pytest.approx(plain, abs=1e-6)
    server.wait_for("runs toy far longer than estimated")


def test_a_deadline_before_the_end_of_an_endless_view_is_kept(client: httpx.Client) -> None:
    with expect_ended_runs(client, "toy", 1):
        late = post(client, "endless", budget_ms="400", max_views="1")
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")


def test_at_the_deadline_the_merged_views_are_the_answer(client: httpx.Client) -> None:
    with expect_ended_runs(client, "toy", 1):
        receipt = post(client, None, "endless", budget_ms="900").json()["receipt"]
    assert receipt["stop_reason"] == "deadline"
    assert len(receipt["views"]) == 1


def test_while_one_model_hangs_the_others_answer(toy: Path) -> None:
    stuck, switch = switchable(load_model(toy / "toy"))
    with serving(stuck, load_model(trap_model(toy / "calm"))) as client, ThreadPoolExecutor(1) as other:
        switch.mode = "stuck"
        hung = other.submit(post, client, max_views="1")
        assert switch.entered.wait(PATIENCE)
        for _ in range(20):
            calm = post(client, path=CALM)
            assert calm.status_code == 200
            assert calm.json()["receipt"]["stop_reason"] == "all_views"
        assert not hung.done()
        switch.release.set()
        fault(hung.result())


def test_only_the_jobs_of_a_failed_batch_fail_with_it(server: Server, client: httpx.Client) -> None:
    """Both slots hang; meanwhile one image that fails and eleven others wait for them. A batch holds up to four."""

    def visit(trap: str | None, path: str, budget: str) -> httpx.Response:
        with server.client() as own:
            return post(own, trap, path=path, budget_ms=budget, max_views="1")

    with expect_ended_runs(client, "toy", 2), ThreadPoolExecutor(14) as clients:
        hanging = [clients.submit(visit, "endless", TOY, "900") for _ in range(2)]
        until(lambda: metric(client, "tta_jobs") == 2 or all(future.done() for future in hanging))
        bad = clients.submit(visit, "fails", SHARED, "8000")
        good = [clients.submit(visit, None, SHARED, "8000") for _ in range(11)]
        found: list[Future[httpx.Response]] = [*hanging, bad, *good]
        statuses = [future.result().status_code for future in found]
    assert statuses[:3] == [504, 504, 502]
    assert set(statuses[3:]) <= {200, 502}
    assert statuses[3:].count(502) <= 3


# ---- a view that fails, or gives NaN ----


@pytest.mark.parametrize("mirrored", ["fails", "nan"])
@pytest.mark.parametrize("plain", [None, "slow"])
def test_an_optional_view_that_goes_wrong_costs_only_itself(
    client: httpx.Client, plain: str | None, mirrored: str
) -> None:
    """Also when it has gone wrong before the plain view is done, as it mostly has where that is slow."""
    for _ in range(3):
        answered = post(client, plain, mirrored, SLOW)
        assert answered.status_code == 200, answered.text
        receipt = answered.json()["receipt"]
        assert [view["name"] for view in receipt["views"]] == ["plain"]
        assert receipt["dropped"] == (mirrored == "nan")
        assert receipt["stop_reason"] in ("all_views", "backend_failed")


@pytest.mark.parametrize(
    ("plain", "mirrored", "sentence"),
    [
        ("fails", None, "failed on this image"),
        (None, "fails", "failed on this image"),
        ("nan", None, "NaN"),
        (None, "nan", "NaN"),
        (None, "endless", "far too long"),
    ],
)
def test_a_mandatory_view_that_fails_is_an_error(
    client: httpx.Client, plain: str | None, mirrored: str | None, sentence: str
) -> None:
    with expect_ended_runs(client, "toy", int(mirrored == "endless")):
        assert sentence in fault(post(client, plain, mirrored, min_views="2"))


# ---- the end ----


def submit_all(
    url: str, images: list[bytes], budget_ms: int
) -> tuple[ThreadPoolExecutor, list[Future[httpx.Response]]]:
    """Each image in a request of its own, under way."""
    pool = ThreadPoolExecutor(len(images))
    params = {"budget_ms": str(budget_ms), "min_views": "all"}

    def ask(image: bytes) -> httpx.Response:
        return httpx.post(url + TOY, content=image, params=params, timeout=PATIENCE)

    return pool, [pool.submit(ask, image) for image in images]


def refused_from_now_on(url: str) -> bool:
    try:
        return httpx.get(url + "/readyz").status_code == 503
    except httpx.TransportError:
        return True


def ended(server: Server) -> tuple[int, str]:
    return server.exit_status(), "".join(server.lines["stderr"])


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    trap_model(tmp_path / "toy")
    return tmp_path


CALM_IMAGE = pictures.encoded(trap_image())


def test_a_signal_under_load_answers_the_admitted_in_time_and_refuses_the_rest(toy: Path) -> None:
    """All four wait at a gate until the signal has been obeyed."""
    with GatedServer(toy, slots=1, drain_seconds=PATIENCE) as server:
        url = server.url
        server.close_gate()
        pool, futures = submit_all(url, [CALM_IMAGE] * 4, 10_000)
        with pool, server.client() as watcher:
            until(lambda: metric(watcher, "tta_jobs") == 4)
            server.send_signal(signal.SIGTERM)
            until(lambda: refused_from_now_on(url))
            with pytest.raises(httpx.HTTPError):
                httpx.post(url + TOY, content=CALM_IMAGE, params=PATIENT).raise_for_status()
            server.open_gate()
            responses = [future.result() for future in futures]
        status, log = ended(server)
    assert [response.status_code for response in responses] == [200] * 4
    assert [len(response.json()["receipt"]["views"]) for response in responses] == [2] * 4
    assert status == 0
    assert "Traceback" not in log


def test_a_job_that_is_not_done_when_the_drain_ends_is_answered_not_ready(toy: Path) -> None:
    """Ten images wait at a gate that stays closed until the drain has ended."""
    with GatedServer(toy, slots=1, drain_seconds=0.5) as server:
        url = server.url
        server.close_gate()
        pool, futures = submit_all(url, [CALM_IMAGE] * 10, 10_000)
        with pool, server.client() as watcher:
            until(lambda: metric(watcher, "tta_jobs") == 10)
            server.send_signal(signal.SIGTERM)
            responses = [future.result() for future in futures]
        server.open_gate()
        status, log = ended(server)
    assert status == 0
    assert "Traceback" not in log
    assert {response.status_code for response in responses} == {503}
    assert {response.json()["code"] for response in responses} == {"not_ready"}


def test_a_signal_during_an_abandoned_run_exits_with_0_at_once(toy: Path) -> None:
    """The drain takes longer than the test waits.

    The run is ended first: the process could crash if its model were freed while it runs.
    """
    drain = str(2 * PATIENCE)
    with Server("--port", "0", "--slots", "2", "--drain-seconds", drain, "--models", str(toy)) as server:
        with server.client() as client:
            assert post(client, "endless", budget_ms="500", max_views="1").status_code == 504
        server.send_signal(signal.SIGTERM)
        status, log = ended(server)
    assert status == 0, log
    assert "terminate called" not in log


FAULT = """
from tta_server.scheduling.scheduler import Scheduler

def completed(self, batch, outcomes, seconds, now):
    raise LookupError("unexpected")

Scheduler.completed = completed
"""


def test_a_failure_of_the_scheduler_is_answered_and_ends_the_process_with_an_error(toy: Path) -> None:
    (toy / "python").mkdir()
    (toy / "python" / "sitecustomize.py").write_text(FAULT)
    trap_model(toy / "models" / "toy")
    arguments = ["--port", "0", "--slots", "1", "--models", str(toy / "models")]
    with Server(*arguments, env={**os.environ, "PYTHONPATH": str(toy / "python")}) as server:
        with server.client() as client:
            answer = client.post(TOY, content=CALM_IMAGE, params={"budget_ms": "10000"})
        status, log = ended(server)
    assert answer.status_code == 500
    assert "the server has to be restarted" in answer.json()["error"]
    assert status == 2
    assert "LookupError: unexpected" in log


@pytest.mark.slow
def test_a_slot_that_is_stuck_ends_the_process_with_an_error(toy: Path) -> None:
    """One operation of half a minute, which nothing can end: after 1 + 10 s the server gives up."""
    trap_model(toy / "calm")
    arguments = ["--port", "0", "--slots", "2", "--drain-seconds", "1", "--models", str(toy)]
    with Server(*arguments) as server:
        with server.client() as client:
            late = post(client, "stuck", budget_ms="300", max_views="1")
            assert late.status_code == 504
            while not any("CRITICAL" in line for line in server.lines["stderr"]):
                try:
                    assert post(client, path=CALM).status_code in (200, 503)
                except httpx.TransportError:
                    break
        status, log = ended(server)
    assert status not in (0, None)
    assert "is stuck in a run that can't be ended: the server has to be restarted" in log
    assert "Traceback" not in log


@pytest.mark.slow
def test_a_server_with_a_stuck_slot_is_not_alive(toy: Path) -> None:
    model, switch = switchable(load_model(toy / "toy"))
    statuses: set[int] = set()

    def is_dead(client: httpx.Client) -> bool:
        try:
            statuses.add(client.get("/livez").status_code)
        except httpx.TransportError:
            return True
        return 503 in statuses

    with serving(model) as client:
        switch.mode = "stuck"
        assert post(client, budget_ms="300", max_views="1").status_code == 504
        assert client.get("/livez").status_code == 200
        until(lambda: is_dead(client))
        switch.release.set()
    assert statuses == {200, 503}
