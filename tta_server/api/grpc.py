"""The Open Inference Protocol v2 over gRPC."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any, TypeAlias

import grpc
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2 as pb

from tta_server.answer import Answer
from tta_server.api.access import Keys
from tta_server.api.errors import GRPC_STATUS
from tta_server.api.inventory import (
    describe_config,
    describe_metadata,
    describe_repository,
    describe_server,
    describe_statistics,
    find_model,
    load_model,
    unload_model,
)
from tta_server.api.messages import FINAL, Parameter, read_request, write_failure, write_response
from tta_server.api.protocol import Question, understand
from tta_server.api.reception import Reception, Visit, aside, new_id
from tta_server.api.stream import Progress, partials
from tta_server.app import Application
from tta_server.errors import Cancelled, DeadlineExceeded, Overloaded, TTAError, Unauthenticated

log = logging.getLogger(__name__)

STREAMED = 64
"""Requests of one stream that are answered at a time; the next ones wait in the client's own buffers."""

WIRE = 0.99
"""gRPC rounds deadlines from a second on up to three digits when it sends them."""

SERVICE = "inference.GRPCInferenceService"

Context: TypeAlias = Any
"""A `grpc.aio.ServicerContext`: gRPC has no types."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call, before its message is looked at."""

    method: str
    request_id: str
    authorization: str
    context: Context

    @property
    def seconds(self) -> float | None:
        """What its deadline leaves, None without one."""
        left: float | None = self.context.time_remaining()
        if left is None or left == inf:
            return None
        return max(left if left < 1 else left * WIRE, 1e-6)


def call_of(method: str, context: Context) -> Call:
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return Call(method, new_id(metadata.get("x-request-id")), metadata.get("authorization", ""), context)


