"""The OpenAPI documents of predict and quote; tests run their examples."""

from typing import Any

from tta_server.api.http.query import openapi_parameters, openapi_properties
from tta_server.api.openapi import BINARY, NAME, PREDICT_STATUSES, error_docs
from tta_server.serving.options import QuoteQuery

DESCRIPTION = """\
Test-time augmentation: the server runs the model on up to K views of an image, merges the predictions, and answers
within the budget.

    curl --data-binary @photo.jpg 'http://127.0.0.1:8000/v1/models/clothing/predict?budget_ms=100'
"""

EXAMPLE = {
    "model": "clothing",
    "version": "1",
    "task": "classification",
    "prediction": {"top": [{"label": "t-shirt", "index": 9, "probability": 0.9319561123847961}]},
    "receipt": {
        "views": [{"name": "plain", "weight": 1.0}, {"name": "hflip", "weight": 1.0}],
        "planned": 2,
        "started": 2,
        "dropped": 0,
        "merge": "mean_probabilities",
        "stop": "all",
        "stop_reason": "all_views",
        "confidence": 0.931956,
        "budget_ms": 200.0,
        "elapsed_ms": 7.656,
        "stages_ms": {"decode": 3.037, "prepare": 0.121, "queue": 0.142, "infer": 6.392, "merge": 0.106},
        "policy": {"name": "flip_and_shifts", "version": "1", "digest": "sha256:3a880bc1..."},
        "request_id": "16a5cd7037ce474caa30bd40edd812b0",
    },
}

STREAM = {
    "schema": {"type": "string"},
    "example": "event: partial\ndata: {...}\n\nevent: answer\ndata: {...}\n\n",
}

PREDICT_DOCS: dict[str, Any] = {
    "tags": ["predict"],
    "summary": "Predict one image from several views",
    "description": "The body is the image itself, or multipart/form-data with a file in the field `image`. Options may "
    "also be fields of that form, named as in the query; each is given once.",
    "operationId": "predict",
    "parameters": [NAME, *openapi_parameters()],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}, **openapi_properties()},
                    "additionalProperties": False,
                }
            },
            "application/octet-stream": BINARY,
            "image/*": BINARY,
        },
    },
    "responses": {
        "200": {
            "description": "The merged prediction and its receipt. With `Accept: image/png`, the label mask. With "
            "`Accept: text/event-stream`, an event `partial` after each batch of views, then `answer` or `error`",
            "content": {"application/json": {"example": EXAMPLE}, "image/png": BINARY, "text/event-stream": STREAM},
        },
        **{str(status): docs for status, docs in error_docs(*PREDICT_STATUSES).items()},
    },
}

QUOTE_EXAMPLE = {
    "model": "clothing",
    "image": {"width": 400, "height": 533},
    "budget_ms": 15.0,
    "admitted": True,
    "retry_after_ms": 0,
    "views": 4,
    "planned": 8,
    "expected": 8,
    "ms": 13.1,
    "by_views": [{"views": 1, "ms": 5.2, "disagreement": None}, {"views": 2, "ms": 7.8, "disagreement": None}],
}

QUOTE_DOCS: dict[str, Any] = {
    "tags": ["predict"],
    "summary": "Estimate what a request would get now",
    "description": "Upper estimates at the current load. `disagreement` is the share of the calibration images whose "
    "top class after this number of views differs from that after all views; null without a calibration.",
    "operationId": "quote",
    "parameters": [NAME, *openapi_parameters(QuoteQuery)],
    "responses": {
        "200": {
            "description": "Whether the request would be admitted, and the time for each number of views",
            "content": {"application/json": {"example": QUOTE_EXAMPLE}},
        },
        **{str(status): docs for status, docs in error_docs(400, 401, 404, 413, 503).items()},
    },
}
