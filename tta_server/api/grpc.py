"""The Open Inference Protocol v2 over gRPC, and gRPC's own health checks."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from google.protobuf.json_format import ParseDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tta_server.answer import Answer
from tta_server.api.access import Keys
from tta_server.api.errors import GRPC_STATUS
from tta_server.api.protocol import (
    InferRequest,
    Question,
    describe_config,
    describe_metadata,
    describe_repository,
    describe_server,
    describe_statistics,
    find_model,
    load_model,
    refuse_foreign,
    respond,
    understand,
    unload_model,
)
from tta_server.api.reception import Reception, Visit, aside, new_id
from tta_server.api.stream import Progress, partials
from tta_server.api.tensors import InputTensor, read_shape
from tta_server.app import Application
from tta_server.errors import Cancelled, ConfigError, InvalidInput, Overloaded, TTAError, Unauthenticated

log = logging.getLogger(__name__)

FRAMING = 65_536
"""Bytes that a message may have besides its images."""
STREAMED = 64
"""Requests of one stream that are answered at a time; the next ones wait in the client's own buffers."""
FINAL = "triton_final_response"
WATCH_SECONDS = 0.5

SERVICE = "inference.GRPCInferenceService"

Context: TypeAlias = Any
"""A `grpc.aio.ServicerContext`: gRPC has no types."""
Parameter = bool | int | float | str


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
        return None if left is None or left == inf else max(left, 1e-6)


def call_of(method: str, context: Context) -> Call:
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return Call(method, new_id(metadata.get("x-request-id")), metadata.get("authorization", ""), context)


class InferenceService(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """What is not here answers UNIMPLEMENTED."""

    def __init__(self, application: Application, reception: Reception, keys: Keys | None) -> None:
        self._application = application
        self._reception = reception
        self._keys = keys

    # ---- infer ----

    async def ModelInfer(self, request: Any, context: Context) -> Any:
        return await self._answer(call_of("ModelInfer", context), self._infer, request)

    async def _infer(self, call: Call, request: Any) -> Any:
        question = await self._understood(call, request)
        tickets = await self._reception.submit(question.model.name, question.images, question.options, call.request_id)
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
                await context.write(response)

        async def serve(request: Any) -> None:
            try:
                await self._streamed(call, request, write)
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
        except Exception as error:  # noqa: BLE001 - told, logged, and nobody else's affair
            told = self._fail(call, request, error)
            named = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
            _put(named.parameters, {FINAL: True})
            await write(pb.ModelStreamInferResponse(error_message=str(told), infer_response=named))

    async def _progressive(self, call: Call, request: Any) -> AsyncIterator[Any]:
        question = await self._understood(call, request)
        progress = Progress() if len(question.images) == 1 else None
        tickets = await self._reception.submit(
            question.model.name, question.images, question.options, call.request_id, progress
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
        return await aside(
            request.ByteSize(), lambda: understand(self._application, read_request(request), call.seconds)
        )

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
            if self._keys is not None:
                self._keys.check(call.authorization)
            return await work(call, request)
        except asyncio.CancelledError:
            self._fail(call, request, Cancelled("the client has left"))
            raise
        except Exception as error:  # noqa: BLE001 - told and logged
            await _abort(call.context, self._fail(call, request, error))

    async def _let_in(self, call: Call) -> None:
        try:
            if self._keys is not None:
                self._keys.check(call.authorization)
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


# ---- messages ----


def read_request(message: Any) -> InferRequest:
    """Raises InvalidInput."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidInput(f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs")
    inputs = []
    for index, tensor in enumerate(message.inputs):
        refuse_foreign(tensor.parameters, tensor.name)
        shape = read_shape(list(tensor.shape), tensor.name)
        data = raw[index] if raw else _contents(tensor)
        inputs.append(InputTensor(tensor.name, tensor.datatype, shape, data))
    for wish in message.outputs:
        refuse_foreign(wish.parameters, wish.name)
    outputs = [wish.name for wish in message.outputs]
    parameters = {key: _value(found) for key, found in message.parameters.items()}
    return InferRequest(message.model_name, message.model_version, inputs, outputs, parameters, message.id)


def _contents(tensor: Any) -> list[Any]:
    """The elements of a tensor that is typed instead of raw."""
    if tensor.datatype == "BYTES":
        return list(tensor.contents.bytes_contents)
    return list(tensor.contents.uint_contents or tensor.contents.int_contents)


def _value(parameter: Any) -> Parameter:
    choice = parameter.WhichOneof("parameter_choice")
    found: Parameter = getattr(parameter, choice) if choice else ""
    return found


def write_response(question: Question, request: Any, answers: Sequence[Answer], more: dict[str, Parameter]) -> Any:
    tensors, parameters = respond(question, answers)
    response = pb.ModelInferResponse(
        model_name=question.model.name, model_version=question.model.version, id=request.id
    )
    _put(response.parameters, parameters | more)
    for tensor in tensors:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(tensor.raw())
    return response


def _put(into: Any, parameters: dict[str, Parameter]) -> None:
    for key, value in parameters.items():
        setattr(into[key], FIELDS[type(value)], value)


FIELDS: dict[type, str] = {
    bool: "bool_param",
    int: "int64_param",
    float: "double_param",
    str: "string_param",
}


# ---- health ----


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Of the server (the empty name, or the service's), and of each model by its name."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def Check(self, request: Any, context: Context) -> Any:
        status = self._status(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service[:64]!r}")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """At once, and whenever it has changed."""
        last = None
        while True:
            status = self._status(request.service)
            if status is None:
                status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            if status != last:
                yield health_pb2.HealthCheckResponse(status=status)
            last = status
            await asyncio.sleep(WATCH_SECONDS)

    def _status(self, service: str) -> int | None:
        application = self._application
        if service in ("", SERVICE):
            serving = application.ready and not application.health.ill
        elif service in application.models:
            serving = application.is_ready(service)
        else:
            return None
        found = health_pb2.HealthCheckResponse
        return int(found.SERVING if serving else found.NOT_SERVING)


# ---- the server ----


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files' contents."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Listener:
    """A server that is bound to a port."""

    server: grpc.aio.Server
    port: int


def read_tls(certificate: Path | None, key: Path | None) -> Tls | None:
    """Raises ConfigError where one is missing, can't be read, or does not fit the other."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigError("TLS takes both, --tls-cert and --tls-key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        return Tls(certificate.read_bytes(), key.read_bytes())
    except OSError as error:
        reason = "they are not a certificate and its key in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"TLS can't use {certificate} and {key}: {reason}") from error


def create_server(application: Application, reception: Reception, keys: Keys | None, tls: Tls | None) -> Listener:
    """Not started yet; raises ConfigError where it can't listen."""
    settings = application.settings
    server = grpc.aio.server(
        maximum_concurrent_rpcs=settings.max_connections,
        options=[
            ("grpc.max_receive_message_length", settings.max_bytes + FRAMING),
            ("grpc.max_send_message_length", -1),
            ("grpc.server_handshake_timeout_ms", round(settings.receive_seconds * 1e3)),
            ("grpc.so_reuseport", 0),
        ],
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(InferenceService(application, reception, keys), server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthService(application), server)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, grpc.ssl_server_credentials([(tls.key, tls.certificate)]))
    except RuntimeError as error:
        raise ConfigError(
            f"gRPC can't listen on {address}; choose another with --grpc-port, or do without: --no-grpc"
        ) from error
    return Listener(server, port)
