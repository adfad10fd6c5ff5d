"""Infer requests and responses as HTTP bodies: JSON, with the tensors in it or as bytes after it."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from tta_server.api.oip.semantics import TTA_PARAMETERS, InferRequest, reject_misplaced_options, reject_unsupported
from tta_server.api.oip.tensors import IMAGE, MAX_LISTED_VALUES, InputTensor, OutputTensor, read_shape
from tta_server.errors import InvalidInput, printable, shown

JSON_PLACE = re.compile(r"at line (\d+) column (\d+)")
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request, and which outputs to send as bytes: `binary` by name, `binary_default` for the others."""

    request: InferRequest
    binary: Mapping[str, bool]
    binary_default: bool = False


def read_header_length(value: str | None, body: int) -> int | None:
    """The number of bytes of the body that are JSON, None for all; raises InvalidInput."""
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= 20) or int(value) > body:
        raise InvalidInput(
            f"{HEADER_LENGTH} takes the length of the JSON in a body of {body} bytes, not {value[:64]!r}"
        )
    return int(value)


def read_raw(body: bytes, model: str, version: str, accept: str, query: Mapping[str, str] | None = None) -> Envelope:
    """A request whose whole body is one image and whose query has the options.

    The outputs are bytes unless the client accepts JSON.
    """
    tensor = InputTensor(IMAGE, "BYTES", (1,), [body])
    return Envelope(InferRequest(model, version, [tensor], query=query or {}), {}, "application/json" not in accept)


def reject_query(query: Iterable[str]) -> None:
    """Raises InvalidInput for any key: only a request without JSON has options in its query."""
    for key in query:
        raise InvalidInput(
            f"unknown key {shown(key)} in the query of a JSON request; put options into its parameters, as "
            f"{', '.join(TTA_PARAMETERS)}, timeout and priority"
        )


def read_infer(body: bytes, header_length: int | None, model: str, version: str) -> Envelope:
    """A request of which the first `header_length` bytes, or all, are JSON. Raises InvalidInput."""
    head = body if header_length is None else body[:header_length]
    binary = memoryview(b"" if header_length is None else body)[len(head) :]
    payload = read_object(head)
    reject_misplaced_options(payload, "beside the inputs")
    parameters = _parameters(payload)
    inputs = _read_inputs(_entries(payload, "inputs"), binary)
    outputs = _read_outputs(_entries(payload, "outputs"))
    request_id = _get(payload, "id", "")
    if not isinstance(request_id, str):
        raise InvalidInput(f"id takes a string, not {shown(request_id)}")
    request = InferRequest(model, version, inputs, list(outputs), parameters, request_id)
    binary_default = read_bool(parameters, "binary_data_output")
    return Envelope(
        request,
        {name: read_bool(requested, "binary_data", binary_default) for name, requested in outputs.items()},
        binary_default,
    )


def _read_inputs(entries: list[dict[str, Any]], binary: memoryview) -> list[InputTensor]:
    inputs, used = [], 0
    for entry in entries:
        tensor, size = _read_input(entry, binary[used:])
        inputs.append(tensor)
        used += size
    if used != len(binary):
        raise InvalidInput(
            f"{len(binary)} bytes follow the JSON, but the binary_data_size of the inputs add up to {used}"
        )
    return inputs


def _read_outputs(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The names of the requested outputs, with their parameters."""
    outputs = {_name(entry): _parameters(entry) for entry in entries}
    for name, parameters in outputs.items():
        reject_unsupported(parameters, name)
    for entry in entries:
        reject_misplaced_options(entry, f"with the tensor {printable(_name(entry))}")
    if len(outputs) < len(entries):
        raise InvalidInput("an output is requested twice")
    return outputs


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises InvalidInput."""
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_LISTED_VALUES:
        raise InvalidInput(
            f"the JSON exceeds the limit of {MAX_LISTED_VALUES} values; send large tensors as binary data"
        )
    try:
        return _object(from_json(body), "the body")
    except ValueError as error:
        raise InvalidInput(f"the body is not JSON: {_reason(error)}") from None


JSON_REASONS = {
    "EOF": "it is truncated",
    "trailing comma": "it has a comma too many",
    "trailing characters": "more follows its value",
    "recursion": "it is nested too deeply",
    "out of range": "a number has too many digits",
    "unicode": "a string is not UTF-8",
    "": "its syntax is invalid",
}
"""Part of the parser's text -> what the client is sent."""


def _reason(error: ValueError) -> str:
    text = str(error)
    reason = next(reason for key, reason in JSON_REASONS.items() if key in text)
    place = JSON_PLACE.search(text)
    return f"{reason} (line {place[1]}, column {place[2]})" if place else reason


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} is an object in JSON, not {shown(value)}")
    return value


