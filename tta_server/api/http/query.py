"""The query of predict and quote requests: read, and described for OpenAPI."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from tta_server.api.http_request import query_values, read_timeout
from tta_server.errors import InvalidInput
from tta_server.serving.options import PredictQuery, Q, QuoteQuery, limit_budget, options_of, validate
from tta_server.serving.plan import Options
from tta_server.views.geometry import Size


def read_query(request: Request, form: Mapping[str, str] | None = None) -> Options:
    """The options of the query and the form together.

    Raises InvalidInput that names the key, what was found, and what is allowed.
    """
    return _with_timeout(options_of(_read(PredictQuery, request, form or {})), request)


def read_quote(request: Request) -> tuple[Size, Options]:
    """The size of the image and the options; raises as `read_query` does."""
    query = _read(QuoteQuery, request, {})
    return Size(query.width, query.height), _with_timeout(options_of(query), request)


def _read(kind: type[Q], request: Request, form: Mapping[str, str]) -> Q:
    params = query_values(request)
    for key in params:
        if key in form:
            raise InvalidInput(f"{key} is given more than once: in the query and in the form")
    return validate(kind, {**params, **form})


def _with_timeout(options: Options, request: Request) -> Options:
    """The timeout header, which proxies pass on, is a budget too: the smaller one applies."""
    seconds = read_timeout(request)
    return options if seconds is None else limit_budget(options, seconds)


def openapi_properties(kind: type[PredictQuery] = PredictQuery) -> dict[str, dict[str, Any]]:
    """The options as the properties of a form."""
    properties = _properties(kind).items()
    return {name: {"description": schema["description"], **_without_null(schema)} for name, schema in properties}


def openapi_parameters(kind: type[PredictQuery] = PredictQuery) -> list[dict[str, Any]]:
    """The options as parameters of the query, and the timeout header."""
    header = {
        "name": "X-Request-Timeout-Ms",
        "in": "header",
        "required": False,
        "description": "A budget in milliseconds, as proxies pass it on; the smaller budget applies.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    }
    return [*_query_parameters(_properties(kind)), header]


def _properties(kind: type[PredictQuery]) -> dict[str, dict[str, Any]]:
    schema = kind.model_json_schema()
    return {key: _resolve(found, schema) for key, found in schema["properties"].items()}


def _resolve(found: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Replace a reference by what it refers to."""
    if "$ref" not in found:
        return found
    named = schema["$defs"][found["$ref"].rpartition("/")[2]]
    return {"type": named["type"], "enum": named["enum"], **{k: v for k, v in found.items() if k != "$ref"}}


def _query_parameters(properties: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema["description"],
            "schema": _without_null(schema),
        }
        for name, schema in properties.items()
    ]


def _without_null(found: dict[str, Any]) -> dict[str, Any]:
    """The schema without null, which stands for an option that is left out: a query can't contain null."""
    schema = {key: found[key] for key in found if key not in ("title", "description", "anyOf", "default")}
    if found.get("default") not in (None, ""):
        schema["default"] = found["default"]
    kinds = [kind for kind in found.get("anyOf", []) if kind != {"type": "null"}]
    return schema | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})
