"""What a request may ask, at every door under the same names: validated, and made into Options."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tta_server.errors import InvalidInput, shown
from tta_server.errors.validation import Mistake, explain
from tta_server.scheduling.jobs import Priority
from tta_server.serving.plan import Options


class PredictQuery(BaseModel):
    """Everything is optional; what is left out is the model's own setting."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    budget_ms: Annotated[
        float | None, Field(description="Milliseconds from the whole request read to its answer made.", examples=[200])
    ] = None
    priority: Annotated[
        Priority,
        Field(
            description="`batch` comes after all that is `interactive`, and before optional views only as far as its "
            "own budget needs."
        ),
    ] = Priority.INTERACTIVE
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
    stop: Annotated[
        str | None,
        Field(
            description="When to stop: `all`, every view that the budget allows; `certain`, when no view left could "
            'change the answer; `{"epsilon": 0.01}`, when calibration lets expect that it will not; `{"open": 0.01}`, '
            'when at most that share of a mask\'s pixels could still change; `{"tolerance": 0.5}`, when the standard '
            "error of a regression's mean is at most that.",
            examples=["certain", '{"epsilon": 0.01}'],
        ),
    ] = None
    top_k: Annotated[int, Field(ge=1, description="How many classes to list.")] = 5
    include: Annotated[
        str,
        Field(
            description="Comma-separated, what the task has of `views`, `agreement`, `probabilities`, `uncertainty`, "
            "`drawing`.",
            examples=["views,uncertainty"],
        ),
    ] = ""


class QuoteQuery(PredictQuery):
    """What a predict request would ask, and the size of its image."""

    width: Annotated[int, Field(ge=1, description="Pixels of the image to be quoted.")] = 512
    height: Annotated[int, Field(ge=1, description="Pixels of the image to be quoted.")] = 512


Q = TypeVar("Q", bound=PredictQuery)


def validated(kind: type[Q], values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Q:
    """`names` maps each key that is taken to what the client calls it; without it all of `kind`, by their own names.
    Raises InvalidInput that names the key, what was found, and what is allowed."""
    names = {key: key for key in kind.model_fields} if names is None else names
    for key in values:
        if key not in names:
            raise InvalidInput(f"unknown key {shown(key)}; known: {', '.join(names.values())}")
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise InvalidInput(_sentence(explain(error, values, kind)[0], names)) from None


def options_of(query: PredictQuery) -> Options:
    include = frozenset(part.strip() for part in query.include.split(",") if part.strip())
    asked = {key: getattr(query, key) for key in PredictQuery.model_fields}
    return Options(**{**asked, "include": include})


def read_options(values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Options:
    """Raises InvalidInput as `validated` does."""
    return options_of(validated(PredictQuery, values, names))


def at_most(options: Options, seconds: float) -> Options:
    """The same with a budget of at most so many seconds."""
    budget = options.budget_ms
    if budget is None or seconds * 1e3 < budget < math.inf:
        return replace(options, budget_ms=seconds * 1e3)
    return options


SPELLED = {
    "policy": "a preset's name or a list of views",
    "stop": "text, or a dict like {'epsilon': 0.01}",
    "include": "text or a list of names",
}
"""What may be given where HTTP has text."""


def as_query(options: Mapping[str, Any]) -> dict[str, Any]:
    """Python's spelling of the query's values: lists where HTTP has JSON and commas; None is as good as left out.
    Raises InvalidInput for what can't be spelled."""
    values = {key: value for key, value in options.items() if value is not None}
    for key, value in values.items():
        if isinstance(value, bool | np.bool_):
            raise InvalidInput(f"{key} takes no {value}; there is no option that is true or false")
        if key in SPELLED and not isinstance(value, str):
            values[key] = _spelled(key, value)
    return values


def _spelled(key: str, value: Any) -> str:
    if key == "include" and isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        return ",".join(map(str, value))
    if key != "include" and isinstance(value, list | tuple | dict):
        return _json(key, value)
    raise InvalidInput(f"{key} takes {SPELLED[key]}, not {shown(value)}")


def _json(key: str, value: Any) -> str:
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{key} is made of text, numbers, lists and dicts: {str(error)[:100]}") from None


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's own."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is none of these")


def _sentence(mistake: Mistake, names: Mapping[str, str]) -> str:
    return f"{names.get(mistake.key, mistake.key)} takes {mistake.text}, not {shown(mistake.found)}"
