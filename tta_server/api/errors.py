"""Errors over HTTP and gRPC: one total table for each, and the responses."""

import math
from typing import Any

import grpc
from starlette.responses import JSONResponse

from tta_server.errors import Code, Overloaded, TTAError, Unauthenticated

HTTP_STATUS: dict[Code, int] = {
    Code.INVALID_INPUT: 400,
    Code.UNAUTHENTICATED: 401,
    Code.DISABLED: 403,
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
"""The status of every code; 499 appears in the log only, its client has disconnected."""

GRPC_STATUS: dict[Code, grpc.StatusCode] = {
    Code.INVALID_INPUT: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Code.DISABLED: grpc.StatusCode.PERMISSION_DENIED,
    Code.INVALID_CONFIG: grpc.StatusCode.INTERNAL,
    Code.UNKNOWN_MODEL: grpc.StatusCode.NOT_FOUND,
    Code.TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNSUPPORTED_MEDIA: grpc.StatusCode.INVALID_ARGUMENT,
    Code.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.CANCELLED: grpc.StatusCode.CANCELLED,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
    Code.BACKEND_FAILED: grpc.StatusCode.INTERNAL,
    Code.NOT_READY: grpc.StatusCode.UNAVAILABLE,
    Code.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""The gRPC status of every code."""

INTERNAL_ERROR = "internal error; quote this request id to the operator"
"""The message to a client for an unexpected error."""

STATUS_CODES = {404: "not_found", 405: "method_not_allowed", 408: "too_slow", 503: "overloaded"}
"""The `code` of a status that comes from no TTAError."""


def error_body(error: TTAError) -> dict[str, Any]:
    """`{"error", "code"}`, and `retry_after_ms` for Overloaded."""
    body: dict[str, Any] = {"error": str(error), "code": error.code}
    if isinstance(error, Overloaded):
        body["retry_after_ms"] = math.ceil(error.retry_after * 1e3)
    return body


def error_response(error: TTAError) -> JSONResponse:
    """`error_body` with its status, and `Retry-After` or `WWW-Authenticate` where they apply."""
    headers = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error), HTTP_STATUS[error.code], headers)


def status_body(status: int, sentence: str) -> dict[str, Any]:
    """As `error_body`, for an error that is no TTAError: an unknown path, too many connections."""
    return {"error": sentence, "code": STATUS_CODES.get(status, "invalid_input" if status < 500 else "internal")}


def status_response(status: int, sentence: str) -> JSONResponse:
    """`status_body` with its status."""
    return JSONResponse(status_body(status, sentence), status)
