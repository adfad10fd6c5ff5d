"""The query of a predict request over HTTP."""

from typing import Any

from starlette.datastructures import QueryParams

from tta_server.errors import InvalidInput
from tta_server.plan import Options
from tta_server.query import PredictQuery, read_options


def read_query(params: QueryParams) -> Options:
    """Raises InvalidInput that names the key, what was found, and what is allowed."""
    repeated = [key for key in params if len(params.getlist(key)) > 1]
    if repeated:
        raise InvalidInput(f"{repeated[0][:64]} is given more than once")
    return read_options(params)


def openapi_parameters() -> list[dict[str, Any]]:
    """The query as OpenAPI lists it."""
    properties = PredictQuery.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": found["description"],
            "schema": _without_null(found),
        }
        for name, found in properties.items()
    ]


def _without_null(found: dict[str, Any]) -> dict[str, Any]:
    """A parameter's own schema: one that is left out is null in Python, but nobody can send null in a query."""
    schema = {key: found[key] for key in found if key not in ("title", "description", "anyOf", "default")}
    if found.get("default") not in (None, ""):
        schema["default"] = found["default"]
    kinds = [kind for kind in found.get("anyOf", []) if kind != {"type": "null"}]
    return schema | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})
