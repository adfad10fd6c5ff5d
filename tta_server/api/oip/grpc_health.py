"""gRPC's health checks: `grpc.health.v1.Health`."""

import asyncio
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1 import health_pb2

from tta_server.api.errors import GRPC_STATUS
from tta_server.api.oip.grpc import SERVICE
from tta_server.api.oip.grpc_calls import Context, Message, Messages, only
from tta_server.application import Application
from tta_server.errors import TTAError

HEALTH = "grpc.health.v1.Health"
WATCH_SECONDS = 0.5
"""Between two looks at what a Watch is told of."""


class HealthService:
    """Of the server (the empty name, or the service's), and of each model by its name. Asked without a key, so that no
    more than a share of the calls may be Watches."""

    def __init__(self, application: Application, watches: int) -> None:
        self._application = application
        self._most = watches
        self._watches = 0

    async def check(self, messages: Messages, context: Context) -> Message:
        request = await self._only(messages, context)
        status = self._status(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service[:64]!r}")
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(self, messages: Messages, context: Context) -> AsyncIterator[Message]:
        """At once, and whenever it has changed."""
        if self._watches >= self._most:
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
            serving = application.ready and not application.health.ill
        elif service in application.models:
            serving = application.is_ready(service)
        else:
            return None
        found = health_pb2.HealthCheckResponse
        return int(found.SERVING if serving else found.NOT_SERVING)


def health_handlers(service: HealthService) -> list[grpc.GenericRpcHandler]:
    kinds = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
    handlers = {
        "Check": grpc.stream_unary_rpc_method_handler(service.check, *kinds),
        "Watch": grpc.stream_stream_rpc_method_handler(service.watch, *kinds),
    }
    return [grpc.method_handlers_generic_handler(HEALTH, handlers)]