def _get(payload: dict[str, Any], key: str, default: Any) -> Any:
    """The default also for null."""
    value = payload.get(key)
    return default if value is None else value


def _entries(payload: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = _get(payload, key, [])
    if not isinstance(entries, list):
        raise InvalidInput(f"{key} takes a list of tensors, not {shown(entries)}")
    return [_object(entry, f"an entry of {key}") for entry in entries]


def _name(entry: dict[str, Any]) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise InvalidInput(f"the name of a tensor is a string, not {shown(name)}")
    return name


def _parameters(payload: dict[str, Any]) -> dict[str, Any]:
    parameters = _object(_get(payload, "parameters", {}), "parameters")
    for key, value in parameters.items():
        if not isinstance(value, bool | int | float | str):
            raise InvalidInput(
                f"the parameter {key[:64]!r} takes a string, a number, true or false, not {shown(value)}"
            )
    return parameters


def read_bool(parameters: Mapping[str, Any], key: str, default: bool = False) -> bool:
    """Raises InvalidInput."""
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"{key} takes true or false, not {shown(value)}")
    return value


def _read_input(entry: dict[str, Any], binary: memoryview) -> tuple[InputTensor, int]:
    """The tensor, and how many of the remaining bytes after the JSON are its own."""
    name, parameters = _name(entry), _parameters(entry)
    reject_unsupported(parameters, name)
    reject_misplaced_options(entry, f"with the tensor {printable(name)}")
    shape = read_shape(entry.get("shape"), name)
    datatype = entry.get("datatype")
    if not isinstance(datatype, str):
        raise InvalidInput(f"the datatype of {printable(name)} is a string, not {shown(datatype)}")
    if "binary_data_size" not in parameters:
        data = entry.get("data")
        if not isinstance(data, list):
            raise InvalidInput(f"{printable(name)} has neither data, a list, nor binary_data_size")
        return InputTensor(name, datatype, shape, data), 0
    size = parameters["binary_data_size"]
    if type(size) is not int or not 0 <= size <= len(binary):
        raise InvalidInput(
            f"binary_data_size of {printable(name)} is {shown(size)}, but {len(binary)} bytes are left after the JSON; "
            f"check {HEADER_LENGTH}"
        )
    return InputTensor(name, datatype, shape, bytes(binary[:size])), size


def write_infer(
    envelope: Envelope, version: str, tensors: Sequence[OutputTensor], parameters: Mapping[str, Any]
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON, None if no bytes follow. Raises InvalidInput."""
    request = envelope.request
    entries, chunks = [], []
    for tensor in tensors:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if envelope.binary.get(tensor.name, envelope.binary_default):
            chunks.append(tensor.raw())
            entry["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            entry["data"] = _listed(tensor)
        entries.append(entry)
    payload = {
        "model_name": request.model,
        "model_version": version,
        "parameters": _finite(parameters),
        "outputs": entries,
    }
    head = to_json({"id": request.id, **payload} if request.id else payload)
    return b"".join([head, *chunks]), len(head) if chunks else None


def _listed(tensor: OutputTensor) -> list[Any]:
    if tensor.array.size > MAX_LISTED_VALUES:
        raise InvalidInput(
            f"{tensor.name} has {tensor.array.size} values; at most {MAX_LISTED_VALUES} are allowed in JSON: request "
            "binary_data"
        )
    return tensor.listed()


def _finite(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and infinities."""
    return {key: value for key, value in parameters.items() if not isinstance(value, float) or math.isfinite(value)}