class InferenceService:
    """The service's methods by the names that the protocol gives them; those that are not here answer
    UNIMPLEMENTED."""

    def __init__(self, application: Application, reception: Reception, keys: Keys | None) -> None:
        self._application = application
        self._reception = reception
        self._keys = keys

    # ---- infer ----

    async def ModelInfer(self, requests: AsyncIterator[Any], context: Context) -> Any:
        """Served as if it were a stream of one request: so keys and the time to receive it come before it."""
        call = call_of("ModelInfer", context)
        return await self._answer(call, self._infer, await self._receive(call, requests))

    async def _receive(self, call: Call, requests: AsyncIterator[Any]) -> Any:
        """Its one request."""
        seconds = self._application.settings.receive_seconds
        error: TTAError
        try:
            self._check_key(call)
            async with asyncio.timeout(seconds):
                return await anext(requests)
        except Unauthenticated as unknown:
            error = unknown
        except StopAsyncIteration:
            error = Cancelled("the client left before its request was read")
        except TimeoutError:
            error = DeadlineExceeded(f"the request did not arrive whole within {seconds:g} s")
        return await _abort(call.context, self._fail(call, None, error))

    async def _infer(self, call: Call, request: Any) -> Any:
        question = await self._understood(call, request)
        tickets = await self._reception.submit(question.model, question.images, question.options, call.request_id)
        answers = await self._reception.answers(tickets)
        response = await self._written(question, request, answers)
        self._books(answers)
        return response

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Context) -> None:
        """Each request's answers so far, then its whole one; requests of one stream are answered at a time."""
        call, writing = call_of("ModelStreamInfer", context), asyncio.Lock()
        places = asyncio.Semaphore(STREAMED)

        async def write(response: Any) -> None:
            async with writing:
                try:
                    await context.write(response)
                except grpc.aio.InternalError:  # what it says of a stream that is closed
                    raise Cancelled("the client has left") from None

        async def serve(request: Any) -> None:
            try:
                await self._streamed(replace(call, request_id=new_id(request.id)), request, write)
            finally:
                places.release()

        await self._let_in(call)
        async with asyncio.TaskGroup() as tasks:
            async for request in requests:
                await places.acquire()
                tasks.create_task(serve(request))

    async def _streamed(self, call: Call, request: Any, write: Callable[[Any], Awaitable[None]]) -> None:
        try:
            async for response in self._progressive(call, request):
                await write(pb.ModelStreamInferResponse(infer_response=response))
        except asyncio.CancelledError:
            self._fail(call, request, Cancelled("the client has left"))
            raise
        except Cancelled as left:
            self._fail(call, request, left)
        except Exception as error:  # noqa: BLE001 - told, logged, and nobody else's affair
            told = self._fail(call, request, error)
            await write(write_failure(request, told))

    async def _progressive(self, call: Call, request: Any) -> AsyncIterator[Any]:
        question = await self._understood(call, request)
        progress = Progress() if len(question.images) == 1 else None
        tickets = await self._reception.submit(
            question.model, question.images, question.options, call.request_id, progress
        )
        waiting = asyncio.ensure_future(self._reception.answers(tickets))
        try:
            if progress is not None:
                async for partial in partials(tickets[0], waiting, progress):
                    yield await self._written(question, request, [partial], {FINAL: False})
            answers = await waiting
        finally:
            waiting.cancel()
        yield await self._written(question, request, answers, {FINAL: True})
        self._books(answers)

    async def _understood(self, call: Call, request: Any) -> Question:
        self._reception.check_ready()
        size = request.ByteSize()
        with self._reception.intake.held(size):
            return await aside(size, lambda: understand(self._application, read_request(request), call.seconds))

    async def _written(
        self, question: Question, request: Any, answers: Sequence[Answer], more: dict[str, Parameter] | None = None
    ) -> Any:
        size = sum(array.nbytes for answer in answers for array in answer.tensors.values())
        return await aside(size, lambda: write_response(question, request, answers, more or {}))

    def _books(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            self._reception.answered(answer)
        self._reception.handed_out(answers)

    # ---- what there is ----

    async def ServerLive(self, request: Any, context: Context) -> Any:
        return pb.ServerLiveResponse(live=not self._application.health.stuck_slots)

    async def ServerReady(self, request: Any, context: Context) -> Any:
        return pb.ServerReadyResponse(ready=self._application.ready)

    async def ModelReady(self, request: Any, context: Context) -> Any:
        async def ready(call: Call, request: Any) -> Any:
            model = self._application.models.get(request.name)
            fits = model is not None and request.version in ("", model.version)
            return pb.ModelReadyResponse(ready=fits and self._application.is_ready(request.name))

        return await self._answer(call_of("ModelReady", context), ready, request)

    async def ServerMetadata(self, request: Any, context: Context) -> Any:
        async def told(call: Call, request: Any) -> Any:
            return ParseDict(describe_server(self._application), pb.ServerMetadataResponse())

        return await self._answer(call_of("ServerMetadata", context), told, request)

    async def ModelMetadata(self, request: Any, context: Context) -> Any:
        async def told(call: Call, request: Any) -> Any:
            model = find_model(self._application, request.name, request.version)
            return ParseDict(describe_metadata(model), pb.ModelMetadataResponse())

        return await self._answer(call_of("ModelMetadata", context), told, request)

    async def ModelConfig(self, request: Any, context: Context) -> Any:
        async def told(call: Call, request: Any) -> Any:
            model = find_model(self._application, request.name, request.version)
            return ParseDict({"config": describe_config(model, self._application)}, pb.ModelConfigResponse())

        return await self._answer(call_of("ModelConfig", context), told, request)

    async def ModelStatistics(self, request: Any, context: Context) -> Any:
        async def told(call: Call, request: Any) -> Any:
            statistics = describe_statistics(self._application, request.name, request.version)
            return ParseDict(statistics, pb.ModelStatisticsResponse())

        return await self._answer(call_of("ModelStatistics", context), told, request)

    # ---- the repository ----

    async def RepositoryIndex(self, request: Any, context: Context) -> Any:
        async def told(call: Call, request: Any) -> Any:
            models = await asyncio.to_thread(describe_repository, self._application, request.ready)
            return ParseDict({"models": models}, pb.RepositoryIndexResponse())

        return await self._answer(call_of("RepositoryIndex", context), told, request)

    async def RepositoryModelLoad(self, request: Any, context: Context) -> Any:
        async def load(call: Call, request: Any) -> Any:
            await asyncio.to_thread(load_model, self._application, request.model_name)
            return pb.RepositoryModelLoadResponse()

        return await self._answer(call_of("RepositoryModelLoad", context), load, request)

    async def RepositoryModelUnload(self, request: Any, context: Context) -> Any:
        async def unload(call: Call, request: Any) -> Any:
            await asyncio.to_thread(unload_model, self._application, request.model_name)
            return pb.RepositoryModelUnloadResponse()

        return await self._answer(call_of("RepositoryModelUnload", context), unload, request)

    # ---- what goes wrong ----

    async def _answer(self, call: Call, work: Callable[[Call, Any], Awaitable[Any]], request: Any) -> Any:
        try:
            self._check_key(call)
            return await work(call, request)
        except asyncio.CancelledError:
            self._fail(call, request, Cancelled("the client has left"))
            raise
        except Exception as error:  # noqa: BLE001 - told and logged
            await _abort(call.context, self._fail(call, request, error))

    def _check_key(self, call: Call) -> None:
        if self._keys is not None:
            self._keys.check(call.authorization)

    async def _let_in(self, call: Call) -> None:
        try:
            self._check_key(call)
        except Unauthenticated as error:
            await _abort(call.context, self._fail(call, None, error))

    def _fail(self, call: Call, request: Any, error: Exception) -> TTAError:
        """Logs it; returns what the client is told."""
        model = getattr(request, "model_name", "") or getattr(request, "name", "")
        if not isinstance(error, TTAError):
            log.error("%s failed", call.method, exc_info=error)
            error = TTAError("something went wrong here that is not your fault; the log has it under this request id")
        visit = Visit(call.request_id, f"/{SERVICE}/{call.method}", model)
        self._reception.failed(visit, error, GRPC_STATUS[error.code].name)
        return error


async def _abort(context: Context, error: TTAError) -> None:
    """Raises what gRPC has for that."""
    trailing = []
    if isinstance(error, Overloaded):
        trailing.append(("retry-after-ms", str(ceil(error.retry_after * 1e3))))
    await context.abort(GRPC_STATUS[error.code], str(error), tuple(trailing))
