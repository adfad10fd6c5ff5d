"""Who waits for an answer."""

from collections.abc import Callable
from dataclasses import dataclass

from tta_server.telemetry.tracing import RequestTrace

Listener = Callable[[], None]
"""Called when `ImageJob.partial` has a new answer; runs on a slot's thread and must not block it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller's side of a request.

    `listener` is called after each batch of views but the last. The protocol needs `reserve` seconds of the budget to
    send the answer. The budget counts from `received`, in seconds of the monotonic clock, by default from now. `trace`
    is None where the request has none. Only callers of equal `access`, the digest of their bearer key, may get each
    other's answers.
    """

    request_id: str
    listener: Listener | None = None
    reserve: float = 0.0
    received: float | None = None
    trace: RequestTrace | None = None
    access: bytes = b""
