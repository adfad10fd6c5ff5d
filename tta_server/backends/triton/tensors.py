"""Arrays as tensors of the Open Inference Protocol, and back."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from tta_server.backends.base import Outputs, Tensor

DTYPES: Mapping[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
"""The types of outputs that a backend returns."""
IMAGES: Mapping[str, type[np.generic]] = {name: DTYPES[name] for name in ("FP32", "FP16", "UINT8")}
"""The types that an image may have."""
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


def write_request(
    model: tuple[str, str], inputs: Mapping[str, Tensor], outputs: Iterable[str], seconds: float
) -> bytes:
    """An infer request for (name, version) of a model, as bytes; the server may drop it after that many seconds."""
    request = pb.ModelInferRequest(model_name=model[0], model_version=model[1])
    request.parameters["timeout"].int64_param = max(1, int(seconds * 1e6))
    for name, values in inputs.items():
        request.inputs.add(name=name, datatype=NAMES[values.dtype], shape=values.shape)
        request.raw_input_contents.append(values.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return bytes(request.SerializeToString())


def read_response(content: bytes, names: Iterable[str]) -> Outputs:
    """The tensors of these names, read-only. Raises ValueError if one is missing or malformed."""
    response = pb.ModelInferResponse.FromString(content)
    if len(response.raw_output_contents) != len(response.outputs):
        raise ValueError("the response has no raw output contents")
    found = {
        output.name: _array(output, raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"the response lacks the output {missing[0]}")
    return {name: found[name] for name in names}


def _array(output: Any, raw: bytes) -> Tensor:
    dtype = DTYPES.get(output.datatype)
    if dtype is None:
        raise ValueError(f"output {output.name} is {output.datatype}; it should be one of {', '.join(DTYPES)}")
    shape = tuple(output.shape)
    if math.prod(shape) * np.dtype(dtype).itemsize != len(raw):
        raise ValueError(f"output {output.name} has {len(raw)} bytes, which is not {output.datatype} {list(shape)}")
    return np.frombuffer(raw, dtype).reshape(shape)
