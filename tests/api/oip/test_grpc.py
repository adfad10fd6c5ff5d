"""What only gRPC has: streams of partial answers, typed contents, statuses."""

import asyncio
import json
import queue
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, TypeAlias

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.support import pictures
from tests.support.serving import PATIENCE, Server, until
from tests.support.triton import ALL_VIEWS, BUDGET_SECONDS, Result, Triton, expectation, probabilities, sample

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

Event: TypeAlias = Result | InferenceServerException


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
    assert "supported format" in " ".join(sentences)
    assert "unknown model 'nothing'" in " ".join(sentences)
    assert "a budget of at least" in " ".join(sentences)
    assert of(events, "good")[-1].views == 6


def test_an_error_of_a_stream_names_its_request(stub: Any) -> None:
    """Not shown by tritonclient; other clients may."""
    (response,) = stub.ModelStreamInfer(iter([pb.ModelInferRequest(model_name="nothing", id="mine")]))
    assert "unknown model 'nothing'" in response.error_message
    assert response.infer_response.id == "mine"
    assert response.infer_response.parameters["triton_final_response"].bool_param
    assert response.infer_response.parameters["tta_code"].string_param == "unknown_model"


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
    assert "Traceback" not in str(caught.value.details())


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
