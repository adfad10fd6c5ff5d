"""gRPC's server reflection, from which `grpcurl` learns services and messages without their .proto files."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from tta_server.api.auth import Keys
from tta_server.api.errors import GRPC_STATUS
from tta_server.api.oip.grpc_calls import UNREADABLE_MESSAGE, Context, Message, Messages, abort, call_of
from tta_server.api.requests import RequestHandler, RequestInfo
from tta_server.errors import Overloaded, TTAError

NAMES = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
"""The messages of both are the same; newer clients try the second first."""
METHOD = "ServerReflectionInfo"


class ReflectionService:
    """Describes `services`, given by their full names; needs a key if `keys` are given.

    At most `max_calls` are open. A call ends when no request has come for `idle_seconds`: clients keep calls open, and
    open another one when they need it.
    """

    def __init__(
        self, services: Sequence[str], handler: RequestHandler, keys: Keys | None, max_calls: int, idle_seconds: float
    ) -> None:
        self._servicer = aio.ReflectionServicer(services)
        self._handler = handler
        self._keys = keys
        self._max_calls = max_calls
        self._idle_seconds = idle_seconds
        self._open = 0

    async def answer(self, messages: Messages, context: Context) -> AsyncIterator[Message]:
        """The responses to one call's requests."""
        call = call_of(METHOD, context)
        try:
            self._admit(call.authorization)
        except TTAError as error:
            info = RequestInfo(call.request_id, f"/{NAMES[0]}/{METHOD}")
            self._handler.record_error(info, error, GRPC_STATUS[error.code].name)
            await abort(context, error)
        self._open += 1
        try:
            async for response in self._servicer.ServerReflectionInfo(self._until_idle(messages), context):
                yield response
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, UNREADABLE_MESSAGE)
        finally:
            self._open -= 1

    def _admit(self, authorization: str) -> None:
        """Raises Unauthenticated or Overloaded."""
        if self._keys is not None:
            self._keys.check(authorization)
        if self._open >= self._max_calls:
            raise Overloaded(f"the limit of {self._open} open reflection calls is reached; retry later", 1.0)

    async def _until_idle(self, messages: Messages) -> AsyncIterator[Message]:
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    request = await anext(messages)
            except (StopAsyncIteration, TimeoutError):
                return
            yield request


def reflection_handlers(service: ReflectionService) -> list[grpc.GenericRpcHandler]:
    """The handlers to add to a server, one for each of NAMES."""
    codecs = (
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {METHOD: grpc.stream_stream_rpc_method_handler(service.answer, *codecs)}
    return [grpc.method_handlers_generic_handler(name, handlers) for name in NAMES]
