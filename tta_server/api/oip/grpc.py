"""The Open Inference Protocol v2 over gRPC."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any, TypeAlias

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from tta_server.api.auth import Keys
from tta_server.api.errors import GRPC_STATUS, INTERNAL
from tta_server.api.http.sse import Progress, partials, retrieved
from tta_server.api.oip.grpc_codec import FINAL, Parameter, read_request, write_failure, write_response
from tta_server.api.oip.metadata import (
    describe_config,
    describe_metadata,
    describe_repository,
    describe_server,
    describe_statistics,
    find_model,
    load_model,
    unload_model,
)
from tta_server.api.oip.semantics import PredictCommand, parse_request
from tta_server.api.requests import RequestHandler, RequestInfo, new_id, offload_if_large
from tta_server.application import Application
from tta_server.errors import Cancelled, DeadlineExceeded, InvalidInput, Overloaded, TTAError
from tta_server.serving.answer import Answer
from tta_server.serving.job import Listener
from tta_server.serving.predictor import Ticket

log = logging.getLogger(__name__)

STREAMED = 64
"""Requests of one stream that are answered at a time; the next ones wait in the client's own buffers."""

WIRE = 0.99
"""gRPC rounds deadlines from a second on up to three digits when it sends them."""

SERVICE = "inference.GRPCInferenceService"
OPEN = ("ServerLive", "ServerReady")
"""What health checks ask needs no key."""

UNREADABLE = "the bytes of the message are not those of a request of this method"

Context: TypeAlias = Any
"""A `grpc.aio.ServicerContext`: gRPC has no types."""
Message: TypeAlias = Any
Messages: TypeAlias = AsyncIterator[Message]


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `received` whole at that time of the monotonic clock, to be answered within `seconds` by the
    client's own deadline, None without one."""

    method: str
    request_id: str
    authorization: str
    context: Context
    received: float = 0.0
    seconds: float | None = None

    def arrived(self) -> "Call":
        """Its message is here."""
        left: float | None = self.context.time_remaining()
        if left is not None:
            left = None if left == inf else max(left if left < 1 else left * WIRE, 1e-6)
        return replace(self, received=time.monotonic(), seconds=left)


def call_of(method: str, context: Context) -> Call:
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return Call(method, new_id(metadata.get("x-request-id")), metadata.get("authorization", ""), context)


async def only(messages: Messages, seconds: float) -> Message:
    """The one message of a call. Raises DeadlineExceeded where it does not arrive in time, Cancelled where it never
    will, InvalidInput where its bytes are no message."""
    try:
        async with asyncio.timeout(seconds):
            return await anext(messages)
    except StopAsyncIteration:
        raise Cancelled("the client left before its request was read") from None
    except DecodeError:
        raise InvalidInput(UNREADABLE) from None
    except TimeoutError:
        raise DeadlineExceeded(f"the request did not arrive whole within {seconds:g} s") from None


