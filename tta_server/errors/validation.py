"""Errors of pydantic and PyYAML as sentences of our own; their text reaches no client."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from tta_server.errors import printable, shown

ALLOWED: dict[str, str] = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dataclass_type": "keys with values",
    "dict_type": "keys with values",
    "finite_number": "a finite number",
    "json_invalid": "JSON",
    "list_type": "a list",
    "mapping_type": "keys with values",
    "model_attributes_type": "keys with values",
    "model_type": "keys with values",
    "none_required": "null",
    "path_type": "a path",
    "string_type": "text",
    "string_unicode": "text in UTF-8",
    "tuple_type": "a list",
}
"""Error type of pydantic -> what is allowed."""

NUMBERS: dict[str, str] = {
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
}
DIGITS = 4300
"""The most of a whole number that Python reads from text."""
LIMITS: dict[str, tuple[str, str]] = {
    "greater_than": ("gt", "over {}"),
    "greater_than_equal": ("ge", "of at least {}"),
    "less_than": ("lt", "under {}"),
    "less_than_equal": ("le", "of at most {}"),
}
"""Error type -> the key of its bound, and how the bound is written."""
LENGTHS: dict[str, tuple[str, str]] = {
    "too_short": ("min_length", "a list of at least {}"),
    "too_long": ("max_length", "a list of at most {}"),
    "string_too_short": ("min_length", "text of at least {} characters"),
    "string_too_long": ("max_length", "text of at most {} characters"),
}
CHOICES = ("enum", "literal_error")
UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
VALIDATOR = ("value_error", "assertion_error")
"""Raised by our own validators: their text is a sentence already."""


class StrictModel(BaseModel):
    """An immutable model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Mistake:
    """An error at one place: `place` is its keys and indices from the top, `found` the value there.

    `kind` is `value`, with what is allowed as `text`; `stated`, with our validator's sentence as `text`; or, without
    text, `unknown`, `missing` or `not_text` for a key.
    """

    place: tuple[int | str, ...]
    kind: str
    found: Any
    text: str = ""

    @property
    def key(self) -> str:
        """The place, printable."""
        return printable(".".join(map(str, self.place)))


def explain(error: ValidationError, values: Any, model: type[BaseModel] | None = None) -> list[Mistake]:
    """The mistakes in `values`, one for each place; `model` adds the bounds of its fields to what is allowed."""
    found: dict[tuple[int | str, ...], Mistake] = {}
    for entry in error.errors(include_url=False):
        mistake = _mistake(dict(entry), values, model)
        before = found.get(mistake.place)
        found[mistake.place] = mistake if before is None else _either(before, mistake)
    return [mistake for place, mistake in found.items() if not any(_within(other, place) for other in found)]


def _mistake(entry: dict[str, Any], values: Any, model: type[BaseModel] | None) -> Mistake:
    kind, value = entry["type"], entry["input"]
    place = tuple(_place(entry["loc"], values, kind))
    if kind in UNKNOWN_KEY:
        return Mistake(place, "unknown", value)
    if kind in ("missing", "missing_argument"):
        return Mistake(place, "missing", None)
    if kind == "invalid_key":
        return Mistake(place, "not_text", value)
    context = entry.get("ctx", {})
    if kind in VALIDATOR:
        return Mistake(place, "stated", value, str(context["error"]))
    limits = limits_of(model.model_fields[str(place[0])]) if model and len(place) == 1 else {}
    return Mistake(place, "value", value, allowed(kind, context, limits))


