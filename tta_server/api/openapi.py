"""What the OpenAPI documents of both HTTP interfaces share: errors, and the model in a path."""

from typing import Any

ERROR_SCHEMA = {
    "type": "object",
    "required": ["error", "code"],
    "properties": {
        "error": {"type": "string", "description": "One sentence: what was wrong and what is allowed."},
        "code": {"type": "string"},
        "retry_after_ms": {"type": "integer", "description": "With 429: when the request would be admitted."},
    },
}

MEANINGS = {
    401: "A key is missing or unknown; only of a server that requires keys",
    403: "Disabled on this server",
    400: "An invalid option, policy or image",
    404: "Unknown model",
    413: "Too many bytes or pixels",
    415: "An unsupported image format or layout",
    429: "Overloaded: retry after Retry-After",
    502: "The model failed on this image",
    503: "Not ready yet, failed to load, or shutting down",
    504: "The budget ended before the mandatory views were done",
}


PREDICT_STATUSES = tuple(status for status in MEANINGS if status != 403)


def error_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation for these error statuses."""
    return {
        status: {"description": MEANINGS[status], "content": {"application/json": {"schema": ERROR_SCHEMA}}}
        for status in statuses
    }


BINARY = {"schema": {"type": "string", "format": "binary"}}

NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "A model of `GET /v1/models`.",
    "example": "clothing",
}