class InferenceService:
    """Every method but ModelStreamInfer takes one message and gives one, by `answer`. Each is served as if it took a
    stream, so that key and the time to receive come before the message."""

    def __init__(self, application: Application, reception: RequestHandler, keys: Keys | None) -> None:
        self._application = application
        self._reception = reception
        self._keys = keys
        self.methods: dict[str, Callable[[Call, Message], Awaitable[Message]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "ModelInfer": self._infer,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }

    async def answer(self, method: str, messages: Messages, context: Context) -> Message:
        call, request = call_of(method, context), None
        try:
            self._check_key(call)
            request = await only(messages, self._application.settings.receive_seconds)
            return await self.methods[method](call.arrived(), request)
        except asyncio.CancelledError:
            self._fail(call, request, Cancelled("the client has left"))
            raise
        except Exception as error:  # noqa: BLE001 - told and logged
            await abort(context, self._fail(call, request, error))

    def _check_key(self, call: Call) -> None:
        if self._keys is not None and call.method not in OPEN:
            self._keys.check(call.authorization)

    def _fail(self, call: Call, request: Message, error: Exception) -> TTAError:
        """Logs it; returns what the client is told."""
        model = getattr(request, "model_name", "") or getattr(request, "name", "")
        if not isinstance(error, TTAError):
            log.error("%s failed", call.method, exc_info=error)
            error = TTAError(INTERNAL)
        visit = RequestInfo(call.request_id, f"/{SERVICE}/{call.method}", model)
        self._reception.failed(visit, error, GRPC_STATUS[error.code].name)
        return error

    # ---- infer ----

    async def _infer(self, call: Call, request: Message) -> Message:
        question, tickets = await self._admitted(call, request)
        answers = await self._reception.answers(tickets)
        response = await self._written(question, request, answers)
        self._reception.handed_out(answers)
        return response

    async def stream(self, messages: Messages, context: Context) -> None:
        """ModelStreamInfer: each request's answers so far, then its whole one; requests are answered side by side."""
        call, writing = call_of("ModelStreamInfer", context), asyncio.Lock()
        places = asyncio.Semaphore(STREAMED)

        async def write(response: Message) -> None:
            async with writing:
                try:
                    await context.write(response)
                except grpc.aio.InternalError:  # what it says of a stream that is closed
                    raise Cancelled("the client has left") from None

        async def serve(request: Message) -> None:
            try:
                await self._streamed(replace(call, request_id=new_id(request.id)).arrived(), request, write)
            finally:
                places.release()

        try:
            self._check_key(call)
        except TTAError as error:
            await abort(context, self._fail(call, None, error))
        unreadable = False
        async with asyncio.TaskGroup() as tasks:
            try:
                async for request in messages:
                    await places.acquire()
                    tasks.create_task(serve(request))
            except DecodeError:  # those before it are answered first
                unreadable = True
        if unreadable:
            await abort(context, self._fail(call, None, InvalidInput(UNREADABLE)))

    async def _streamed(self, call: Call, request: Message, write: Callable[[Message], Awaitable[None]]) -> None:
        try:
            async with aclosing(self._progressive(call, request)) as responses:
                async for response in responses:
                    await write(pb.ModelStreamInferResponse(infer_response=response))
        except asyncio.CancelledError:
            self._fail(call, request, Cancelled("the client has left"))
            raise
        except Cancelled as left:
            self._fail(call, request, left)
        except Exception as error:  # noqa: BLE001 - told, logged, and nobody else's affair
            told = self._fail(call, request, error)
            await write(write_failure(request, told))

    async def _progressive(self, call: Call, request: Message) -> AsyncGenerator[Message, None]:
        progress = Progress()
        question, tickets = await self._admitted(call, request, progress)
        waiting = asyncio.ensure_future(self._reception.answers(tickets))
        waiting.add_done_callback(retrieved)
        try:
            if len(tickets) == 1:
                async with aclosing(partials(tickets[0], waiting, progress)) as so_far:
                    async for partial in so_far:
                        yield await self._written(question, request, [partial], {FINAL: False})
            answers = await waiting
        finally:
            waiting.cancel()
            self._reception.leave(tickets)  # it may have been cancelled before it ran at all
        response = await self._written(question, request, answers, {FINAL: True})
        self._reception.handed_out(answers)
        yield response

    async def _admitted(
        self, call: Call, request: Message, listener: Listener | None = None
    ) -> tuple[PredictCommand, list[Ticket]]:
        """What was asked, and a ticket for each image; the images themselves are the tickets' from then on."""
        self._application.check_ready()
        with self._reception.intake.visit() as held:
            size = request.ByteSize()
            held.take(size)
            question = await offload_if_large(
                size, lambda: parse_request(self._application, read_request(request), call.seconds)
            )
            request.ClearField("raw_input_contents")
            request.ClearField("inputs")
            with question.in_its_names():
                tickets = await self._reception.submit(question, call.request_id, call.received, listener)
        return replace(question, images=(), model=tickets[0].model), tickets

    async def _written(
        self,
        question: PredictCommand,
        request: Message,
        answers: Sequence[Answer],
        more: dict[str, Parameter] | None = None,
    ) -> Message:
        size = sum(answer.nbytes for answer in answers)
        return await offload_if_large(size, lambda: write_response(question, request, answers, more or {}))

    # ---- what there is ----

    async def _live(self, call: Call, request: Message) -> Message:
        return pb.ServerLiveResponse(live=not self._application.health.fatal)

    async def _ready(self, call: Call, request: Message) -> Message:
        return pb.ServerReadyResponse(ready=self._application.ready)

    async def _server(self, call: Call, request: Message) -> Message:
        return ParseDict(describe_server(self._application), pb.ServerMetadataResponse())

    async def _model_ready(self, call: Call, request: Message) -> Message:
        model = self._application.models.get(request.name)
        fits = model is not None and request.version in ("", model.version)
        return pb.ModelReadyResponse(ready=fits and self._application.is_ready(request.name))

    async def _metadata(self, call: Call, request: Message) -> Message:
        model = find_model(self._application, request.name, request.version)
        return ParseDict(describe_metadata(model), pb.ModelMetadataResponse())

    async def _config(self, call: Call, request: Message) -> Message:
        model = find_model(self._application, request.name, request.version)
        return ParseDict({"config": describe_config(model, self._application)}, pb.ModelConfigResponse())

    async def _statistics(self, call: Call, request: Message) -> Message:
        told = describe_statistics(self._application, request.name, request.version)
        return ParseDict(told, pb.ModelStatisticsResponse())

    # ---- the repository ----

    async def _index(self, call: Call, request: Message) -> Message:
        models = await asyncio.to_thread(describe_repository, self._application, request.ready)
        return ParseDict({"models": models}, pb.RepositoryIndexResponse())

    async def _load(self, call: Call, request: Message) -> Message:
        await asyncio.to_thread(load_model, self._application, request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, call: Call, request: Message) -> Message:
        await asyncio.to_thread(unload_model, self._application, request.model_name)
        return pb.RepositoryModelUnloadResponse()


async def abort(context: Context, error: TTAError) -> None:
    """Raises what gRPC has for that."""
    trailing = []
    if isinstance(error, Overloaded):
        trailing.append(("retry-after-ms", str(ceil(error.retry_after * 1e3))))
    await context.abort(GRPC_STATUS[error.code], str(error), tuple(trailing))