def allowed(kind: str, context: Mapping[str, Any], limits: Mapping[str, Any]) -> str:
    """What is allowed where pydantic found an error of that type.

    `context` is the error's own, `limits` the bounds of the field, as `ge`, `gt`, `le`, `lt`.
    """
    if kind in CHOICES:
        return str(context["expected"])
    if kind in LENGTHS:
        key, words = LENGTHS[kind]
        return words.format(context[key])
    if kind in LIMITS:
        key, _ = LIMITS[kind]
        limits = limits or {key: context[key]}
        return _bounded("a whole number" if isinstance(context[key], int) else "a number", limits)
    if kind in NUMBERS:
        words = _bounded(NUMBERS[kind], limits)
        if kind != "int_parsing_size" or {"le", "lt"} & set(limits):
            return words
        return f"{words} {'and' if limits else 'with'} at most {DIGITS} digits"
    return ALLOWED.get(kind, "something else")


def _bounded(noun: str, limits: Mapping[str, Any]) -> str:
    if "ge" in limits and "le" in limits:
        return f"{noun} from {_digits(limits['ge'])} to {_digits(limits['le'])}"
    parts = [words.format(_digits(limits[key])) for key, words in LIMITS.values() if key in limits]
    return " ".join([noun, " and ".join(parts)]) if parts else noun


def _digits(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def limits_of(field: FieldInfo) -> dict[str, Any]:
    """For `allowed`: the bounds of a field's numbers, also inside a union."""
    inner = [part for choice in get_args(field.annotation) for part in getattr(choice, "__metadata__", ())]
    stated = [*field.metadata, *(entry for part in inner for entry in getattr(part, "metadata", [part]))]
    return {key: getattr(entry, key) for entry in stated for key, _ in LIMITS.values() if hasattr(entry, key)}


def _place(location: Sequence[int | str], values: Any, kind: str) -> Iterator[int | str]:
    """The location without the branches of unions that pydantic adds: the parts that are in the values."""
    for number, part in enumerate(location, start=1):
        inner = _part(values, part)
        if inner is None and (number < len(location) or kind not in ("missing", "missing_argument", "invalid_key")):
            continue
        values = inner[0] if inner else None
        yield part


def _part(values: Any, part: int | str) -> tuple[Any] | None:
    """The value at that key or index, None if there is none."""
    if isinstance(values, Mapping) and part in values:
        return (values[part],)
    if isinstance(values, list | tuple) and isinstance(part, int) and part < len(values):
        return (values[part],)
    return None


def _either(one: Mistake, other: Mistake) -> Mistake:
    """The mistake of two branches of a union for one value."""
    if one.kind != "value" or other.kind != "value":
        return one if one.kind == "stated" else other
    if one.text == other.text:
        return one
    return Mistake(one.place, "value", one.found, f"{one.text}, or {other.text}")


def _within(inner: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    """A mistake inside a value is more specific than that the value matches no other branch of a union."""
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def explain_option(mistake: Mistake, name: str) -> str:
    """A sentence for an option or a setting; `name` is the user's name for it."""
    if mistake.kind == "stated":
        return f"{name}: {mistake.text}"
    return f"{name} takes {mistake.text}, not {shown(mistake.found)}"


def explain_value(mistake: Mistake, known: Sequence[str]) -> str:
    """A sentence for a value in a file; `known` are the keys that are allowed in the place of an unknown one."""
    key = mistake.key or "the file"
    match mistake.kind:
        case "unknown":
            return f"unknown key {key}; known: {', '.join(known)}"
        case "not_text":
            return f"the key {key} is not text"
        case "missing":
            return f"{key} is missing"
        case "stated":
            return mistake.text if mistake.text.startswith(mistake.key) else f"{mistake.key}: {mistake.text}"
        case _:
            return f"{key} is {shown(mistake.found)}; it should be {mistake.text}"


def explain_yaml(error: Exception) -> str:
    """Why a file is not YAML, as the end of a sentence that begins with its path."""
    if isinstance(error, UnicodeDecodeError):
        return "is not text in UTF-8"
    mark = getattr(error, "problem_mark", None)
    if not isinstance(mark, yaml.error.Mark):
        return "is not valid YAML"
    tab = "; indent with spaces, not tabs" if "\\t" in str(getattr(error, "problem", "")) else ""
    return f"is not valid YAML in line {mark.line + 1}, column {mark.column + 1}{tab}"
