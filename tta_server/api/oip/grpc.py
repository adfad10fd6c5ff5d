"""The Open Inference Protocol v2 over gRPC."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from tta_server.api.auth import Keys
from tta_server.api.errors import GRPC_STATUS, INTERNAL_ERROR
from tta_server.api.oip.grpc_calls import (
    UNREADABLE_MESSAGE,
    Call,
    Context,
    Message,
    Messages,
    abort,
    call_of,
    receive_one,
)
from tta_server.api.oip.grpc_codec import FINAL_RESPONSE, Parameter, read_request, write_failure, write_response
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
from tta_server.api.oip.semantics import InferCommand, parse_request
from tta_server.api.progress import Progress, ignore_exception, partial_answers
from tta_server.api.requests import RequestHandler, RequestInfo, choose_request_id, offload_if_large
from tta_server.application import Application
from tta_server.errors import Cancelled, InvalidInput, TTAError
from tta_server.serving.answer import Answer
from tta_server.serving.caller import Listener
from tta_server.serving.ticket import Ticket

log = logging.getLogger(__name__)

MAX_STREAMED = 64
"""Requests of one stream that run at a time; further ones wait in the client's buffers."""

SERVICE = "inference.GRPCInferenceService"
OPEN_METHODS = ("ServerLive", "ServerReady")
"""Methods of health checks, which need no key."""


