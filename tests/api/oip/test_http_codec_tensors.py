"""Infer bodies over HTTP whose tensors are invalid are refused with their reason."""

import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.support.binary_tensors import check, encode, image_input, in_bytes, pixel_input, read, refused, sized
from tta_server.api.oip.semantics import read_parameters
from tta_server.errors import InvalidInput, shown

# ---- refusals: shapes ----


@pytest.mark.parametrize("name", ["IMAGE", "PIXELS"])
@pytest.mark.parametrize(
    "shape", [None, 3, "3", {}, [-1], [1.5], [1.0], [True], ["1"], [None], [[1]], [1] * 9, [float("nan")]], ids=str
)
def test_an_invalid_shape_is_refused(name: str, shape: Any) -> None:
    entry = {**image_input(b"x"), "name": name, "datatype": "UINT8" if name == "PIXELS" else "BYTES", "shape": shape}
    sentence = refused(encode([entry])[0])
    assert sentence == f"the shape of {name} is a list of up to 8 whole numbers of at least 0, not {shown(shape)}"


@pytest.mark.parametrize("shape", [[], [1, 2], [1, 1, 1], [1, 0]], ids=str)
def test_images_of_another_shape_are_refused(shape: list[int]) -> None:
    sentence = refused(encode([{**image_input(b"x"), "shape": shape}])[0])
    assert sentence == f"IMAGE takes the shape [B] or [B, 1] for B images, not {shape}"


@pytest.mark.parametrize("count", [0, 9, 2**31, 2**62])
@pytest.mark.parametrize("binary", [False, True])
def test_a_wrong_number_of_images_is_refused(count: int, binary: bool) -> None:
    entry = {**image_input(b"x"), "shape": [count]}
    body = encode([in_bytes(entry, 5)], sized([b"x"])) if binary else encode([entry])
    assert refused(*body) == f"a request takes 1 to 8 images (--max-batch), not {count}"


@pytest.mark.parametrize(
    "shape", [[], [3], [3, 3], [1, 1, 1], [1, 1, 1, 4], [0, 1, 1, 3], [1, 0, 1, 3], [1] * 5], ids=str
)
def test_pixels_of_another_shape_are_refused(shape: list[int]) -> None:
    sentence = refused(encode([{**pixel_input(np.zeros((1, 1, 3), np.uint8)), "shape": shape}])[0])
    assert sentence == f"PIXELS takes the shape [H, W, 3] or [B, H, W, 3], upright RGB pixels, not {shape}"


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    "side", [2, 2**31, 2**62, 10**300, 10**2200, 10**4000], ids=lambda side: f"{len(str(side))} digits"
)
def test_missing_pixels_are_refused(side: int, binary: bool) -> None:
    """For any size that it declares, without allocating it."""
    entry = {**pixel_input(np.zeros((1, 1, 3), np.uint8)), "shape": [1, side, side, 3]}
    refused(*(encode([in_bytes(entry, 3)], b"123") if binary else encode([entry])))


# ---- refusals: bytes after the JSON ----


@pytest.mark.parametrize("size", [-1, 5, 2**63, 3.0, "3", True, float("nan")], ids=str)
def test_an_invalid_binary_data_size_is_refused(size: Any) -> None:
    body, length = encode([in_bytes(pixel_input(np.zeros((1, 1, 3), np.uint8)), size)], b"1234")
    assert refused(body, length) == (
        f"binary_data_size of PIXELS is {shown(size)}, but 4 bytes are left after the JSON; check "
        "Inference-Header-Content-Length"
    )


def test_without_a_length_no_bytes_follow_the_json() -> None:
    body, _ = encode([in_bytes(image_input(b"x"), 5)])
    assert "Inference-Header-Content-Length" in refused(body)


def test_bytes_of_no_input_are_refused() -> None:
    entry = in_bytes(pixel_input(np.zeros((1, 1, 3), np.uint8)), 3)
    assert (
        refused(*encode([entry], b"1234"))
        == "4 bytes follow the JSON, but the binary_data_size of the inputs add up to 3"
    )
    assert (
        refused(*encode([image_input(b"x")], b"1"))
        == "1 bytes follow the JSON, but the binary_data_size of the inputs add up to 0"
    )


