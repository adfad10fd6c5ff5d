"""The gRPC server: the protocol's service, and gRPC's own health checks."""

from dataclasses import dataclass
from functools import partial

import grpc
from google.protobuf.message_factory import GetMessageClass
from tritonclient.grpc import service_pb2 as pb

from tta_server.api.auth import Access
from tta_server.api.oip.grpc import SERVICE, InferenceService
from tta_server.api.oip.grpc_health import HEALTH, HealthService, health_handlers
from tta_server.api.oip.grpc_reflection import NAMES, ReflectionService, reflection_handlers
from tta_server.api.requests import RequestHandler
from tta_server.application import Application
from tta_server.errors import ConfigError

FRAMING = 65_536
"""Bytes that a message may have besides its images."""
IDLE_MS = 60_000
"""A connection without a call is closed after this time; clients open another one by themselves."""
KEEPALIVE = (("grpc.keepalive_time_ms", 60_000), ("grpc.keepalive_timeout_ms", 20_000))
"""A client that has vanished without a word is found out."""
SHARE = 8
"""One in so many calls may be a Watch, and as many may be about reflection."""


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
    health = HealthService(application, calls)
    handlers = [_handlers_of(service), *health_handlers(health), *reflection_handlers(reflection)]
    server.add_generic_rpc_handlers(handlers)
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
