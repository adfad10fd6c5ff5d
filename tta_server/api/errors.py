"""Errors as HTTP says them: one total table."""

import math
from typing import Any

from starlette.responses import JSONResponse

from tta_server.errors import Code, Overloaded, TTAError

STATUS: dict[Code, int] = {
    Code.INVALID_INPUT: 400,
    Code.INVALID_CONFIG: 500,
    Code.UNKNOWN_MODEL: 404,
    Code.TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA: 415,
    Code.OVERLOADED: 429,
    Code.CANCELLED: 499,
    Code.INTERNAL: 500,
    Code.BACKEND_FAILED: 502,
    Code.NOT_READY: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
"""Every code has a status; 499 is never read, its client has left."""

PLAIN_CODES = {404: "not_found", 405: "method_not_allowed"}


def error_body(error: TTAError) -> dict[str, Any]:
    """`{"error", "code"}`; for Overloaded also when to come back."""
    body: dict[str, Any] = {"error": str(error), "code": error.code}
    if isinstance(error, Overloaded):
        body["retry_after_ms"] = math.ceil(error.retry_after * 1e3)
    return body


def error_response(error: TTAError) -> JSONResponse:
    headers = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return JSONResponse(error_body(error), STATUS[error.code], headers)


def plain_response(status: int, sentence: str) -> JSONResponse:
    """For what the web framework refuses itself: unknown paths, wrong methods."""
    body = {"error": sentence, "code": PLAIN_CODES.get(status, "invalid_input" if status < 500 else "internal")}
    return JSONResponse(body, status)