class InferenceService:
    """`answer` serves every method but ModelStreamInfer: one message in, one out.

    gRPC serves each of them as if it took a stream, so that the key is checked, and the time to receive starts, before
    the message is read.
    """

    def __init__(self, application: Application, handler: RequestHandler, keys: Keys | None) -> None:
        self._application = application
        self._handler = handler
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
        """The response of one method; an error aborts the call."""
        call = call_of(method, context)
        if method not in OPEN_METHODS:
            call = call.traced(self._application.tracer, SERVICE)
            call.name_trace()
        try:
            return await self._answer(call, messages)
        finally:
            call.end_trace()

    async def _answer(self, call: Call, messages: Messages) -> Message:
        method, request = call.method, None
        try:
            call = self._check_key(call)
            if method == "ModelInfer":
                self._handler.bound.accept("", lambda: call.received_now().seconds)
            request = await receive_one(messages, self._application.settings.receive_seconds)
            return await self.methods[method](call.received_now(), request)
        except asyncio.CancelledError:
            self._record_error(call, request, Cancelled("the client disconnected"))
            raise
        except Exception as error:  # noqa: BLE001 - sent and logged
            await abort(call.context, self._record_error(call, request, error))

    def _check_key(self, call: Call) -> Call:
        """The call with its access. Raises Unauthenticated."""
        if self._keys is None or call.method in OPEN_METHODS:
            return call
        return replace(call, access=self._keys.check(call.authorization))

    def _record_error(self, call: Call, request: Message, error: Exception) -> TTAError:
        """Log the error; return the one to send."""
        model = getattr(request, "model_name", "") or getattr(request, "name", "")
        if not isinstance(error, TTAError):
            log.error("%s failed", call.method, exc_info=error)
            error = TTAError(INTERNAL_ERROR)
        self._handler.record_error(_info(call, model), error, GRPC_STATUS[error.code].name)
        return error

    def _refuse(self, call: Call, error: TTAError) -> TTAError:
        """Log the error of a stream as a whole, with a span of its own."""
        traced = call.traced(self._application.tracer, SERVICE)
        try:
            return self._record_error(traced, None, error)
        finally:
            traced.end_trace()

    # ---- infer ----

    async def _infer(self, call: Call, request: Message) -> Message:
        command, tickets = await self._submit(call, request)
        answers = await self._handler.wait_for_answers(tickets)
        response = await self._write_response(command, request, answers)
        self._handler.record_sent(answers, call.trace)
        return response

    async def stream(self, messages: Messages, context: Context) -> None:
        """ModelStreamInfer: for each request its partial answers, then the final one. Requests run concurrently."""
        call, writing = call_of("ModelStreamInfer", context), asyncio.Lock()
        running = asyncio.Semaphore(MAX_STREAMED)

        async def write(response: Message) -> None:
            async with writing:
                try:
                    await context.write(response)
                except grpc.aio.InternalError:  # raised for a closed stream
                    raise Cancelled("the client disconnected") from None

        async def serve(request: Message) -> None:
            try:
                one = replace(call, request_id=choose_request_id(request.id))
                one = one.traced(self._application.tracer, SERVICE).received_now()
                await self._serve_streamed(one, request, write)
            finally:
                running.release()

        try:
            call = self._check_key(call)
        except TTAError as error:
            await abort(context, self._refuse(call, error))
        unreadable = False
        async with asyncio.TaskGroup() as tasks:
            try:
                async for request in messages:
                    await running.acquire()
                    tasks.create_task(serve(request))
            except DecodeError:  # the requests before it are answered first
                unreadable = True
        if unreadable:
            await abort(context, self._refuse(call, InvalidInput(UNREADABLE_MESSAGE)))

    async def _serve_streamed(self, call: Call, request: Message, write: Callable[[Message], Awaitable[None]]) -> None:
        """Write the responses to one request of a stream; an error ends this request only."""
        try:
            async with aclosing(self._responses(call, request)) as responses:
                async for response in responses:
                    await write(pb.ModelStreamInferResponse(infer_response=response))
        except asyncio.CancelledError:
            self._record_error(call, request, Cancelled("the client disconnected"))
            raise
        except Cancelled as error:
            self._record_error(call, request, error)
        except Exception as error:  # noqa: BLE001 - sent and logged
            await write(write_failure(request, self._record_error(call, request, error)))
        finally:
            call.end_trace()

    async def _responses(self, call: Call, request: Message) -> AsyncGenerator[Message, None]:
        progress = Progress()
        command, tickets = await self._submit(call, request, progress)
        waiting = asyncio.ensure_future(self._handler.wait_for_answers(tickets))
        waiting.add_done_callback(ignore_exception)
        try:
            if len(tickets) == 1:
                async with aclosing(partial_answers(tickets[0], waiting, progress)) as partials:
                    async for partial in partials:
                        yield await self._write_response(command, request, [partial], {FINAL_RESPONSE: False})
            answers = await waiting
        finally:
            waiting.cancel()
            self._handler.cancel(tickets)  # `waiting` may have been cancelled before it started
        response = await self._write_response(command, request, answers, {FINAL_RESPONSE: True})
        self._handler.record_sent(answers, call.trace)
        yield response

    async def _submit(
        self, call: Call, request: Message, listener: Listener | None = None
    ) -> tuple[InferCommand, list[Ticket]]:
        """The command without images, and a ticket for each image; only the jobs hold the images then."""
        self._application.check_admitting()
        self._handler.bound.check(request.model_name, lambda: call.seconds)
        with self._handler.byte_budget.reserve() as reservation:
            size = request.ByteSize()
            reservation.acquire(size)
            command = await offload_if_large(
                size, lambda: parse_request(self._application, read_request(request), call.seconds)
            )
            request.ClearField("raw_input_contents")
            request.ClearField("inputs")
            with command.client_option_names():
                tickets = await self._handler.submit(command, _info(call, command.model.name), call.received, listener)
        return replace(command, images=(), model=tickets[0].model), tickets

    async def _write_response(
        self,
        command: InferCommand,
        request: Message,
        answers: Sequence[Answer],
        more: dict[str, Parameter] | None = None,
    ) -> Message:
        size = sum(answer.nbytes for answer in answers)
        return await offload_if_large(size, lambda: write_response(command, request, answers, more or {}))

    # ---- server and models ----

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
        statistics = describe_statistics(self._application, request.name, request.version)
        return ParseDict(statistics, pb.ModelStatisticsResponse())

    # ---- model repository ----

    async def _index(self, call: Call, request: Message) -> Message:
        models = await asyncio.to_thread(describe_repository, self._application, request.ready)
        return ParseDict({"models": models}, pb.RepositoryIndexResponse())

    async def _load(self, call: Call, request: Message) -> Message:
        await asyncio.to_thread(load_model, self._application, request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, call: Call, request: Message) -> Message:
        await asyncio.to_thread(unload_model, self._application, request.model_name)
        return pb.RepositoryModelUnloadResponse()


def _info(call: Call, model: str) -> RequestInfo:
    return RequestInfo(call.request_id, f"/{SERVICE}/{call.method}", model, call.trace, call.access)
