"""The Open Inference Protocol's tensors: what came to images, answers to what goes out. Shared by HTTP and gRPC."""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.api.base64 import decode_base64
from tta_server.errors import InvalidInput, shown
from tta_server.serving.answer import Answer
from tta_server.serving.image import Image
from tta_server.tasks.base import TensorSpec, texts

IMAGE, PIXELS, RECEIPT = "IMAGE", "PIXELS", "RECEIPT"

DATATYPES: dict[type[np.generic], str] = {
    np.bool_: "BOOL",
    np.uint8: "UINT8",
    np.uint16: "UINT16",
    np.int32: "INT32",
    np.int64: "INT64",
    np.float32: "FP32",
    np.object_: "BYTES",
}
"""What the protocol calls the types that tasks answer with."""

RECEIPT_SPEC = TensorSpec(RECEIPT, np.object_, (1,), usual=False)
"""Of each image its receipt as JSON; every task has it."""

MOST_VALUES = 1_000_000
"""Values that come one by one, in JSON or typed: Python takes up to 0.2 s for so many, and others wait so long."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class InputTensor:
    """One tensor as it came: its bytes (BYTES with 4-byte lengths), or a list of elements, nested or flat."""

    name: str
    datatype: str
    shape: Shape
    data: bytes | Sequence[Any]


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One tensor of the answer: `array` has `shape`, texts are objects."""

    name: str
    array: NDArray[Any]

    @property
    def datatype(self) -> str:
        return DATATYPES[self.array.dtype.type]

    @property
    def shape(self) -> Shape:
        return self.array.shape

    def raw(self) -> bytes:
        """Little-endian, row by row; a text is its length in 4 bytes, then itself in UTF-8."""
        if self.array.dtype != np.object_:
            return self.array.astype(self.array.dtype.newbyteorder("<"), copy=False).tobytes()
        return b"".join(struct.pack("<I", len(data)) + data for data in (t.encode() for t in self.array.ravel()))

    def listed(self) -> list[Any]:
        """Flat, row by row."""
        elements: list[Any] = self.array.ravel().tolist()
        return elements


# ---- what came ----


def read_shape(found: Any, name: str) -> Shape:
    """A list of whole numbers from 0 on; raises InvalidInput."""
    if (
        not isinstance(found, list | tuple)
        or len(found) > 8
        or not all(type(size) is int and 0 <= size < 2**63 for size in found)
    ):
        raise InvalidInput(f"the shape of {printable(name)} is a list of whole numbers from 0 on, not {shown(found)}")
    return tuple(found)


def printable(name: str) -> str:
    """A name that a client made up, fit for a sentence."""
    return name[:64] if name.isprintable() else ascii(name[:64])


def read_images(tensors: Sequence[InputTensor], most: int) -> list[Image]:
    """The images of a request, at most so many: from IMAGE [B] or [B, 1], encoded, or from PIXELS [H, W, 3] or
    [B, H, W, 3]. Raises InvalidInput."""
    if len(tensors) != 1:
        found = ", ".join(printable(tensor.name) for tensor in tensors[:8]) or "none"
        raise InvalidInput(f"a request has one input, {IMAGE} or {PIXELS}, not {len(tensors)}: {found}")
    (tensor,) = tensors
    if tensor.name not in READERS:
        raise InvalidInput(f"unknown input {tensor.name[:64]!r}; inputs are {IMAGE} (BYTES) and {PIXELS} (UINT8)")
    datatype, reader = READERS[tensor.name]
    if tensor.datatype != datatype:
        raise InvalidInput(f"{tensor.name} has the datatype {datatype}, not {tensor.datatype[:64]!r}")
    return reader(tensor, most)


def _read_encoded(tensor: InputTensor, most: int) -> list[Image]:
    shape = tensor.shape
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
        raise InvalidInput(f"{IMAGE} has the shape [B] or [B, 1] for B images, not {list(shape)}")
    _check_batch(shape[0], most)
    elements = _split(tensor.data, shape[0]) if isinstance(tensor.data, bytes) else _flat(tensor.data, shape)
    return [_as_bytes(element) for element in elements]


