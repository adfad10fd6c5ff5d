"""What only gRPC has: streams of partial answers, deadlines, cancelled calls, statuses, health checks."""

import asyncio
import json
import queue
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.api.oip.test_clients import ALL_VIEWS, BUDGET_SECONDS, Result, Triton, expectation, probabilities, sample
from tests.support import pictures
from tests.support.serving import PATIENCE, Server, until
from tests.support.toys import metric, runs_that_end, trap_model, trapped

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


@pytest.fixture
def stub(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


# ---- streams ----

Event = Result | InferenceServerException


def stream(triton: Triton, requests: Sequence[dict[str, Any]]) -> list[Event]:
    """All responses of a stream that has ended after its requests."""
    requests = [{"timeout": TIME, "parameters": ALL_VIEWS, **request} for request in requests]
    pairs = _streamed(triton, requests) if triton.kind == "grpc" else asyncio.run(_streamed_aio(triton, requests))
    return [error if error is not None else Result(result) for result, error in pairs]


def _streamed(triton: Triton, requests: Sequence[dict[str, Any]]) -> list[tuple[Any, Any]]:
    came: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    with tritonclient.grpc.InferenceServerClient(triton.address) as client:
        client.start_stream(lambda result, error: came.put((result, error)))
        for request in requests:
            client.async_stream_infer(**request)
        client.stop_stream()
    return [came.get() for _ in range(came.qsize())]


async def _streamed_aio(triton: Triton, requests: Sequence[dict[str, Any]]) -> list[tuple[Any, Any]]:
    async def sent() -> AsyncIterator[dict[str, Any]]:
        for request in requests:
            yield request

    async with tritonclient.grpc.aio.InferenceServerClient(triton.address) as client:
        return [pair async for pair in client.stream_infer(sent())]


def is_final(event: Event) -> bool:
    """An error ends its request too."""
    return not isinstance(event, Result) or bool(event.parameters["triton_final_response"])


def of(events: Sequence[Event], request_id: str) -> list[Result]:
    return [event for event in events if isinstance(event, Result) and event.payload.get("id") == request_id]


def test_a_stream_has_partial_answers_and_then_the_final_one(triton: Triton) -> None:
    tensor = triton.images(sample("clothing"))

    def several() -> list[Event] | None:
        """A busy machine may have the whole answer before a partial one is written."""
        found = stream(triton, [{"model_name": "clothing", "inputs": [tensor], "request_id": "a"}])
        return found if len(found) > 1 else None

    events = until(several)
    *partials, final = of(events, "a")
    assert len(partials) + 1 == len(events) > 1
    assert [is_final(event) for event in events] == [False] * len(partials) + [True]
    views = [event.views for event in (*partials, final)]
    assert views == sorted(views)
    assert views[-1] == 8
    assert {event.parameters["tta_stop"] for event in partials} == {""}
    assert final.parameters["tta_stop"] == "all_views"
    assert len({event.parameters["tta_request_id"] for event in (*partials, final)}) == 1


@pytest.mark.parametrize("model", ["bloodcells", "clothing", "mouse", "nuclei", "nuclei-count"])
def test_the_last_answer_of_a_stream_is_the_unary_one(triton: Triton, model: str) -> None:
    tensor = triton.images(sample(model))
    *_, final = stream(triton, [{"model_name": model, "inputs": [tensor]}])
    assert isinstance(final, Result)
    unary = triton.infer(model, tensor)
    assert final.outputs == unary.outputs
    for name in unary.outputs:
        if unary[name].dtype == np.object_:
            assert final.texts(name) == unary.texts(name)
        else:
            np.testing.assert_allclose(final[name], unary[name], atol=1e-4, err_msg=name)


def test_a_partial_answer_is_the_merge_of_its_views(triton: Triton) -> None:
    tensor = triton.images(sample("clothing"))
    request = {"model_name": "clothing", "inputs": [tensor], "parameters": ALL_VIEWS | {"tta_max_views": 2}}
    first, *_ = stream(triton, [request])
    assert isinstance(first, Result)
    expected = triton.infer("clothing", tensor, tta=ALL_VIEWS | {"tta_max_views": first.views})
    np.testing.assert_allclose(probabilities(first), probabilities(expected), atol=1e-5)


def test_each_of_many_requests_of_a_stream_has_one_last_answer(triton: Triton, client: httpx.Client) -> None:
    """More of them than run at a time."""
    files = [pictures.png(32, 32, seed) for seed in range(4)]
    requests = [
        {
            "model_name": "cifar10",
            "inputs": [triton.images(files[number % 4])],
            "request_id": str(number),
            "parameters": ALL_VIEWS | {"tta_max_views": 2},
        }
        for number in range(80)
    ]
    events = stream(triton, requests)
    expected = [triton.infer("cifar10", triton.images(f), tta=ALL_VIEWS | {"tta_max_views": 2}) for f in files]
    for number in range(80):
        own = of(events, str(number))
        assert [is_final(event) for event in own] == [False] * (len(own) - 1) + [True]
        np.testing.assert_allclose(probabilities(own[-1]), probabilities(expected[number % 4]), atol=1e-5)
    assert sum(map(is_final, events)) == 80


def test_an_error_does_not_end_a_stream(triton: Triton) -> None:
    good, bad = triton.images(sample("cifar10")), triton.images(b"hello")
    requests = [
        {"model_name": "cifar10", "inputs": [bad], "request_id": "bad"},
        {"model_name": "nothing", "inputs": [good], "request_id": "unknown"},
        {"model_name": "cifar10", "inputs": [good], "request_id": "hasty", "timeout": 1},
        {"model_name": "cifar10", "inputs": [good], "request_id": "good"},
    ]
    events = stream(triton, requests)
    sentences = sorted(str(event.message()) for event in events if isinstance(event, InferenceServerException))
    assert len(sentences) == 3
    assert "not an image" in " ".join(sentences)
    assert "unknown model 'nothing'" in " ".join(sentences)
    assert "a budget of at least" in " ".join(sentences)
    assert of(events, "good")[-1].views == 6


def test_an_error_of_a_stream_names_its_request(stub: Any) -> None:
    """tritonclient does not show it; other clients may."""
    (response,) = stub.ModelStreamInfer(iter([pb.ModelInferRequest(model_name="nothing", id="mine")]))
    assert "unknown model 'nothing'" in response.error_message
    assert response.infer_response.id == "mine"
    assert response.infer_response.parameters["triton_final_response"].bool_param


def test_several_images_of_a_stream_s_request_have_one_answer(triton: Triton) -> None:
    tensor = triton.images(pictures.png(40, 50), sample("cifar10"))
    (event,) = stream(triton, [{"model_name": "cifar10", "inputs": [tensor]}])
    assert isinstance(event, Result)
    assert is_final(event)
    np.testing.assert_allclose(probabilities(event), probabilities(triton.infer("cifar10", tensor)), atol=1e-5)


def test_a_stream_without_requests_ends(triton: Triton) -> None:
    assert stream(triton, []) == []


def test_many_calls_at_a_time_are_all_answered(server: Server) -> None:
    came: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    triton = Triton("grpc", server)
    with tritonclient.grpc.InferenceServerClient(triton.address) as client:
        for number in range(20):
            client.async_infer(
                "cifar10",
                [triton.images(sample("cifar10"))],
                lambda result, error: came.put((result, error)),
                request_id=str(number),
                timeout=TIME,
            )
        pairs = [came.get(timeout=PATIENCE) for _ in range(20)]
    assert [error for _, error in pairs if error] == []
    assert sorted(int(result.get_response().id) for result, _ in pairs) == list(range(20))


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


def trap_image(**traps: str) -> bytes:
    return pictures.encoded(trapped(**traps))


@pytest.mark.parametrize("kind", LATE)
def test_time_that_runs_out_before_the_first_view_is_an_error(trap: Server, kind: str) -> None:
    triton = Triton(kind, trap)
    tensor = triton.images(trap_image(plain="endless"))
    with (
        trap.client() as client,
        runs_that_end(client, kind, 1),
        pytest.raises(InferenceServerException) as caught,
    ):
        triton.infer(kind, tensor, timeout=500_000, tta={})
    assert caught.value.message() == "the budget ran out before the mandatory views were done"
    assert caught.value.status() == ("504" if triton.is_http else "StatusCode.DEADLINE_EXCEEDED")


@pytest.mark.parametrize("kind", SHORT)
def test_time_that_runs_out_later_leaves_fewer_views(trap: Server, kind: str) -> None:
    triton = Triton(kind, trap)
    tensor = triton.images(trap_image(mirrored="endless"))
    with trap.client() as client, runs_that_end(client, kind, 1):
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
        disconnect = [LEAVERS[end](trap, model, trap_image(plain="endless")) for _ in range(2)]
        until(lambda: metric(client, "tta_jobs") == 2)
        for go in disconnect:
            go()
        until(lambda: metric(client, f'tta_left_total{{model="{model}"}}') == before + 2)
        until(lambda: metric(client, "tta_jobs") == 0)
        triton = Triton("grpc", trap)
        assert triton.infer(model, triton.images(trap_image()), timeout=TIME).views == 2


def test_a_call_cancelled_in_asyncio_frees_its_slot(trap: Server) -> None:
    async def disconnect(metrics: Callable[[], float]) -> None:
        async with tritonclient.grpc.aio.InferenceServerClient(trap.grpc) as client:
            tensor = Triton("grpc", trap).images(trap_image(plain="endless"))
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
        disconnect = _by_call(trap, "left-grpc", trap_image(plain="endless"))
        until(lambda: metric(client, "tta_jobs") == 1)
        tensor = triton.images(trap_image())
        others = [pool.submit(triton.infer, "left-http", tensor, timeout=TIME) for _ in range(4)]
        disconnect()
        assert [other.result(PATIENCE).views for other in others] == [2] * 4


# ---- messages that tritonclient does not send ----


def request_of(**more: Any) -> Any:
    return pb.ModelInferRequest(model_name="cifar10", parameters={"timeout": _number(TIME)}, **more)


def _number(value: int) -> Any:
    return pb.InferParameter(int64_param=value)


def test_tensors_may_be_typed_instead_of_raw(stub: Any, client: httpx.Client) -> None:
    file, array = sample("cifar10"), np.asarray(pictures.opened(sample("cifar10")).convert("RGB"))
    encoded = pb.ModelInferRequest.InferInputTensor(name="IMAGE", datatype="BYTES", shape=[1])
    encoded.contents.bytes_contents.append(file)
    pixels = pb.ModelInferRequest.InferInputTensor(name="PIXELS", datatype="UINT8", shape=array.shape)
    pixels.contents.uint_contents.extend(array.ravel().tolist())
    expected = expectation(client, "cifar10", file)["PROBABILITIES"]
    for tensor in (encoded, pixels):
        result = tritonclient.grpc.InferResult(stub.ModelInfer(request_of(inputs=[tensor])))
        np.testing.assert_allclose(result.as_numpy("PROBABILITIES")[0], expected, atol=1e-5)


STATUSES: dict[str, tuple[Any, grpc.StatusCode]] = {
    "no inputs": (request_of(), grpc.StatusCode.INVALID_ARGUMENT),
    "an unknown model": (pb.ModelInferRequest(model_name="nothing"), grpc.StatusCode.NOT_FOUND),
    "an unknown version": (request_of(model_version="2"), grpc.StatusCode.NOT_FOUND),
    "raw without an input": (request_of(raw_input_contents=[b"x"]), grpc.StatusCode.INVALID_ARGUMENT),
    "no image": (
        request_of(
            inputs=[pb.ModelInferRequest.InferInputTensor(name="IMAGE", datatype="BYTES", shape=[1])],
            raw_input_contents=[b"\x05\0\0\0hello"],
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "a negative shape": (
        request_of(
            inputs=[pb.ModelInferRequest.InferInputTensor(name="IMAGE", datatype="BYTES", shape=[-1])],
            raw_input_contents=[b""],
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
}


@pytest.mark.parametrize("mistake", STATUSES)
def test_an_invalid_request_has_a_status_and_a_reason(stub: Any, mistake: str) -> None:
    request, status = STATUSES[mistake]
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request)
    assert caught.value.code() == status
    assert caught.value.details()
    assert "Traceback" not in caught.value.details()


def test_a_request_id_comes_from_the_metadata(server: Server) -> None:
    triton = Triton("grpc", server)
    tensor = triton.images(sample("cifar10"))
    result = triton.infer("cifar10", tensor, headers={"x-request-id": "mine-7"})
    assert result.parameters["tta_request_id"] == "mine-7"
    server.wait_for('"request_id": "mine-7"', "stdout")
    assert (
        triton.infer("cifar10", tensor, headers={"x-request-id": "no good"}).parameters["tta_request_id"] != "no good"
    )


def test_a_refusal_is_logged(server: Server) -> None:
    triton = Triton("grpc", server)
    triton.refusal("cifar10", triton.images(b"hello"), headers={"x-request-id": "mine-8"})
    entry = json.loads(server.wait_for('.*"request_id": "mine-8".*', "stdout").group())
    assert (entry["event"], entry["status"], entry["code"]) == ("error", "INVALID_ARGUMENT", "unsupported_media")
    assert entry["path"] == "/inference.GRPCInferenceService/ModelInfer"


def test_an_unsupported_method_is_unimplemented(triton: Triton) -> None:
    with pytest.raises(InferenceServerException) as caught:
        triton.call("register_system_shared_memory", "region", "/key", 100)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


# ---- health ----


@pytest.fixture
def health(server: Server) -> Iterator[Any]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield health_pb2_grpc.HealthStub(channel)


SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "clothing"])
def test_health_of_the_server_and_of_each_model(health: Any, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    assert health.Check(request).status == SERVING
    watch = health.Watch(request)
    assert next(watch).status == SERVING
    watch.cancel()


def test_the_health_of_an_unknown_service_is_not_found(health: Any) -> None:
    request = health_pb2.HealthCheckRequest(service="nothing")
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(request)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health.Watch(request)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()
