"""No client can exhaust shared resources: connections, calls, memory, budgets, the loading of models."""

import asyncio
import os
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from starlette.requests import Request
from tritonclient.grpc import service_pb2 as pb

from tests.support import pictures
from tests.support.connection import connected, post
from tests.support.serving import PATIENCE, Server, models_folder, until
from tta_server.api.http_request import read_body
from tta_server.api.oip.grpc_codec import MAX_TENSORS, read_request
from tta_server.api.oip.http_codec import Envelope, write_infer
from tta_server.api.oip.metadata import load_model, unload_model
from tta_server.api.oip.semantics import InferRequest
from tta_server.api.oip.tensors import MAX_LISTED_VALUES, OutputTensor
from tta_server.api.requests import ByteBudget, RequestHandler, Reservation
from tta_server.application import Application
from tta_server.errors import InvalidInput, NotReady, Overloaded
from tta_server.serving.answer import Answer, Receipt
from tta_server.serving.caller import Caller
from tta_server.serving.plan import Options
from tta_server.settings import Settings
from tta_server.tasks.render.rendering import Rendered
from tta_server.views.presets import preset

pytestmark = pytest.mark.timing

SERVICE = "/inference.GRPCInferenceService/"
KEY = "0123456789abcdef"
WATCHES = 2
"""An eighth of 20 calls."""


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Few connections and calls, a key, and one second to receive a request."""
    folder = tmp_path_factory.mktemp("locked")
    (folder / "keys").write_text(KEY)
    arguments = ("--port", "0", "--models", str(models_folder(folder, "cifar10", "nuclei")), "--max-connections", "20")
    with Server(*arguments, "--receive-seconds", "1", "--keys", str(folder / "keys")) as running:
        assert running.url
        yield running


@pytest.fixture
def channel(locked: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(locked.grpc) as opened:
        yield opened


class Silence:
    """The messages of a call that sends none."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def __iter__(self) -> Iterator[Any]:
        self.ended.wait(PATIENCE)
        yield from ()


# ---- calls and connections ----


@pytest.mark.parametrize(
    ("method", "code"),
    [
        (f"{SERVICE}ModelInfer", grpc.StatusCode.UNAUTHENTICATED),
        (f"{SERVICE}ModelMetadata", grpc.StatusCode.UNAUTHENTICATED),
        (f"{SERVICE}ServerLive", grpc.StatusCode.DEADLINE_EXCEEDED),
        ("/grpc.health.v1.Health/Check", grpc.StatusCode.DEADLINE_EXCEEDED),
        ("/grpc.health.v1.Health/Watch", grpc.StatusCode.DEADLINE_EXCEEDED),
    ],
)
def test_a_call_that_sends_nothing_ends(channel: grpc.Channel, method: str, code: grpc.StatusCode) -> None:
    """At once without a key, otherwise after `--receive-seconds`."""
    silence = Silence()
    call = channel.stream_stream(method)(iter(silence), timeout=PATIENCE)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    silence.ended.set()
    assert caught.value.code() is code


def test_few_calls_may_be_watches(channel: grpc.Channel) -> None:
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch", health_pb2.HealthCheckRequest.SerializeToString)
    with ExitStack() as open_ones:
        for _ in range(WATCHES):
            call = watch(health_pb2.HealthCheckRequest())
            open_ones.callback(call.cancel)
            next(call)
        with pytest.raises(grpc.RpcError) as caught:
            next(watch(health_pb2.HealthCheckRequest()))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    def watched() -> bool:
        call = watch(health_pb2.HealthCheckRequest())
        try:
            return bool(next(call))
        except grpc.RpcError:
            return False
        finally:
            call.cancel()

    until(watched)


def test_a_client_that_does_not_read_its_answer_is_disconnected(locked: Server) -> None:
    """12 MB are more than the buffers of a connection hold."""
    body = pictures.encoded(np.zeros((1024, 1024, 3), np.uint8))
    head = (
        b'{"parameters":{"timeout":50000000,"tta_max_views":1},"outputs":[{"name":"PROBABILITIES",'
        b'"parameters":{"binary_data":true}}],"inputs":[{"name":"IMAGE","datatype":"BYTES","shape":[1],'
        b'"parameters":{"binary_data_size":%d}}]}' % (len(body) + 4)
    )
    whole = head + len(body).to_bytes(4, "little") + body
    more = (f"Inference-Header-Content-Length: {len(head)}", f"Authorization: Bearer {KEY}")
    open_files = f"/proc/{locked.process.pid}/fd"
    before = len(os.listdir(open_files))
    with connected(locked) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.send(post("/v2/models/nuclei/infer", whole, *more))
        assert connection.responds(PATIENCE)
        assert connection.socket.recv(15) == b"HTTP/1.1 200 OK"
        until(lambda: len(os.listdir(open_files)) == before)


# ---- memory ----


def request_of(body: bytes, **headers: str) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    listed = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    return Request({"type": "http", "headers": listed}, receive)