def _split(data: bytes, count: int) -> list[bytes]:
    """Elements that each follow their length in 4 bytes, little-endian."""
    elements: list[bytes] = []
    at = 0
    while at < len(data) and len(elements) < count:
        if at + 4 > len(data):
            break
        (length,) = struct.unpack_from("<I", data, at)
        if length > len(data) - at - 4:
            raise InvalidInput(
                f"an element of {IMAGE} says it has {length} bytes, but only {len(data) - at - 4} follow; each is its "
                "length in 4 bytes, little-endian, and then itself"
            )
        elements.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(data) or len(elements) != count:
        raise InvalidInput(f"{IMAGE} says it has {count} elements, but its {len(data)} bytes hold another number")
    return elements


def _as_bytes(element: Any) -> bytes:
    """An image's bytes, or in JSON, which has no bytes, base64 of them."""
    if isinstance(element, bytes):
        return element
    if not isinstance(element, str):
        raise InvalidInput(f"an element of {IMAGE} is a text, the base64 of an image file, not {shown(element)}")
    return decode_base64(element)


def _read_pixels(tensor: InputTensor, most: int) -> list[Image]:
    shape = tensor.shape
    if len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape:
        raise InvalidInput(f"{PIXELS} has the shape [H, W, 3] or [B, H, W, 3], upright RGB pixels, not {list(shape)}")
    if len(shape) == 3:
        shape = (1, *shape)
    _check_batch(shape[0], most)
    if isinstance(tensor.data, bytes):
        if len(tensor.data) != math.prod(shape):
            raise InvalidInput(
                f"{PIXELS} of shape {list(tensor.shape)} has {math.prod(shape)} bytes, not {len(tensor.data)}"
            )
        pixels = np.frombuffer(tensor.data, np.uint8)
    else:
        pixels = _levels(tensor.data, tensor.shape)
    return list(pixels.reshape(shape))


def _levels(data: Sequence[Any], shape: Shape) -> NDArray[np.uint8]:
    elements = _flat(data, shape)
    try:
        if set(map(type, elements)) != {int}:
            raise ValueError
        return np.frombuffer(bytes(elements), np.uint8)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{PIXELS} are whole numbers from 0 to 255") from None


def _flat(data: Sequence[Any], shape: Shape) -> list[Any]:
    """The elements of a tensor in JSON: a flat list, or lists in lists as the shape says."""
    elements = list(data)
    for inner in range(1, len(shape)):
        if not elements or not isinstance(elements[0], list):
            break
        if any(not isinstance(e, list) or len(e) != shape[inner] for e in elements):
            raise InvalidInput(f"the data is nested otherwise than its shape {list(shape)} says")
        elements = [element for e in elements for element in e]
    if len(elements) != math.prod(shape) or any(isinstance(e, list) for e in elements):
        raise InvalidInput(f"the shape {list(shape)} says {math.prod(shape)} elements; the data has {len(elements)}")
    return elements


def _check_batch(images: int, most: int) -> None:
    if not 1 <= images <= most:
        raise InvalidInput(f"a request has 1 to {most} images, not {images}")


READERS = {IMAGE: ("BYTES", _read_encoded), PIXELS: ("UINT8", _read_pixels)}


# ---- what goes out ----


def specs_of(task_specs: Sequence[TensorSpec]) -> dict[str, TensorSpec]:
    """Every output of a model by name."""
    return {spec.name: spec for spec in (*task_specs, RECEIPT_SPEC)}


def write_tensors(specs: Sequence[TensorSpec], answers: Sequence[Answer]) -> list[OutputTensor]:
    """One tensor [B, ...] for each spec."""
    return [OutputTensor(spec.name, _stacked(spec, [_part(spec, answer) for answer in answers])) for spec in specs]


def _part(spec: TensorSpec, answer: Answer) -> NDArray[Any]:
    if spec is RECEIPT_SPEC:
        return texts([json.dumps(answer.receipt.to_dict())])
    return np.asarray(answer.tensors[spec.name], spec.dtype)


def _stacked(spec: TensorSpec, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if len(parts) == 1:
        return parts[0][None]
    if spec.padding is not None:
        longest = max(len(part) for part in parts)
        parts = [_padded(part, longest, spec.padding) for part in parts]
    return np.stack(parts)


def _padded(part: NDArray[Any], length: int, value: float | str) -> NDArray[Any]:
    whole = np.full((length, *part.shape[1:]), value, part.dtype)
    whole[: len(part)] = part
    return whole
