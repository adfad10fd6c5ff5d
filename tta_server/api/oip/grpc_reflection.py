"""gRPC's server reflection: what `grpcurl` asks to learn services and messages without their .proto files."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from tta_server.api.auth import Keys
from tta_server.api.errors import GRPC_STATUS
from tta_server.api.oip.grpc_calls import UNREADABLE, Context, Message, Messages, abort, call_of
from tta_server.api.requests import RequestHandler, RequestInfo
from tta_server.errors import Overloaded, TTAError

NAMES = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
"""Newer clients ask the second first; the messages of both are the same."""
METHOD = "ServerReflectionInfo"


class ReflectionService:
    """Answers questions about `services`, given by their full names; a key is needed where other methods need one.

    At most `calls` are open. Each is ended when no question has come for `seconds`: clients keep a call open, and open
    another one when they need it.
    """

    def __init__(
        self, services: Sequence[str], reception: RequestHandler, keys: Keys | None, calls: int, seconds: float
    ) -> None:
        self._servicer = aio.ReflectionServicer(services)
        self._reception = reception
        self._keys = keys
        self._most = calls
        self._seconds = seconds
        self._open = 0

    async def answer(self, messages: Messages, context: Context) -> AsyncIterator[Message]:
        call = call_of(METHOD, context)
        try:
            self._admit(call.authorization)
        except TTAError as error:
            self._reception.failed(
                RequestInfo(call.request_id, f"/{NAMES[0]}/{METHOD}"), error, GRPC_STATUS[error.code].name
            )
            await abort(context, error)
        self._open += 1
        try:
            async for response in self._servicer.ServerReflectionInfo(self._questions(messages), context):
                yield response
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, UNREADABLE)
        finally:
            self._open -= 1

    def _admit(self, authorization: str) -> None:
        """Raises Unauthenticated or Overloaded."""
        if self._keys is not None:
            self._keys.check(authorization)
        if self._open >= self._most:
            raise Overloaded(f"{self._open} reflection calls are open, the most taken; come back later", 1.0)

    async def _questions(self, messages: Messages) -> AsyncIterator[Message]:
        while True:
            try:
                async with asyncio.timeout(self._seconds):
                    question = await anext(messages)
            except (StopAsyncIteration, TimeoutError):
                return
            yield question


def reflection_handlers(service: ReflectionService) -> list[grpc.GenericRpcHandler]:
    kinds = (
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {METHOD: grpc.stream_stream_rpc_method_handler(service.answer, *kinds)}
    return [grpc.method_handlers_generic_handler(name, handlers) for name in NAMES]
