"""The options of a request: validated by one pydantic model for all protocols, and made into Options."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field, ValidationError

from tta_server.errors import InvalidInput, shown
from tta_server.errors.validation import StrictModel, explain, explain_option
from tta_server.scheduling.jobs import Priority
from tta_server.serving.plan import Options


class PredictQuery(StrictModel):
    """Every option may be left out; the model's own setting then applies."""

    budget_ms: Annotated[
        float | None, Field(description="Milliseconds from the request received to its answer made.", examples=[200])
    ] = None
    priority: Annotated[
        Priority,
        Field(
            description="`batch` runs after all `interactive` requests, and before optional views only as far as its "
            "own budget needs."
        ),
    ] = Priority.INTERACTIVE
    policy: Annotated[
        str | None,
        Field(
            description="A preset's name (`GET /v1/policies`), or a JSON list of views, the plain view first.",
            examples=["hflip", '["identity", "hflip", {"rotate": 10}]'],
        ),
    ] = None
    max_views: Annotated[int | None, Field(ge=1, description="Run at most this many of the policy's views.")] = None
    min_views: Annotated[
        Annotated[int, Field(ge=1)] | Literal["all"] | None,
        Field(description="Run at least this many views, or fail; `all`: every planned view."),
    ] = None
    merge: Annotated[
        str | None, Field(description="How predictions are merged; `GET /v1/models/{name}` lists the rules.")
    ] = None
    stop: Annotated[
        str | None,
        Field(
            description="When to stop. `all`: after every view that the budget allows. `certain`: when no further view "
            'can change the answer. `{"epsilon": 0.01}`: when, by the calibration, the answer changes with this '
            'probability at most. `{"open": 0.01}`: when at most this share of a mask\'s pixels can still change. '
            '`{"tolerance": 0.5}`: when the standard error of a regression\'s mean is at most this.',
            examples=["certain", '{"epsilon": 0.01}'],
        ),
    ] = None
    top_k: Annotated[int, Field(ge=1, description="Number of classes to list.")] = 5
    include: Annotated[
        str,
        Field(
            description="Comma-separated parts to add: those of `views`, `agreement`, `probabilities`, `uncertainty`, "
            "`drawing` that the task has.",
            examples=["views,uncertainty"],
        ),
    ] = ""


class QuoteQuery(PredictQuery):
    """The options of a predict request, and the size of its image."""

    width: Annotated[int, Field(ge=1, description="Of the image, in pixels.")] = 512
    height: Annotated[int, Field(ge=1, description="Of the image, in pixels.")] = 512


Q = TypeVar("Q", bound=PredictQuery)


def validate(kind: type[Q], values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Q:
    """The options in `values`; `names` maps the allowed keys to the client's names for them, by default to themselves.

    Raises InvalidInput that names the key, what was found, and what is allowed.
    """
    names = {key: key for key in kind.model_fields} if names is None else names
    for key in values:
        if key not in names:
            raise InvalidInput(f"unknown key {shown(key)}; known: {', '.join(names.values())}")
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        mistake = explain(error, values, kind)[0]
        raise InvalidInput(explain_option(mistake, names.get(mistake.key, mistake.key))) from None


def options_of(query: PredictQuery) -> Options:
    """The query as the predictor's options."""
    include = frozenset(part.strip() for part in query.include.split(",") if part.strip())
    options = {key: getattr(query, key) for key in PredictQuery.model_fields}
    return Options(**{**options, "include": include})


def read_options(values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Options:
    """Raises InvalidInput as `validate` does."""
    return options_of(validate(PredictQuery, values, names))


def limit_budget(options: Options, seconds: float) -> Options:
    """The options with a budget of at most this number of seconds; an infinite budget stays, to be refused."""
    budget = options.budget_ms
    if budget is None or seconds * 1e3 < budget < math.inf:
        return replace(options, budget_ms=seconds * 1e3)
    return options


PYTHON_SPELLINGS = {
    "policy": "a preset's name or a list of views",
    "stop": "text, or a dict like {'epsilon': 0.01}",
    "include": "text or a list of names",
}
"""Python values of options that are text over HTTP."""


def as_query(options: Mapping[str, Any]) -> dict[str, Any]:
    """Python values as the query's: lists and dicts become text as HTTP spells them, None is left out.

    Raises InvalidInput for a value that has no such text.
    """
    values = {key: value for key, value in options.items() if value is not None}
    for key, value in values.items():
        if isinstance(value, bool | np.bool_):
            raise InvalidInput(f"{key} takes no {value}; no option is true or false")
        if key in PYTHON_SPELLINGS and not isinstance(value, str):
            values[key] = _spell(key, value)
    return values


def _spell(key: str, value: Any) -> str:
    if key == "include" and isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        return ",".join(map(str, value))
    if key != "include" and isinstance(value, list | tuple | dict):
        return _json(key, value)
    raise InvalidInput(f"{key} takes {PYTHON_SPELLINGS[key]}, not {shown(value)}")


def _json(key: str, value: Any) -> str:
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{key} is made of text, numbers, lists and dicts: {str(error)[:100]}") from None


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's own."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is none of these")
