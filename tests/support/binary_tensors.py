"""An independent reader and writer of infer bodies over HTTP with the binary extension."""

import base64
import json
import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tta_server.api.oip.http_codec import Envelope, read_infer
from tta_server.api.oip.semantics import read_parameters
from tta_server.api.oip.tensors import read_images
from tta_server.errors import InvalidInput
from tta_server.tasks.base import texts

NUMPY = {"BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "INT32": "<i4", "INT64": "<i8", "FP32": "<f4"}
"""The protocol's datatypes, by hand."""


def sized(texts: Sequence[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def unsized(data: bytes) -> list[bytes]:
    found = []
    while data:
        (length,) = struct.unpack("<I", data[:4])
        assert len(data) >= 4 + length
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    return found


def decode(body: bytes, header_length: int | None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A response's JSON, and its tensors by name; no bytes may be left over."""
    head, rest = (body, b"") if header_length is None else (body[:header_length], body[header_length:])
    payload = json.loads(head, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    tensors = {}
    for entry in payload["outputs"]:
        size = entry.get("parameters", {}).get("binary_data_size")
        assert ("data" in entry) == (size is None)
        tensors[entry["name"]] = _tensor(entry, None if size is None else rest[:size])
        rest = rest[size or 0 :]
    assert not rest
    return payload, tensors


def _tensor(entry: dict[str, Any], data: bytes | None) -> np.ndarray:
    shape = tuple(entry["shape"])
    if entry["datatype"] == "BYTES":
        elements = entry["data"] if data is None else [text.decode() for text in unsized(data)]
        return texts(elements).reshape(shape)
    dtype = np.dtype(NUMPY[entry["datatype"]])
    return (np.array(entry["data"], dtype) if data is None else np.frombuffer(data, dtype)).reshape(shape)


def encode(inputs: Sequence[dict[str, Any]], behind: bytes = b"", **more: Any) -> tuple[bytes, int | None]:
    """The body of a request, and the length of its JSON if bytes follow."""
    head = json.dumps({"inputs": list(inputs), **more}).encode()
    return head + behind, len(head) if behind else None


def image_input(*images: bytes) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in images]
    return {"name": "IMAGE", "datatype": "BYTES", "shape": [len(images)], "data": data}


def pixel_input(pixels: np.ndarray, data: Any = None) -> dict[str, Any]:
    listed = pixels.ravel().tolist() if data is None else data
    return {"name": "PIXELS", "datatype": "UINT8", "shape": list(pixels.shape), "data": listed}


def in_bytes(entry: dict[str, Any], size: Any) -> dict[str, Any]:
    rest = {key: value for key, value in entry.items() if key != "data"}
    return {**rest, "parameters": {"binary_data_size": size}}


def read(body: bytes, header_length: int | None = None) -> Envelope:
    return read_infer(body, header_length, "toy", "")


def images_of(body: bytes, header_length: int | None = None, max_images: int = 8) -> list[Any]:
    return read_images(read(body, header_length).request.inputs, max_images)


PIXELS = arrays.arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * 3, st.just(3)))


def check(sentence: str) -> str:
    """Check that it is one short sentence."""
    assert 10 < len(sentence) <= 400, sentence
    assert sentence.isprintable(), sentence
    assert not re.search(r"Traceback|numpy|pydantic|object at 0x|\.py\b", sentence)
    return sentence


def parse(body: bytes, header_length: int | None) -> None:
    read_parameters(read(body, header_length).request.parameters)
    images_of(body, header_length)


def refused(body: bytes, header_length: int | None = None) -> str:
    """The sentence of the refusal of a request, its parameters read too."""
    with pytest.raises(InvalidInput) as caught:
        parse(body, header_length)
    return check(str(caught.value))
