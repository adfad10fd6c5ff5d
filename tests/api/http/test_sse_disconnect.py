"""`Accept: text/event-stream` and clients that disconnect: jobs are cancelled, and logged once."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request

from tests.support import pictures
from tests.support.events import STREAM, events_of
from tests.support.serving import PATIENCE, Server, until
from tests.support.toys import expect_ended_runs, metric, switchable, trap_image, trap_model
from tta_server.api.http.sse import stream_answers
from tta_server.api.progress import Progress
from tta_server.application import Application
from tta_server.errors import Cancelled, TTAError
from tta_server.repository.loader import load_model
from tta_server.serving.caller import Caller
from tta_server.serving.plan import Options
from tta_server.settings import Settings

pytestmark = pytest.mark.timing


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two slots; a model whose mirrored view is slow, fails, or never ends, as the image says."""
    folder = tmp_path_factory.mktemp("models")
    trap_model(folder / "toy")
    with Server("--port", "0", "--slots", "2", "--models", str(folder)) as running:
        yield running


@pytest.fixture
def toy(traps: Server) -> Iterator[httpx.Client]:
    with traps.client() as http:
        yield http


def trap(plain: str | None = None, mirrored: str | None = None) -> bytes:
    return pictures.encoded(trap_image(plain, mirrored))


# ---- the log ----


def entries(server: Server, prefix: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.lines["stdout"] if f'"{prefix}' in line]


def test_the_log_has_one_line_for_each_stream(traps: Server, toy: httpx.Client) -> None:
    cases = [
        (trap(), {}, "answer"),
        (trap(None, "endless"), {"budget_ms": "900"}, "answer"),
        (trap("nan"), {}, "error"),
        (trap(None, "endless"), {"budget_ms": "900", "min_views": "2"}, "error"),
    ]
    with expect_ended_runs(toy, "toy", 2):
        for number, (image, query, _) in enumerate(cases):
            headers = {**STREAM, "X-Request-Id": f"one-{number}"}
            toy.post("/v1/models/toy/predict", content=image, params=query, headers=headers)
    until(lambda: len(entries(traps, "one-")) >= 4)
    found = [(entry["request_id"], entry["event"]) for entry in entries(traps, "one-")]
    assert found == [(f"one-{number}", event) for number, (_, _, event) in enumerate(cases)]
    _, cut, _, late = entries(traps, "one-")
    assert (cut["stop_reason"], late["status"]) == ("deadline", 504)


def test_a_client_that_closes_after_its_answer_is_logged_as_answered(traps: Server) -> None:
    for number in range(30):
        headers = {**STREAM, "X-Request-Id": f"close-{number}"}
        path = f"{traps.url}/v1/models/toy/predict"
        with httpx.stream("POST", path, content=trap(), headers=headers, timeout=60) as response:
            for event in events_of(response, 0):
                if event.name == "answer":
                    break
    until(lambda: len(entries(traps, "close-")) >= 30)
    assert [entry["event"] for entry in entries(traps, "close-")] == ["answer"] * 30


# ---- disconnecting ----


def disconnect(server: Server, image: bytes, name: str, read: float) -> list[str]:
    """Read events until none comes for `read` seconds, or to the end, then disconnect."""
    events = []
    headers, timeout = {**STREAM, "X-Request-Id": name}, httpx.Timeout(60, read=read)
    query = {"budget_ms": "9000", "min_views": "all"}
    path = f"{server.url}/v1/models/toy/predict"
    with (
        contextlib.suppress(httpx.ReadTimeout),
        httpx.stream("POST", path, content=image, params=query, headers=headers, timeout=timeout) as response,
    ):
        events.extend(event.name for event in events_of(response, 0))
    return events


@pytest.mark.parametrize(("image", "events"), [((None, "endless"), ["partial"]), (("endless", None), [])])
def test_a_disconnected_client_frees_its_views_and_is_counted(
    traps: Server, toy: httpx.Client, image: tuple[str | None, str | None], events: list[str]
) -> None:
    left, cancelled = 'tta_left_total{model="toy"}', 'tta_errors_total{code="cancelled",model="toy"}'
    before = metric(toy, left), metric(toy, cancelled)
    name = f"gone-{len(events)}"
    with expect_ended_runs(toy, "toy", 0):  # an abort after the last client has left is no fault
        assert disconnect(traps, trap(*image), name, 0.3) == events
        until(lambda: metric(toy, "tta_jobs") == 0)
        until(lambda: metric(toy, left) == before[0] + 1)
    assert metric(toy, cancelled) == before[1] + 1
    assert [entry["status"] for entry in entries(traps, name)] == [499]


@pytest.mark.parametrize("version", ["2.3", "2.4"], ids=lambda v: f"ASGI {v}")
def test_a_client_that_disconnects_before_the_first_event_frees_its_views(tmp_path: Path, version: str) -> None:
    """The client disconnects before the response has started."""
    model, switch = switchable(load_model(trap_model(tmp_path / "toy")))
    application = Application(Settings(models=tmp_path, slots=1, drain_seconds=1.0), [model])
    application.warm()

    def block() -> None:
        switch.mode = "stuck"

    try:
        recorded = asyncio.run(stream_to_a_vanished_client(application, block, version))
    finally:
        switch.release.set()
        application.close()
    assert [type(error) for error in recorded] == [Cancelled]


async def stream_to_a_vanished_client(
    application: Application, block: Callable[[], None], version: str
) -> list[TTAError | None]:
    """What is recorded: errors, or None for an answer. `block` keeps the model from ending the second view."""
    progress, gone, cancelled = Progress(), asyncio.Event(), threading.Event()
    recorded: list[TTAError | None] = []

    def listener() -> None:  # on the slot's thread, before it takes the next view
        block()
        progress()

    async def receive() -> dict[str, str]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        raise OSError("the client disconnected")

    def cancel() -> None:
        application.predictor.cancel(ticket)
        cancelled.set()

    caller = Caller("one", listener)
    ticket = application.predictor.submit("toy", trap(), Options(budget_ms=9000), caller)
    scope = {"type": "http", "asgi": {"spec_version": version}}
    request = Request(scope, receive)
    response = await stream_answers(
        request, ticket, progress, cancel, lambda _: recorded.append(None), lambda _, error: recorded.append(error)
    )
    gone.set()
    with contextlib.suppress(ClientDisconnect, OSError, ExceptionGroup):
        await response(scope, receive, send)
    assert await asyncio.to_thread(cancelled.wait, PATIENCE)
    return recorded


def test_client_behaviour_is_not_logged_as_a_server_error(traps: Server, toy: httpx.Client) -> None:
    """The server's own log has no warning about what clients do."""
    for number in range(10):
        disconnect(traps, trap("slow" if number % 2 else None, "slow"), f"quiet-{number}", 0.03)
    until(lambda: toy.post("/v1/models/toy/predict", content=trap()).status_code == 200)
    output = "".join(traps.lines["stderr"])
    assert "Traceback" not in output
    assert "never retrieved" not in output
