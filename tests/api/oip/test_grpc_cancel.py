"""Deadlines and cancelled calls over gRPC, and over HTTP beside them."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from tests.support import pictures
from tests.support.serving import PATIENCE, Server, until
from tests.support.toys import expect_ended_runs, metric, trap_image, trap_model
from tests.support.triton import BUDGET_SECONDS, Triton, sample

pytestmark = pytest.mark.timing

KINDS = ["grpc", "grpc.aio"]
TIME = BUDGET_SECONDS * 1_000_000


@pytest.fixture(params=KINDS)
def triton(request: pytest.FixtureRequest, server: Server) -> Triton:
    return Triton(request.param, server)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http


# ---- deadlines ----


def test_a_deadline_is_a_budget_and_the_smaller_counts(triton: Triton) -> None:
    tensor = triton.images(sample("clothing"))
    found = triton.infer("clothing", tensor, client_timeout=6).parameters["tta_budget_ms"]
    assert 0 < found <= 6000  # gRPC rounds it up to 3 digits on its way
    found = triton.infer("clothing", tensor, client_timeout=30, timeout=5_000_000).parameters["tta_budget_ms"]
    assert found == 5000
    assert triton.infer("clothing", tensor, client_timeout=300, timeout=None).views == 8


def test_a_deadline_that_is_past_is_an_error(triton: Triton) -> None:
    with pytest.raises(InferenceServerException) as caught:
        triton.infer("nuclei", triton.images(sample("nuclei")), client_timeout=1e-3, timeout=None)
    assert caught.value.status() in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.INVALID_ARGUMENT")


# ---- a server whose models never end, on demand ----

LATE, SHORT = ["http", "grpc"], ["http.aio", "grpc.aio"]
ENDS = ["http", "grpc", "stream"]


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One model per test, since a model that fails too often becomes unhealthy."""
    folder = tmp_path_factory.mktemp("models")
    for name in (*LATE, *SHORT, *(f"left-{end}" for end in ENDS)):
        trap_model(folder / name)
    with Server("--port", "0", "--slots", "2", "--models", str(folder)) as running:
        yield running
        assert "Traceback" not in "".join(running.lines["stderr"])


def encoded_trap(**traps: str) -> bytes:
    return pictures.encoded(trap_image(**traps))


@pytest.mark.parametrize("kind", LATE)
def test_time_that_runs_out_before_the_first_view_is_an_error(trap: Server, kind: str) -> None:
    triton = Triton(kind, trap)
    tensor = triton.images(encoded_trap(plain="endless"))
    with (
        trap.client() as client,
        expect_ended_runs(client, kind, 1),
        pytest.raises(InferenceServerException) as caught,
    ):
        triton.infer(kind, tensor, timeout=500_000, tta={})
    assert caught.value.message() == "the budget ran out before the mandatory views were done"
    assert caught.value.status() == ("504" if triton.is_http else "StatusCode.DEADLINE_EXCEEDED")


@pytest.mark.parametrize("kind", SHORT)
def test_time_that_runs_out_later_leaves_fewer_views(trap: Server, kind: str) -> None:
    triton = Triton(kind, trap)
    tensor = triton.images(encoded_trap(mirrored="endless"))
    with trap.client() as client, expect_ended_runs(client, kind, 1):
        result = triton.infer(kind, tensor, timeout=500_000, tta={})
    assert (result.views, result.parameters["tta_planned"]) == (1, 2)
    assert result.parameters["tta_stop"] == "deadline"


Ask = Callable[[Server, str, bytes], Callable[[], None]]
"""Sends a request, and returns a function that disconnects."""


def _by_http(server: Server, model: str, image: bytes) -> Callable[[], None]:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(image)}\r\n"
        "Inference-Header-Content-Length: 0\r\nX-Request-Timeout-Ms: 10000\r\n\r\n"
    )
    connection.sendall(head.encode() + image)
    return connection.close


def _by_call(server: Server, model: str, image: bytes) -> Callable[[], None]:
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    came: Future[Any] = Future()
    tensor = Triton("grpc", server).images(image)
    call = client.async_infer(model, [tensor], lambda result, error: came.set_result(error), timeout=TIME)

    def disconnect() -> None:
        call.cancel()
        assert came.result(PATIENCE).status() == "StatusCode.CANCELLED"
        client.close()

    return disconnect


def _by_stream(server: Server, model: str, image: bytes) -> Callable[[], None]:
    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    client.start_stream(lambda result, error: None)
    client.async_stream_infer(model, [Triton("grpc", server).images(image)], timeout=TIME)

    def disconnect() -> None:
        client.stop_stream(cancel_requests=True)
        client.close()

    return disconnect


LEAVERS: dict[str, Ask] = {"http": _by_http, "grpc": _by_call, "stream": _by_stream}


@pytest.mark.parametrize("end", ENDS)
def test_a_disconnected_client_frees_its_slot(trap: Server, end: str) -> None:
    model = f"left-{end}"
    with trap.client() as client:
        before = metric(client, f'tta_left_total{{model="{model}"}}')
        disconnect = [LEAVERS[end](trap, model, encoded_trap(plain="endless")) for _ in range(2)]
        until(lambda: metric(client, "tta_jobs") == 2)
        for go in disconnect:
            go()
        until(lambda: metric(client, f'tta_left_total{{model="{model}"}}') == before + 2)
        until(lambda: metric(client, "tta_jobs") == 0)
        triton = Triton("grpc", trap)
        assert triton.infer(model, triton.images(encoded_trap()), timeout=TIME).views == 2


def test_a_call_cancelled_in_asyncio_frees_its_slot(trap: Server) -> None:
    async def disconnect(metrics: Callable[[], float]) -> None:
        async with tritonclient.grpc.aio.InferenceServerClient(trap.grpc) as client:
            tensor = Triton("grpc", trap).images(encoded_trap(plain="endless"))
            call = asyncio.create_task(client.infer("left-grpc", [tensor], timeout=TIME))
            await asyncio.to_thread(until, lambda: metrics() == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    with trap.client() as client:
        before = metric(client, 'tta_left_total{model="left-grpc"}')
        asyncio.run(disconnect(lambda: metric(client, "tta_jobs")))
        until(lambda: metric(client, 'tta_left_total{model="left-grpc"}') == before + 1)
        until(lambda: metric(client, "tta_jobs") == 0)


def test_other_clients_are_answered_when_some_disconnect(trap: Server) -> None:
    triton = Triton("grpc", trap)
    with trap.client() as client, ThreadPoolExecutor(4) as pool:
        disconnect = _by_call(trap, "left-grpc", encoded_trap(plain="endless"))
        until(lambda: metric(client, "tta_jobs") == 1)
        tensor = triton.images(encoded_trap())
        others = [pool.submit(triton.infer, "left-http", tensor, timeout=TIME) for _ in range(4)]
        disconnect()
        assert [other.result(PATIENCE).views for other in others] == [2] * 4
