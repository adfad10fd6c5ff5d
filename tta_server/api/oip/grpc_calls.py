"""What the gRPC services share: a call, its one message, its error."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError

from tta_server.api.errors import GRPC_STATUS
from tta_server.api.requests import new_id
from tta_server.errors import Cancelled, DeadlineExceeded, InvalidInput, Overloaded, TTAError

WIRE = 0.99
"""gRPC rounds deadlines from a second on up to three digits when it sends them."""

UNREADABLE = "the bytes of the message are not those of a request of this method"

Context: TypeAlias = Any
"""A `grpc.aio.ServicerContext`: gRPC has no types."""
Message: TypeAlias = Any
Messages: TypeAlias = AsyncIterator[Message]


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `received` whole at that time of the monotonic clock, to be answered within `seconds` by the
    client's own deadline, None without one."""

    method: str
    request_id: str
    authorization: str
    context: Context
    received: float = 0.0
    seconds: float | None = None

    def arrived(self) -> "Call":
        """Its message is here."""
        left: float | None = self.context.time_remaining()
        if left is not None:
            left = None if left == inf else max(left if left < 1 else left * WIRE, 1e-6)
        return replace(self, received=time.monotonic(), seconds=left)


def call_of(method: str, context: Context) -> Call:
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return Call(method, new_id(metadata.get("x-request-id")), metadata.get("authorization", ""), context)


async def only(messages: Messages, seconds: float) -> Message:
    """The one message of a call. Raises DeadlineExceeded where it does not arrive in time, Cancelled where it never
    will, InvalidInput where its bytes are no message."""
    try:
        async with asyncio.timeout(seconds):
            return await anext(messages)
    except StopAsyncIteration:
        raise Cancelled("the client left before its request was read") from None
    except DecodeError:
        raise InvalidInput(UNREADABLE) from None
    except TimeoutError:
        raise DeadlineExceeded(f"the request did not arrive whole within {seconds:g} s") from None


async def abort(context: Context, error: TTAError) -> None:
    """Raises what gRPC has for that."""
    trailing = []
    if isinstance(error, Overloaded):
        trailing.append(("retry-after-ms", str(ceil(error.retry_after * 1e3))))
    await context.abort(GRPC_STATUS[error.code], str(error), tuple(trailing))
