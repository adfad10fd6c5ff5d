"""The query of a predict request: the names, what they take, and the Options that they make."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import QueryParams

from tta_server.errors import InvalidInput
from tta_server.plan import Options


class PredictQuery(BaseModel):
    """Everything is optional; what is left out is the model's own setting."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    budget_ms: Annotated[
        float | None, Field(description="Milliseconds from the whole request read to its answer made.", examples=[200])
    ] = None
    policy: Annotated[
        str | None,
        Field(
            description="A preset's name (`GET /v1/policies`), or a JSON list of views, the plain one first.",
            examples=["hflip", '["identity", "hflip", {"rotate": 10}]'],
        ),
    ] = None
    max_views: Annotated[int | None, Field(ge=1, description="At most this many of the policy's views.")] = None
    min_views: Annotated[
        Annotated[int, Field(ge=1)] | Literal["all"] | None,
        Field(description="At least this many views, or an error; `all`: every planned one."),
    ] = None
    merge: Annotated[str | None, Field(description="How predictions merge; `GET /v1/models/{name}` lists them.")] = None
    stop: Annotated[str | None, Field(description="When to stop: `all`, every view that the budget allows.")] = None
    top_k: Annotated[int, Field(ge=1, description="How many classes to list.")] = 5
    include: Annotated[
        str, Field(description="Comma-separated: `views`, `agreement`, `probabilities`.", examples=["views,agreement"])
    ] = ""


def read_query(params: QueryParams) -> Options:
    """Raises InvalidInput that names the key, what was found, and what is allowed."""
    repeated = [key for key in params if len(params.getlist(key)) > 1]
    if repeated:
        raise InvalidInput(f"{repeated[0][:64]} is given more than once")
    try:
        query = PredictQuery.model_validate(dict(params))
    except ValidationError as error:
        raise InvalidInput(_sentence(error)) from None
    include = frozenset(part.strip() for part in query.include.split(",") if part.strip())
    return Options(**{**query.__dict__, "include": include})


def _sentence(error: ValidationError) -> str:
    mistake = error.errors(include_url=False)[0]
    key = str(mistake["loc"][0])[:64]
    if mistake["type"] == "extra_forbidden":
        return f"unknown query key {key!r}; known: {', '.join(PredictQuery.model_fields)}"
    if key == "min_views":
        return f"min_views takes a whole number of at least 1, or 'all', not {str(mistake['input'])[:64]!r}"
    allowed = mistake["msg"].removeprefix("Input should be ").split(", unable")[0]
    return f"{key} takes {allowed}, not {str(mistake['input'])[:64]!r}"


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
