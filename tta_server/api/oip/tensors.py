"""The protocol's tensors: input tensors to images, answers to output tensors; shared by HTTP and gRPC."""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.api.oip.base64 import decode_base64
from tta_server.errors import InvalidInput, printable, shown
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
"""numpy types of the tasks' tensors -> the protocol's names."""

RECEIPT_SPEC = TensorSpec(RECEIPT, np.object_, (1,), usual=False)
"""The receipt of each image as JSON; every task has it."""

MAX_LISTED_VALUES = 1_000_000
"""Of values that are not sent as bytes: Python takes up to 0.2 s for this number, which delays other requests."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class InputTensor:
    """A tensor as received.

    `data` is bytes (of BYTES, each element after its 4-byte length) or a list of elements, nested or flat.
    """

    name: str
    datatype: str
    shape: Shape
    data: bytes | Sequence[Any]


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor of the response; strings are an array of objects."""

    name: str
    array: NDArray[Any]

    @property
    def datatype(self) -> str:
        return DATATYPES[self.array.dtype.type]

    @property
    def shape(self) -> Shape:
        return self.array.shape

    def raw(self) -> bytes:
        """Little-endian, row by row; a string is its length in 4 bytes, then its UTF-8."""
        if self.array.dtype != np.object_:
            return self.array.astype(self.array.dtype.newbyteorder("<"), copy=False).tobytes()
        return b"".join(struct.pack("<I", len(data)) + data for data in (t.encode() for t in self.array.ravel()))

    def listed(self) -> list[Any]:
        """The elements, flat, row by row."""
        elements: list[Any] = self.array.ravel().tolist()
        return elements


# ---- inputs ----


def read_shape(found: Any, name: str) -> Shape:
    """Up to 8 whole numbers of at least 0; raises InvalidInput."""
    if (
        not isinstance(found, list | tuple)
        or len(found) > 8
        or not all(type(size) is int and 0 <= size < 2**63 for size in found)
    ):
        raise InvalidInput(
            f"the shape of {printable(name)} is a list of up to 8 whole numbers of at least 0, not {shown(found)}"
        )
    return tuple(found)


def read_images(tensors: Sequence[InputTensor], max_images: int) -> list[Image]:
    """The images of a request: encoded from IMAGE [B] or [B, 1], or pixels from PIXELS [H, W, 3] or [B, H, W, 3].

    Raises InvalidInput.
    """
    if len(tensors) != 1:
        found = ", ".join(printable(tensor.name) for tensor in tensors[:8]) or "none"
        raise InvalidInput(f"a request takes one input, {IMAGE} or {PIXELS}, not {len(tensors)}: {found}")
    (tensor,) = tensors
    if tensor.name not in READERS:
        raise InvalidInput(f"unknown input {tensor.name[:64]!r}; inputs are {IMAGE} (BYTES) and {PIXELS} (UINT8)")
    datatype, reader = READERS[tensor.name]
    if tensor.datatype != datatype:
        raise InvalidInput(f"{tensor.name} takes the datatype {datatype}, not {tensor.datatype[:64]!r}")
    return reader(tensor, max_images)


def _read_encoded(tensor: InputTensor, max_images: int) -> list[Image]:
    shape = tensor.shape
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
        raise InvalidInput(f"{IMAGE} takes the shape [B] or [B, 1] for B images, not {list(shape)}")
    _check_batch(shape[0], max_images)
    elements = _split(tensor.data, shape[0]) if isinstance(tensor.data, bytes) else _flat(tensor.data, shape)
    return [_as_bytes(element) for element in elements]


def _split(data: bytes, count: int) -> list[bytes]:
    """The elements, each of which follows its length in 4 bytes, little-endian."""
    elements: list[bytes] = []
    at = 0
    while at < len(data) and len(elements) < count:
        if at + 4 > len(data):
            break
        (length,) = struct.unpack_from("<I", data, at)
        if length > len(data) - at - 4:
            raise InvalidInput(
                f"an element of {IMAGE} declares {length} bytes, but only {len(data) - at - 4} follow; send each as "
                "its length in 4 bytes, little-endian, and then its bytes"
            )
        elements.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(data) or len(elements) != count:
        raise InvalidInput(f"{IMAGE} declares {count} elements, but its {len(data)} bytes hold a different number")
    return elements


def _as_bytes(element: Any) -> bytes:
    """An image's bytes; JSON has them in base64."""
    if isinstance(element, bytes):
        return element
    if not isinstance(element, str):
        raise InvalidInput(f"an element of {IMAGE} is a string, an image file in base64, not {shown(element)}")
    return decode_base64(element)


def _read_pixels(tensor: InputTensor, max_images: int) -> list[Image]:
    shape = tensor.shape
    if len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape:
        raise InvalidInput(f"{PIXELS} takes the shape [H, W, 3] or [B, H, W, 3], upright RGB pixels, not {list(shape)}")
    if len(shape) == 3:
        shape = (1, *shape)
    _check_batch(shape[0], max_images)
    if isinstance(tensor.data, bytes):
        if len(tensor.data) != math.prod(shape):
            raise InvalidInput(
                f"{PIXELS} of shape {list(tensor.shape)} takes {math.prod(shape)} bytes, not {len(tensor.data)}"
            )
        pixels = np.frombuffer(tensor.data, np.uint8)
    else:
        pixels = _pixel_values(tensor.data, tensor.shape)
    return list(pixels.reshape(shape))


def _pixel_values(data: Sequence[Any], shape: Shape) -> NDArray[np.uint8]:
    elements = _flat(data, shape)
    try:
        if set(map(type, elements)) != {int}:
            raise ValueError
        return np.frombuffer(bytes(elements), np.uint8)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{PIXELS} takes whole numbers from 0 to 255") from None


def _flat(data: Sequence[Any], shape: Shape) -> list[Any]:
    """The elements of a tensor in JSON: a flat list, or lists nested as the shape says."""
    elements = list(data)
    for inner in range(1, len(shape)):
        if not elements or not isinstance(elements[0], list):
            break
        if any(not isinstance(e, list) or len(e) != shape[inner] for e in elements):
            raise _wrong_nesting(shape)
        elements = [element for e in elements for element in e]
    if any(isinstance(e, list) for e in elements):
        raise _wrong_nesting(shape)
    if len(elements) != math.prod(shape):
        raise InvalidInput(
            f"the shape {list(shape)} declares {math.prod(shape)} elements, but the data has {len(elements)}"
        )
    return elements


def _wrong_nesting(shape: Shape) -> InvalidInput:
    return InvalidInput(f"the nesting of the data does not match its shape {list(shape)}")


def _check_batch(images: int, max_images: int) -> None:
    if not 1 <= images <= max_images:
        raise InvalidInput(f"a request takes 1 to {max_images} images (--max-batch), not {images}")


READERS = {IMAGE: ("BYTES", _read_encoded), PIXELS: ("UINT8", _read_pixels)}


# ---- outputs ----


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
