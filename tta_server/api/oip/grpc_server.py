"""The gRPC server: the protocol's service, and gRPC's own health checks."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import grpc
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2 as pb

from tta_server.api.auth import Access
from tta_server.api.errors import GRPC_STATUS
from tta_server.api.oip.grpc import SERVICE, Context, InferenceService, Message, Messages, only
from tta_server.api.oip.grpc_reflection import NAMES, ReflectionService, reflection_handlers
from tta_server.api.requests import RequestHandler
from tta_server.application import Application
from tta_server.errors import ConfigError, TTAError

HEALTH = "grpc.health.v1.Health"
FRAMING = 65_536
"""Bytes that a message may have besides its images."""
IDLE_MS = 60_000
"""A connection without a call is closed after this time; clients open another one by themselves."""
KEEPALIVE = (("grpc.keepalive_time_ms", 60_000), ("grpc.keepalive_timeout_ms", 20_000))
"""A client that has vanished without a word is found out."""
SHARE = 8
"""One in so many calls may be a Watch, and as many may be about reflection."""
WATCH_SECONDS = 0.5
"""Between two looks at what a Watch is told of."""


class HealthService:
    """Of the server (the empty name, or the service's), and of each model by its name. Asked without a key, so that no
    more than a share of the calls may be Watches."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._watches = 0

    async def check(self, messages: Messages, context: Context) -> Message:
        request = await self._only(messages, context)
        status = self._status(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service[:64]!r}")
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(self, messages: Messages, context: Context) -> AsyncIterator[Message]:
        """At once, and whenever it has changed."""
        if self._watches >= max(1, self._application.settings.max_connections // SHARE):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._watches} watch already, the most taken")
        self._watches += 1
        try:
            request, last = await self._only(messages, context), None
            while True:
                status = self._status(request.service)
                if status is None:
                    status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
                if status != last:
                    yield health_pb2.HealthCheckResponse(status=status)
                last = status
                await asyncio.sleep(WATCH_SECONDS)
        finally:
            self._watches -= 1

    async def _only(self, messages: Messages, context: Context) -> Message:
        try:
            return await only(messages, self._application.settings.receive_seconds)
        except TTAError as error:
            await context.abort(GRPC_STATUS[error.code], str(error))

    def _status(self, service: str) -> int | None:
        application = self._application
        if service in ("", SERVICE):
            serving = application.ready and not application.health.unhealthy
        elif service in application.models:
            serving = application.is_ready(service)
        else:
            return None
        found = health_pb2.HealthCheckResponse
        return int(found.SERVING if serving else found.NOT_SERVING)


@dataclass(frozen=True, slots=True)
class Listener:
    """A server that is bound to a port."""

    server: grpc.aio.Server
    port: int


def create_server(application: Application, reception: RequestHandler, access: Access) -> Listener:
    """Not started yet; raises ConfigError where it can't listen."""
    settings = application.settings
    server = grpc.aio.server(
        maximum_concurrent_rpcs=settings.max_connections,
        options=[
            ("grpc.max_receive_message_length", settings.max_bytes + FRAMING),
            ("grpc.max_send_message_length", -1),
            ("grpc.server_handshake_timeout_ms", round(settings.receive_seconds * 1e3)),
            ("grpc.max_connection_idle_ms", IDLE_MS),
            ("grpc.so_reuseport", 0),
            *KEEPALIVE,
        ],
    )
    service = InferenceService(application, reception, access.keys)
    calls = max(1, settings.max_connections // SHARE)
    reflection = ReflectionService(
        (SERVICE, HEALTH, *NAMES[:1]), reception, access.keys, calls, settings.receive_seconds
    )
    handlers = [_handlers_of(service), _health_handlers_of(HealthService(application))]
    server.add_generic_rpc_handlers([*handlers, *reflection_handlers(reflection)])
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        if access.tls is None:
            port = server.add_insecure_port(address)
        else:
            pair = access.tls.key, access.tls.certificate
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    except RuntimeError as error:
        raise ConfigError(
            f"gRPC can't listen on {address}; choose another with --grpc-port, or do without: --no-grpc"
        ) from error
    return Listener(server, port)


def _handlers_of(service: InferenceService) -> grpc.GenericRpcHandler:
    """Of the methods that it has; the others answer UNIMPLEMENTED."""
    handlers = {}
    for method in pb.DESCRIPTOR.services_by_name[SERVICE.rpartition(".")[2]].methods:
        request, response = map(GetMessageClass, (method.input_type, method.output_type))
        kinds = request.FromString, response.SerializeToString
        if method.name in service.methods:
            handlers[method.name] = grpc.stream_unary_rpc_method_handler(partial(service.answer, method.name), *kinds)
    streams = pb.ModelInferRequest.FromString, pb.ModelStreamInferResponse.SerializeToString
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(service.stream, *streams)
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


def _health_handlers_of(service: HealthService) -> grpc.GenericRpcHandler:
    kinds = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
    handlers = {
        "Check": grpc.stream_unary_rpc_method_handler(service.check, *kinds),
        "Watch": grpc.stream_stream_rpc_method_handler(service.watch, *kinds),
    }
    return grpc.method_handlers_generic_handler(HEALTH, handlers)
