"""The protocol's infer request and answer as HTTP bodies: JSON, with tensors in it or in bytes behind it."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from tta_server.api.oip.semantics import OURS, InferRequest, refuse_foreign, refuse_options
from tta_server.api.oip.tensors import IMAGE, MOST_VALUES, InputTensor, OutputTensor, printable, read_shape
from tta_server.errors import InvalidInput, shown

JSON_PLACE = re.compile(r"at line (\d+) column (\d+)")
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request, and which of its outputs are to come as bytes: those named in `binary`, and `binary_rest` says what of
    the others."""

    request: InferRequest
    binary: Mapping[str, bool]
    binary_rest: bool = False


def read_header_length(value: str | None, body: int) -> int | None:
    """How many bytes of the body are JSON, None for all; raises InvalidInput."""
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= 20) or int(value) > body:
        raise InvalidInput(f"{HEADER_LENGTH} is the length of the JSON in a body of {body} bytes, not {value[:64]!r}")
    return int(value)


def read_raw(body: bytes, model: str, version: str, accept: str, query: Mapping[str, str] | None = None) -> Envelope:
    """The whole body is one image and `query` its options; the answer's tensors are bytes, unless the client says that
    it takes JSON."""
    tensor = InputTensor(IMAGE, "BYTES", (1,), [body])
    return Envelope(InferRequest(model, version, [tensor], query=query or {}), {}, "application/json" not in accept)


def refuse_query(query: Iterable[str]) -> None:
    """Raises InvalidInput for any key."""
    for key in query:
        raise InvalidInput(
            f"unknown key {shown(key)} in the query of a request in JSON; options go into its parameters, as "
            f"{', '.join(OURS)}, timeout and priority"
        )


def read_infer(body: bytes, header_length: int | None, model: str, version: str) -> Envelope:
    """So many bytes of the body are JSON, or all. Raises InvalidInput."""
    head = body if header_length is None else body[:header_length]
    rest = memoryview(b"" if header_length is None else body)[len(head) :]
    told = read_object(head)
    refuse_options(told, "beside the inputs")
    parameters = _parameters(told)
    inputs, used = [], 0
    for entry in _entries(told, "inputs"):
        tensor, size = _read_input(entry, rest[used:])
        inputs.append(tensor)
        used += size
    if used != len(rest):
        raise InvalidInput(f"{len(rest)} bytes follow the JSON; the inputs' binary_data_size say {used}")
    wishes = {_name(entry): _parameters(entry) for entry in _entries(told, "outputs")}
    for name, wish in wishes.items():
        refuse_foreign(wish, name)
    for entry in _entries(told, "outputs"):
        refuse_options(entry, f"with the tensor {printable(_name(entry))}")
    if len(wishes) < len(_entries(told, "outputs")):
        raise InvalidInput("an output is asked for twice")
    identity = _given(told, "id", "")
    if not isinstance(identity, str):
        raise InvalidInput(f"id is a text, not {shown(identity)}")
    request = InferRequest(model, version, inputs, list(wishes), parameters, identity)
    everything = read_switch(parameters, "binary_data_output")
    binary = {name: read_switch(wish, "binary_data", everything) for name, wish in wishes.items()}
    return Envelope(request, binary, everything)


def read_object(body: bytes) -> dict[str, Any]:
    """Raises InvalidInput."""
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise InvalidInput(f"the JSON has over {MOST_VALUES} values, the most taken; send large tensors as binary data")
    try:
        return _object(from_json(body), "the body")
    except ValueError as error:
        raise InvalidInput(f"the body is not JSON: {_reason(error)}") from None


JSON_REASONS = {
    "EOF": "it ends too early",
    "trailing comma": "a comma is one too many",
    "trailing characters": "more follows its value",
    "recursion": "it is nested too deeply",
    "out of range": "a number has too many digits",
    "unicode": "a text is not UTF-8",
    "": "it can't be read",
}
"""What a parser's words hold -> what a client is told."""


def _reason(error: ValueError) -> str:
    """Of the parser's words only the place."""
    words = str(error)
    reason = next(told for key, told in JSON_REASONS.items() if key in words)
    place = JSON_PLACE.search(words)
    return f"{reason} (line {place[1]}, column {place[2]})" if place else reason


def _object(found: Any, what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise InvalidInput(f"{what} is an object in JSON, not {shown(found)}")
    return found


def _given(told: dict[str, Any], key: str, default: Any) -> Any:
    """null is as good as left out."""
    value = told.get(key)
    return default if value is None else value


def _entries(told: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = _given(told, key, [])
    if not isinstance(found, list):
        raise InvalidInput(f"{key} is a list of tensors, not {shown(found)}")
    return [_object(entry, f"an entry of {key}") for entry in found]


def _name(entry: dict[str, Any]) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise InvalidInput(f"a tensor has a name, a text, not {shown(name)}")
    return name


def _parameters(told: dict[str, Any]) -> dict[str, Any]:
    found = _object(_given(told, "parameters", {}), "parameters")
    for key, value in found.items():
        if not isinstance(value, bool | int | float | str):
            raise InvalidInput(f"the parameter {key[:64]!r} is a text, a number, true or false, not {shown(value)}")
    return found


def read_switch(parameters: Mapping[str, Any], key: str, default: bool = False) -> bool:
    """Raises InvalidInput."""
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"{key} is true or false, not {shown(value)}")
    return value


def _read_input(entry: dict[str, Any], rest: memoryview) -> tuple[InputTensor, int]:
    """The tensor, and how many of the bytes behind the JSON it took."""
    name, parameters = _name(entry), _parameters(entry)
    refuse_foreign(parameters, name)
    refuse_options(entry, f"with the tensor {printable(name)}")
    shape = read_shape(entry.get("shape"), name)
    datatype = entry.get("datatype")
    if not isinstance(datatype, str):
        raise InvalidInput(f"the datatype of {printable(name)} is a text, not {shown(datatype)}")
    if "binary_data_size" not in parameters:
        data = entry.get("data")
        if not isinstance(data, list):
            raise InvalidInput(f"{printable(name)} has neither data, a list, nor binary_data_size")
        return InputTensor(name, datatype, shape, data), 0
    size = parameters["binary_data_size"]
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InvalidInput(
            f"binary_data_size of {printable(name)} is {shown(size)}, but {len(rest)} bytes are left behind the JSON; "
            f"is {HEADER_LENGTH} right?"
        )
    return InputTensor(name, datatype, shape, bytes(rest[:size])), size


def write_infer(
    envelope: Envelope, version: str, tensors: Sequence[OutputTensor], parameters: Mapping[str, Any]
) -> tuple[bytes, int | None]:
    """The body, and how much of it is JSON where bytes follow."""
    request = envelope.request
    entries, chunks = [], []
    for tensor in tensors:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if envelope.binary.get(tensor.name, envelope.binary_rest):
            chunks.append(tensor.raw())
            entry["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            if tensor.array.size > MOST_VALUES:
                raise InvalidInput(
                    f"{tensor.name} has {tensor.array.size} values; at most {MOST_VALUES} are told in JSON: ask for "
                    "binary_data"
                )
            entry["data"] = tensor.listed()
        entries.append(entry)
    told = {
        "model_name": request.model,
        "model_version": version,
        "parameters": _finite(parameters),
        "outputs": entries,
    }
    head = to_json({"id": request.id, **told} if request.id else told)
    return b"".join([head, *chunks]), len(head) if chunks else None


def _finite(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if not isinstance(value, float) or math.isfinite(value)}
