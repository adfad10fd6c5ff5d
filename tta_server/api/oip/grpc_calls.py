"""What the gRPC services share: a call, its one message, its error."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from tta_server.api.errors import GRPC_STATUS
from tta_server.api.requests import choose_request_id
from tta_server.api.spans import TRACERESPONSE, traceresponse
from tta_server.errors import Cancelled, DeadlineExceeded, InvalidInput, Overloaded, TTAError
from tta_server.telemetry.tracing import RequestTrace, Tracer

DEADLINE_ROUNDING = 0.99
"""gRPC rounds deadlines of a second and more up, to three significant digits, when it sends them."""

UNREADABLE_MESSAGE = "the message is not a valid request of this method"

Context: TypeAlias = Any
"""A `grpc.aio.ServicerContext`: gRPC has no types."""
Message: TypeAlias = Any
Messages: TypeAlias = AsyncIterator[Message]


@dataclass(frozen=True, slots=True)
class Call:
    """One request over gRPC.

    `received` is when its whole message had arrived, in seconds of the monotonic clock; `seconds` is what was left of
    the client's deadline then, None without one. `parent` are the client's `traceparent` and `tracestate`.
    `access` is the digest of the client's key.
    """

    method: str
    request_id: str
    authorization: str
    context: Context
    received: float = 0.0
    seconds: float | None = None
    parent: tuple[str, str] = ("", "")
    trace: RequestTrace | None = None
    access: bytes = b""

    def received_now(self) -> "Call":
        """The call when its message has arrived."""
        left: float | None = self.context.time_remaining()
        if left is not None:
            left = None if left == inf else max(left if left < 1 else left * DEADLINE_ROUNDING, 1e-6)
        return replace(self, received=time.monotonic(), seconds=left)

    def traced(self, tracer: Tracer, service: str) -> "Call":
        """The call with its trace; end it with `end_trace`."""
        method = f"{service}/{self.method}"
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        trace = tracer.begin(method, attributes, *self.parent)
        return self if trace is None else replace(self, trace=trace)

    def name_trace(self) -> None:
        """Names the span of a recorded call in its trailing metadata."""
        if self.trace is not None and self.trace.is_recorded:
            self.context.set_trailing_metadata(((TRACERESPONSE, traceresponse(self.trace)),))

    def end_trace(self) -> None:
        """Ends the trace, as OK if no error was recorded."""
        if self.trace is not None:
            self.trace.end(grpc.StatusCode.OK.name)


def call_of(method: str, context: Context) -> Call:
    """The call with what its metadata contains; its message is not read yet."""
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return Call(
        method,
        choose_request_id(metadata.get("x-request-id")),
        metadata.get("authorization", ""),
        context,
        parent=(metadata.get("traceparent", ""), metadata.get("tracestate", "")),
    )


async def receive_one(messages: Messages, seconds: float) -> Message:
    """The one message of a call.

    Raises DeadlineExceeded if it does not arrive in time, Cancelled if the client disconnects first, InvalidInput if it
    can't be parsed.
    """
    try:
        async with asyncio.timeout(seconds):
            return await anext(messages)
    except StopAsyncIteration:
        raise Cancelled("the client disconnected before its request was read") from None
    except DecodeError:
        raise InvalidInput(UNREADABLE_MESSAGE) from None
    except TimeoutError:
        raise DeadlineExceeded(f"the request was not received within {seconds:g} s (--receive-seconds)") from None


async def abort(context: Context, error: TTAError) -> None:
    """Raise the error as gRPC's; with `retry-after-ms` in the trailing metadata for Overloaded."""
    trailing = list(context.trailing_metadata() or ())
    if isinstance(error, Overloaded):
        trailing.append(("retry-after-ms", str(ceil(error.retry_after * 1e3))))
    await context.abort(GRPC_STATUS[error.code], str(error), tuple(trailing))