def test_two_inputs_may_not_share_their_bytes() -> None:
    entry = in_bytes(pixel_input(np.zeros((1, 1, 3), np.uint8)), 3)
    assert "binary_data_size of PIXELS is 3, but 0 bytes are left" in refused(*encode([entry, entry], b"123"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack("<I", 4) + b"abc", "declares 4 bytes, but only 3 follow"),
        (struct.pack("<I", 2**32 - 1), "declares 4294967295 bytes, but only 0 follow"),
        (struct.pack(">I", 3) + b"abc", "declares 50331648 bytes, but only 3 follow"),
        (b"abc", "declares 1 elements, but its 3 bytes hold a different number"),
        (b"\0\0\0\0\0", "declares 1 elements, but its 5 bytes hold a different number"),
        (sized([b"a", b"b"]), "declares 1 elements, but its 10 bytes hold a different number"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(data: bytes, reason: str) -> None:
    assert reason in refused(*encode([in_bytes(image_input(b"x"), len(data))], data))


def test_no_bytes_are_no_image() -> None:
    entry = in_bytes(image_input(b"x"), 0)
    assert refused(encode([entry])[0]) == "IMAGE declares 1 elements, but its 0 bytes hold a different number"


# ---- refusals: pixels in JSON ----


@pytest.mark.parametrize(
    "value",
    [
        -1,
        256,
        1.0,
        1.5,
        1e30,
        2**31,
        2**63,
        2**64,
        2**70,
        -(2**70),
        "1",
        "",
        None,
        True,
        {},
        float("nan"),
        float("inf"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_invalid_pixel_value_is_refused(value: Any, place: int) -> None:
    data: list[Any] = [1, 2, 3]
    data[place] = value
    entry = pixel_input(np.zeros((1, 1, 3), np.uint8), data)
    assert refused(encode([entry])[0]) == "PIXELS takes whole numbers from 0 to 255"


@pytest.mark.parametrize("values", [[True, False, True], [1.0, 2.0, 3.0], ["1", "2", "3"], [None] * 3], ids=str)
def test_a_list_of_invalid_pixel_values_is_refused(values: list[Any]) -> None:
    entry = pixel_input(np.zeros((1, 1, 3), np.uint8), values)
    assert refused(encode([entry])[0]) == "PIXELS takes whole numbers from 0 to 255"


LONG_TEXT = """
import json, resource
from tta_server.api.oip.tensors import read_images
from tta_server.api.oip.http_codec import read_infer
from tta_server.errors import InvalidInput
data = ["a" * 100_000] + [1] * 29_999
body = json.dumps({"inputs": [{"name": "PIXELS", "datatype": "UINT8", "shape": [100, 100, 3], "data": data}]}).encode()
resource.setrlimit(resource.RLIMIT_AS, (3_000_000_000, 3_000_000_000))
try:
    read_images(read_infer(body, None, "toy", "").request.inputs, 1)
except InvalidInput as error:
    print(error)
"""


def test_a_long_text_among_the_pixels_takes_no_memory() -> None:
    """As an array of strings these 190 kB would take 12 GB."""
    done = subprocess.run([sys.executable, "-c", LONG_TEXT], capture_output=True, text=True, timeout=60)
    assert done.stdout == "PIXELS takes whole numbers from 0 to 255\n", done.stderr[-300:]


@pytest.mark.parametrize(
    "data",
    [
        [[[[1, 2, 3], [4, 5, 6]], [[7, 8, 9]]]],
        [[[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [1, 2]]]],
        [[[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], 1, 2, 3]]],
        [[[[1, 2, 3], [4, 5, 6]], 7]],
        [1, [2], 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        [[[[[1]] * 3] * 2] * 2],
        [[1] * 12],
        [[]],
        [],
        [1] * 11,
        [1] * 13,
        [[1] * 6] * 2,
    ],
    ids=str,
)
def test_data_nested_otherwise_than_its_shape_is_refused(data: list[Any]) -> None:
    entry = pixel_input(np.zeros((1, 2, 2, 3), np.uint8), data)
    assert "shape [1, 2, 2, 3]" in refused(encode([entry])[0])


# ---- huge numbers ----


@pytest.mark.parametrize("value", [2**63, 10**300, 10**400, 10**4000], ids=lambda value: f"{len(str(value))} digits")
@pytest.mark.parametrize("key", ["timeout", "priority", "tta_max_views", "tta_min_views"])
def test_huge_numbers_are_accepted_or_refused(key: str, value: int) -> None:
    body, _ = encode([image_input(b"x")], parameters={key: value})
    try:
        read_parameters(read(body).request.parameters)
    except InvalidInput as refusal:
        check(str(refusal))


@pytest.mark.parametrize(
    "name", ["a\nb", "\x1b[31mred", "x" * 100_000, "\0", "\u202e"], ids=["line", "color", "long", "null", "bidi"]
)
def test_a_name_can_not_break_out_of_its_sentence(name: str) -> None:
    tensor = {**image_input(b"x"), "name": name}
    for entry in (tensor, {**tensor, "shape": [-1]}, {**tensor, "datatype": 3}, {**tensor, "data": 3}):
        refused(encode([entry])[0])
    refused(encode([tensor, tensor])[0])
    refused(encode([{**tensor, "parameters": {"classification": 1}}])[0])
    refused(encode([in_bytes(tensor, 9)])[0])
