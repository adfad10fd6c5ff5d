"""The OpenAPI document of the Open Inference Protocol."""

from typing import Any

from tta_server.api.oip.http_codec import HEADER_LENGTH
from tta_server.api.openapi import BINARY, NAME, PREDICT_STATUSES, error_docs

VERSION = {
    "name": "version",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "The version that is loaded; no other one is served.",
    "example": "1",
}

TENSOR: dict[str, Any] = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string", "enum": ["IMAGE", "PIXELS"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string", "enum": ["BYTES", "UINT8"]},
        "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}},
        "data": {"type": "array", "description": "Nested or flat; base64 for IMAGE.", "items": {}},
    },
}

REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {
            "type": "object",
            "properties": {
                "timeout": {"type": "integer", "minimum": 0, "description": "The budget in microseconds."},
                "priority": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "0 and 1 are interactive, higher ones batch.",
                },
                "binary_data_output": {"type": "boolean"},
                "tta_policy": {"type": "string"},
                "tta_max_views": {"type": "integer", "minimum": 1},
                "tta_min_views": {"type": ["integer", "string"]},
                "tta_merge": {"type": "string"},
                "tta_stop": {"type": "string"},
                "tta_include": {"type": "string"},
            },
        },
        "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": TENSOR},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
                },
            },
        },
    },
}

EXAMPLE_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFElEQVR4nGNsSHBgwAaYsIoOWgkA5ggBMD+AHvMAAAAASUVORK5CYII="
"""8x8 brown pixels as PNG."""

REQUEST_EXAMPLE = {
    "parameters": {"timeout": 100_000, "tta_max_views": 2},
    "inputs": [{"name": "IMAGE", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE_PNG]}],
    "outputs": [{"name": "LABEL"}],
}

RESPONSE_EXAMPLE = {
    "model_name": "clothing",
    "model_version": "1",
    "parameters": {"tta_views": 2, "tta_planned": 2, "tta_stop": "all_views", "tta_elapsed_ms": 7.656},
    "outputs": [{"name": "LABEL", "datatype": "BYTES", "shape": [1, 1], "data": ["t-shirt"]}],
}

HEADER_LENGTH_PARAMETER = {
    "name": HEADER_LENGTH,
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 0},
    "description": "Length of the JSON in bytes; the binary tensors follow. 0: the whole body is one image, "
    "and the query has the options of predict.",
}


def _operation(summary: str, *statuses: int, **more: Any) -> dict[str, Any]:
    answer = {"description": "The requested object", "content": {"application/json": {"schema": {"type": "object"}}}}
    errors = {str(status): docs for status, docs in error_docs(*statuses, 401).items()}
    return {"tags": ["Open Inference Protocol"], "summary": summary, "responses": {"200": answer, **errors}, **more}


def _infer(*path: dict[str, Any]) -> dict[str, Any]:
    operation = _operation(
        "Predict images from several views",
        *PREDICT_STATUSES,
        description="`IMAGE` BYTES [B] or [B, 1]: image files; or `PIXELS` UINT8 [H, W, 3] or [B, H, W, 3]. "
        "See docs/protocol.md.",
        parameters=[*path, HEADER_LENGTH_PARAMETER],
        requestBody={
            "required": True,
            "content": {
                "application/json": {"schema": REQUEST, "example": REQUEST_EXAMPLE},
                "application/octet-stream": BINARY,
            },
        },
    )
    operation["responses"]["200"] = {
        "description": "The requested tensors, and the receipt as parameters",
        "content": {"application/json": {"example": RESPONSE_EXAMPLE}, "application/octet-stream": BINARY},
    }
    return operation


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {
        "/v2": {"get": _operation("The server's name, version and extensions")},
        "/v2/health/live": {"get": _operation("Liveness: whether the process works", 503)},
        "/v2/health/ready": {"get": _operation("Readiness: whether the server takes requests", 503)},
        "/v2/models/stats": {"get": _operation("Statistics of every model")},
    }
    for prefix, path in (("/v2/models/{name}", [NAME]), ("/v2/models/{name}/versions/{version}", [NAME, VERSION])):
        paths |= {
            prefix: {"get": _operation("A model's inputs and outputs", 404, 503, parameters=path)},
            f"{prefix}/ready": {"get": _operation("Whether a model takes requests", 404, 503, parameters=path)},
            f"{prefix}/config": {"get": _operation("A model's configuration", 404, 503, parameters=path)},
            f"{prefix}/stats": {"get": _operation("A model's statistics", 404, 503, parameters=path)},
            f"{prefix}/infer": {"post": _infer(*path)},
        }
    index = _operation("The models of the folder, loaded or not", 400, 413, 415, 429)
    index["responses"]["200"]["content"]["application/json"]["schema"] = {"type": "array", "items": {"type": "object"}}
    paths["/v2/repository/index"] = {"post": index}
    for verb in ("load", "unload"):
        errors = (400, 403, 404, 413, 415, 429)
        operation = _operation(f"{verb.capitalize()} a model; needs --model-control", *errors, parameters=[NAME])
        operation["responses"]["200"] = {"description": "Done"}
        paths[f"/v2/repository/models/{{name}}/{verb}"] = {"post": operation}
    return paths


PROTOCOL_DOCS = _paths()
