"""The gRPC server: inference, health checks and reflection."""

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

MESSAGE_OVERHEAD = 65_536
"""Bytes that a message may have besides its images."""
IDLE_MS = 60_000
"""A connection without a call is closed after this time; clients reconnect by themselves."""
KEEPALIVE = (("grpc.keepalive_time_ms", 60_000), ("grpc.keepalive_timeout_ms", 20_000))
"""Detects clients that have vanished without closing their connection."""
CALL_SHARE = 8
"""One in this number of calls may be a Watch, and one in this number reflection."""


@dataclass(frozen=True, slots=True)
class BoundServer:
    """A gRPC server and the port that it is bound to."""

    server: grpc.aio.Server
    port: int


def create_server(application: Application, handler: RequestHandler, access: Access) -> BoundServer:
    """A server that is bound but not started. Raises ConfigError if it can't listen."""
    settings = application.settings
    server = grpc.aio.server(
        maximum_concurrent_rpcs=settings.max_connections,
        options=[
            ("grpc.max_receive_message_length", settings.max_bytes + MESSAGE_OVERHEAD),
            ("grpc.max_send_message_length", -1),
            ("grpc.server_handshake_timeout_ms", round(settings.receive_seconds * 1e3)),
            ("grpc.max_connection_idle_ms", IDLE_MS),
            ("grpc.so_reuseport", 0),
            *KEEPALIVE,
        ],
    )
    calls = max(1, settings.max_connections // CALL_SHARE)
    services = (SERVICE, HEALTH, *NAMES[:1])
    inference = InferenceService(application, handler, access.keys)
    health = HealthService(application, calls)
    reflection = ReflectionService(services, handler, access.keys, calls, settings.receive_seconds)
    handlers = [_inference_handlers(inference), *health_handlers(health), *reflection_handlers(reflection)]
    server.add_generic_rpc_handlers(handlers)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return BoundServer(server, _bind(server, f"{host}:{settings.grpc_port}", access))


def _bind(server: grpc.aio.Server, address: str, access: Access) -> int:
    """The port. Raises ConfigError."""
    try:
        if access.tls is None:
            return int(server.add_insecure_port(address))
        pair = access.tls.key, access.tls.certificate
        return int(server.add_secure_port(address, grpc.ssl_server_credentials([pair])))
    except RuntimeError as error:
        raise ConfigError(
            f"gRPC can't listen on {address}; choose another port with --grpc-port, or turn gRPC off with --no-grpc"
        ) from error


def _inference_handlers(service: InferenceService) -> grpc.GenericRpcHandler:
    """Handlers of the methods that the service has; gRPC answers the others with UNIMPLEMENTED."""
    handlers = {}
    for method in pb.DESCRIPTOR.services_by_name[SERVICE.rpartition(".")[2]].methods:
        request, response = map(GetMessageClass, (method.input_type, method.output_type))
        codecs = request.FromString, response.SerializeToString
        if method.name in service.methods:
            handlers[method.name] = grpc.stream_unary_rpc_method_handler(partial(service.answer, method.name), *codecs)
    codecs = pb.ModelInferRequest.FromString, pb.ModelStreamInferResponse.SerializeToString
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(service.stream, *codecs)
    return grpc.method_handlers_generic_handler(SERVICE, handlers)