def test_a_body_counts_until_its_reservation_ends() -> None:
    byte_budget = ByteBudget(100)
    with byte_budget.reserve() as held:
        assert asyncio.run(read_body(request_of(b"x" * 60), 100, held)) == b"x" * 60
        assert held.size == 60
        with pytest.raises(Overloaded), byte_budget.reserve() as other:
            asyncio.run(read_body(request_of(b"x" * 60), 100, other))
    with byte_budget.reserve() as held:
        held.acquire(100)


def test_a_compressed_body_counts_decompressed() -> None:
    body = zlib.compress(bytes(90))
    held = Reservation(ByteBudget(100 + len(body)))
    assert asyncio.run(read_body(request_of(body, content_encoding="deflate"), 100, held)) == bytes(90)
    assert held.size == 90
    with pytest.raises(Overloaded):  # the limit is reserved until it is decompressed
        asyncio.run(read_body(request_of(body, content_encoding="deflate"), 100, Reservation(ByteBudget(99))))


def test_an_answer_of_many_values_is_refused_in_json() -> None:
    tensor = OutputTensor("MASK", np.zeros((1, MAX_LISTED_VALUES + 1), np.uint8))
    envelope = Envelope(InferRequest("m", "", []), {})
    with pytest.raises(InvalidInput, match=r"MASK has 1000001 values; .* request binary_data"):
        write_infer(envelope, "1", [tensor], {})
    body, head = write_infer(Envelope(envelope.request, {"MASK": True}), "1", [tensor], {})
    assert head is not None
    assert len(body) == head + MAX_LISTED_VALUES + 1


def test_the_parts_of_a_message_are_bounded() -> None:
    with pytest.raises(InvalidInput, match="one input"):
        read_request(pb.ModelInferRequest(inputs=[pb.ModelInferRequest.InferInputTensor()] * (MAX_TENSORS + 1)))
    tensor = pb.ModelInferRequest.InferInputTensor(name="IMAGE", datatype="BYTES", shape=[1] * 1_000_000)
    with pytest.raises(InvalidInput, match="the shape of IMAGE"):
        read_request(pb.ModelInferRequest(inputs=[tensor]))
    many = pb.InferTensorContents(bytes_contents=[b""] * (MAX_LISTED_VALUES + 1))
    tensor = pb.ModelInferRequest.InferInputTensor(name="IMAGE", datatype="BYTES", shape=[1], contents=many)
    with pytest.raises(InvalidInput, match="1000001 values"):
        read_request(pb.ModelInferRequest(inputs=[tensor]))


# ---- an application of its own ----


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    settings = Settings(models=models_folder(tmp_path, "cifar10"), slots=2, model_control=True, drain_seconds=1)
    opened = Application.load(settings)
    try:
        yield opened
    finally:
        opened.close()


def test_no_model_is_loaded_before_all_are_warm(application: Application) -> None:
    with pytest.raises(NotReady):
        load_model(application, "cifar10")
    with pytest.raises(NotReady):
        unload_model(application, "cifar10")
    application.warm()
    load_model(application, "cifar10")
    application.stop_admitting()
    assert not application.ready
    with pytest.raises(NotReady):
        load_model(application, "cifar10")


def test_one_model_is_loaded_at_a_time(application: Application) -> None:
    application.warm()

    def load(_: int) -> str:
        try:
            application.load_model("cifar10")
        except Overloaded as refusal:
            return str(refusal)
        return "loaded"

    def outcomes() -> set[str]:
        """Of four concurrent loads: at least one succeeds, those beside another one are refused."""
        with ThreadPoolExecutor(4) as clients:
            found = set(clients.map(load, range(4)))
        assert "loaded" in found
        return found

    until(lambda: outcomes() == {"another model is being loaded; retry when that is done", "loaded"})


def test_a_linked_model_has_the_links_name(application: Application) -> None:
    application.warm()
    (application.settings.models / "small").symlink_to(application.settings.models / "cifar10")
    application.load_model("small")
    (ticket,) = application.predictor.submit_all(
        application.models["small"], [pictures.png(32, 32)], Options(budget_ms=5000), Caller("test")
    )
    assert ticket.future.result().model == "small"


def test_a_budget_counts_from_when_the_request_was_received(application: Application) -> None:
    application.warm()
    options = Options(budget_ms=5000)
    caller = Caller("test", received=time.monotonic() - 1)
    (ticket,) = application.predictor.submit_all(application.models["cifar10"], [pictures.png(32, 32)], options, caller)
    assert ticket.future.result().receipt.elapsed_ms > 1000


def test_images_of_a_batch_that_run_one_after_another_keep_their_budgets(application: Application) -> None:
    handler = RequestHandler(application)
    receipt = Receipt([], 1, 1, 0, "", "all", None, None, 1, 1, {}, preset("plain", crops=False), "test")
    for _ in range(50):
        now = time.monotonic()
        handler.record_sent([Answer("m", "1", "t", receipt, Rendered(), now - late) for late in (9, 5, 0)], None)
    assert handler.reserve_seconds() < 1
