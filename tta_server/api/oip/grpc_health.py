"""gRPC's health checks: `grpc.health.v1.Health`."""

import asyncio
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1 import health_pb2

from tta_server.api.errors import GRPC_STATUS
from tta_server.api.oip.grpc import SERVICE
from tta_server.api.oip.grpc_calls import Context, Message, Messages, receive_one
from tta_server.application import Application
from tta_server.errors import TTAError

HEALTH = "grpc.health.v1.Health"
WATCH_SECONDS = 0.5
"""How often a Watch looks for a change."""


class HealthService:
    """Health of the server (the empty name, or that of the inference service) and of each model (its name).

    Needs no key, so at most `max_watches` calls may be Watches.
    """

    def __init__(self, application: Application, max_watches: int) -> None:
        self._application = application
        self._max_watches = max_watches
        self._watches = 0

    async def check(self, messages: Messages, context: Context) -> Message:
        request = await self._receive(messages, context)
        status = self._status(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service[:64]!r}")
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(self, messages: Messages, context: Context) -> AsyncIterator[Message]:
        """The status now and whenever it changes."""
        if self._watches >= self._max_watches:
            sentence = f"the limit of {self._watches} open Watch calls is reached; retry later"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, sentence)
        self._watches += 1
        try:
            request, last = await self._receive(messages, context), None
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

    async def _receive(self, messages: Messages, context: Context) -> Message:
        try:
            return await receive_one(messages, self._application.settings.receive_seconds)
        except TTAError as error:
            await context.abort(GRPC_STATUS[error.code], str(error))

    def _status(self, service: str) -> int | None:
        """None for an unknown service."""
        application = self._application
        if service in ("", SERVICE):
            serving = application.is_serving
        elif application.knows(service):
            serving = application.is_ready(service)
        else:
            return None
        statuses = health_pb2.HealthCheckResponse
        return int(statuses.SERVING if serving else statuses.NOT_SERVING)


def health_handlers(service: HealthService) -> list[grpc.GenericRpcHandler]:
    """The handlers to add to a server."""
    codecs = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
    handlers = {
        "Check": grpc.stream_unary_rpc_method_handler(service.check, *codecs),
        "Watch": grpc.stream_stream_rpc_method_handler(service.watch, *codecs),
    }
    return [grpc.method_handlers_generic_handler(HEALTH, handlers)]
