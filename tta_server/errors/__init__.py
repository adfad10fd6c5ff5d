"""One family of errors: each has a sentence for the client and a `code`.

The tables `HTTP_STATUS` and `GRPC_STATUS` of `api/errors.py` map every code to its HTTP and gRPC status.
"""

import json
from enum import StrEnum
from typing import Any

LONGEST = 64
"""Characters of a value that a sentence quotes."""


def shown(value: Any) -> str:
    """A value as a sentence quotes it: text in quotes, anything else as JSON, cut after LONGEST characters."""
    if isinstance(value, str):
        text = repr(value[:LONGEST])
        return text if len(value) <= LONGEST else f"{text[:-1]}...{text[-1]}"
    try:
        text = json.dumps(value, default=str, skipkeys=True)
    except (ValueError, RecursionError):
        return "a value too long to be quoted"
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def printable(name: str) -> str:
    """A name from a client for a sentence: cut after LONGEST characters, escaped if it is not printable."""
    return name[:LONGEST] if name.isprintable() else ascii(name[:LONGEST])


class Code(StrEnum):
    """The `code` of an error's JSON."""

    INVALID_INPUT = "invalid_input"
    UNAUTHENTICATED = "unauthenticated"
    DISABLED = "disabled"
    INVALID_CONFIG = "invalid_config"
    UNKNOWN_MODEL = "unknown_model"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA = "unsupported_media"
    OVERLOADED = "overloaded"
    BACKEND_FAILED = "backend_failed"
    NOT_READY = "not_ready"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class TTAError(Exception):
    """The base class. Its text is one sentence that a client may read: without paths, tracebacks or library text."""

    code = Code.INTERNAL


class InternalError(TTAError):
    """A bug, or a failure that only a restart repairs; the log has the traceback."""


class InvalidInput(TTAError):
    """A request's option, tensor or image is wrong; names it and what is allowed."""

    code = Code.INVALID_INPUT


class BudgetTooSmall(InvalidInput):
    """Even an idle pool could not keep the budget; names the smallest that it could."""


class Unauthenticated(TTAError):
    """The key is missing or unknown."""

    code = Code.UNAUTHENTICATED


class Disabled(TTAError):
    """The operation is switched off by the server's settings."""

    code = Code.DISABLED


class ConfigError(TTAError):
    """A setting or a file of the operator is wrong; names the file, the key, what was found and what is allowed.

    Ends a command; loading a model over HTTP or gRPC turns it into InvalidInput.
    """

    code = Code.INVALID_CONFIG


class UnknownModel(TTAError):
    """No model of that name or version is loaded."""

    code = Code.UNKNOWN_MODEL


class TooLarge(TTAError):
    """Too many bytes, pixels, images or views for the limits."""

    code = Code.TOO_LARGE


class UnsupportedMedia(TTAError):
    """The image's format or layout, or the body's encoding, is not supported."""

    code = Code.UNSUPPORTED_MEDIA


class Overloaded(TTAError):
    """The request was refused at once, to be retried.

    `retry_after` is the number of seconds after which it would be admitted, `reason` what is short: time, jobs,
    bytes, or api (time of the event loop).
    """

    code = Code.OVERLOADED

    def __init__(self, message: str, retry_after: float, reason: str = "time") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reason = reason


class BackendFailed(TTAError):
    """The model failed on this image, or gave no finite prediction."""

    code = Code.BACKEND_FAILED


class OutOfDeviceMemory(BackendFailed):
    """The device has no memory for a batch of this size; a smaller one may run."""


class DeviceLost(BackendFailed):
    """The device can't run anything any more, until a new process opens it."""


class WrongDeclaration(BackendFailed):
    """The model's output is not what tta.yaml states; `check` is the id of the check that found it."""

    def __init__(self, message: str, check: str = "") -> None:
        super().__init__(message)
        self.check = check


class NotReady(TTAError):
    """The server or the model is warming up, unhealthy or shutting down."""

    code = Code.NOT_READY


class BackendUnavailable(NotReady):
    """The server elsewhere that runs a model can't be reached, or does not serve it now; the cause says why.

    `device` and `permits` are those of its backend, where no model could be made.
    """

    def __init__(self, message: str, device: str = "", permits: int = 0) -> None:
        super().__init__(message)
        self.device = device
        self.permits = permits

    @property
    def reason(self) -> str:
        """The sentence for the operator: with the cause, which names the server."""
        return f"{self} ({self.__cause__})" if self.__cause__ else str(self)


class DeadlineExceeded(TTAError):
    """The budget ended before the mandatory views were done, or the request was not received in time."""

    code = Code.DEADLINE_EXCEEDED


class Cancelled(TTAError):
    """The client disconnected; only the log has this."""

    code = Code.CANCELLED
