"""One family of errors: each says what went wrong in one sentence and carries a code; doors say how."""

import json
from enum import StrEnum
from typing import Any

LONGEST = 64
"""Characters of a value that a sentence quotes."""


def shown(value: Any) -> str:
    """A value as a sentence quotes it: text in quotes, the rest as JSON, cut after LONGEST characters."""
    if isinstance(value, str):
        text = repr(value[:LONGEST])
        return text if len(value) <= LONGEST else f"{text[:-1]}...{text[-1]}"
    try:
        text = json.dumps(value, default=str, skipkeys=True)
    except (ValueError, RecursionError):
        return "a value too long to be quoted"
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


class Code(StrEnum):
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
    """Its text is one sentence that may reach a client: no path, no traceback, no backend text."""

    code = Code.INTERNAL


class InternalError(TTAError):
    """A mistake of ours: the log has the traceback."""


class InvalidInput(TTAError):
    code = Code.INVALID_INPUT


class BudgetTooSmall(InvalidInput):
    """Not even an idle pool could keep it; the sentence names the smallest that would do."""


class Unauthenticated(TTAError):
    code = Code.UNAUTHENTICATED


class Disabled(TTAError):
    """Offered only where whoever runs the server has said so."""

    code = Code.DISABLED


class ConfigError(TTAError):
    """A mistake in `tta.yaml` or in a model file: names file, key, what was found, what is allowed."""

    code = Code.INVALID_CONFIG


class UnknownModel(TTAError):
    code = Code.UNKNOWN_MODEL


class TooLarge(TTAError):
    code = Code.TOO_LARGE


class UnsupportedMedia(TTAError):
    code = Code.UNSUPPORTED_MEDIA


class Overloaded(TTAError):
    """Refused at once; `retry_after` is the number of seconds after which it would be admitted, `reason` what was
    short: time, jobs or bytes."""

    code = Code.OVERLOADED

    def __init__(self, message: str, retry_after: float, reason: str = "time") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reason = reason


class BackendFailed(TTAError):
    code = Code.BACKEND_FAILED


class NotReady(TTAError):
    code = Code.NOT_READY


class DeadlineExceeded(TTAError):
    code = Code.DEADLINE_EXCEEDED


class Cancelled(TTAError):
    """The client has left; nobody reads this."""

    code = Code.CANCELLED
