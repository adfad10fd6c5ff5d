"""The text of Triton's config.pbtxt: for a model, for a graph made here, and for an ensemble of them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

LADDER = (1, 2, 4, 8, 16, 32, 64)
"""Preferred batch sizes of a model that states none; the last is the most rows of a request."""

MAP_NAMES = {"rows": "map_rows", "x": "map_x", "y": "map_y"}
"""What the ensemble calls inputs of a tail for maps whose names the front has too."""

MADE, MODEL_OUTPUT = "made_input", "model_output"
"""Tensors between the ensemble's steps: the front's output, and the output that the tail sums."""


class TensorConfig(NamedTuple):
    """A tensor by name; -1 is a free axis, `reshape` the shape that the model's file has instead of `dims`."""

    name: str
    dtype: DTypeLike
    dims: Sequence[int]
    reshape: Sequence[int] | None = None


class Step(NamedTuple):
    """A step of an ensemble: the model's name, and the ensemble's tensors by the names that the model has for them."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def model_config(
    name: str, inputs: Iterable[TensorConfig], outputs: Iterable[TensorConfig], ladder: Sequence[int] = ()
) -> str:
    """Return the text for an ONNX file whose requests are batched to a size of `ladder`; empty: not batched."""
    lines = [f"name: {_quoted(name)}", 'platform: "onnxruntime_onnx"', f"max_batch_size: {max(ladder, default=0)}"]
    lines += [*_tensors("input", inputs), *_tensors("output", outputs)]
    if max(ladder, default=0) > 1:
        lines.append(f"dynamic_batching {{ preferred_batch_size: {list(ladder)} }}")
    return "\n".join(lines) + "\n"


def ensemble_config(
    name: str,
    inputs: Iterable[TensorConfig],
    outputs: Iterable[TensorConfig],
    steps: Iterable[Step],
    parameters: Mapping[str, str],
) -> str:
    """Return the text for an ensemble."""
    lines = [f"name: {_quoted(name)}", 'platform: "ensemble"', "max_batch_size: 0"]
    lines += [*_tensors("input", inputs), *_tensors("output", outputs)]
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}")
    lines.append("ensemble_scheduling {")
    for step in steps:
        lines += ["  step {", f"    model_name: {_quoted(step.model)}", "    model_version: -1"]
        lines += [*_map("input_map", step.inputs), *_map("output_map", step.outputs), "  }"]
    return "\n".join([*lines, "}"]) + "\n"


def _map(kind: str, names: Mapping[str, str]) -> Iterable[str]:
    return (f"    {kind} {{ key: {_quoted(key)} value: {_quoted(value)} }}" for key, value in names.items())


def _tensors(kind: str, tensors: Iterable[TensorConfig]) -> Iterable[str]:
    for each in tensors:
        reshape = "" if each.reshape is None else f" reshape {{ shape: {list(each.reshape)} }}"
        stated = (
            f"name: {_quoted(each.name)} data_type: TYPE_{_config_type(each.dtype)} dims: {list(each.dims)}{reshape}"
        )
        yield f"{kind} {{ {stated} }}"


def type_name(dtype: DTypeLike) -> str:
    """Return the protocol's name of a type, like FP32."""
    kind = np.dtype(dtype)
    names = {"f": "FP", "i": "INT", "u": "UINT"}
    return f"{names[kind.kind]}{8 * kind.itemsize}" if kind.kind in names else _OTHERS[kind.kind]


_OTHERS = {"b": "BOOL", "O": "BYTES", "U": "BYTES", "S": "BYTES"}


def _config_type(dtype: DTypeLike) -> str:
    name = type_name(dtype)
    return "STRING" if name == "BYTES" else name


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
