"""The protocol's tensors: input tensors to images, answers of several images to one tensor."""

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tta_server.api.oip.tensors import (
    DATATYPES,
    RECEIPT_SPEC,
    InputTensor,
    OutputTensor,
    read_images,
    read_shape,
    specs_of,
    write_tensors,
)
from tta_server.errors import InvalidInput
from tta_server.serving.answer import Answer, Receipt
from tta_server.tasks.base import TensorSpec, texts
from tta_server.tasks.render.rendering import Rendered
from tta_server.views.view import Policy, View

MAX_IMAGES = 8
PIXELS = arrays.arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * 3, st.just(3)))


def answer(**tensors: Any) -> Answer:
    receipt = Receipt(
        views=[{"name": "plain", "weight": 1.0}],
        planned=1,
        started=1,
        dropped=0,
        merge="mean",
        stop="all",
        stop_reason="all_views",
        confidence=None,
        budget_ms=5.0,
        elapsed_ms=1.0,
        stages_ms={"infer": 1.0},
        policy=Policy("plain", (View("plain"),)),
        request_id="me",
    )
    return Answer("toy", "1", "classification", receipt, Rendered(tensors=tensors))


# ---- images ----


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=MAX_IMAGES), st.booleans())
def test_splitting_undoes_framing(images: list[bytes], column: bool) -> None:
    framed = b"".join(struct.pack("<I", len(image)) + image for image in images)
    shape = (len(images), 1) if column else (len(images),)
    assert read_images([InputTensor("IMAGE", "BYTES", shape, framed)], MAX_IMAGES) == images


@given(st.lists(st.binary(max_size=10), min_size=1, max_size=4), st.data())
def test_framing_that_is_cut_or_longer_is_refused(images: list[bytes], data: st.DataObject) -> None:
    framed = b"".join(struct.pack("<I", len(image)) + image for image in images)
    cut = framed[: data.draw(st.integers(0, len(framed) - 1))]
    for found in (cut, framed + b"\0", framed + framed):
        with pytest.raises(InvalidInput, match=r"^(an element of )?IMAGE declares \d+ (bytes|elements), but "):
            read_images([InputTensor("IMAGE", "BYTES", (len(images),), found)], MAX_IMAGES)


@given(PIXELS)
def test_pixels_in_bytes_and_listed_are_the_same(pixels: np.ndarray) -> None:
    forms = [pixels.tobytes(), pixels.ravel().tolist(), pixels.tolist()]
    for form in forms:
        found = read_images([InputTensor("PIXELS", "UINT8", pixels.shape, form)], MAX_IMAGES)
        assert all(image.dtype == np.uint8 for image in found)
        np.testing.assert_array_equal(np.stack(found), pixels)


@given(PIXELS)
def test_one_image_needs_no_batch_axis(pixels: np.ndarray) -> None:
    one = pixels[:1]
    for form in (one.tobytes(), one.ravel().tolist()):
        with_axis = read_images([InputTensor("PIXELS", "UINT8", one.shape, form)], MAX_IMAGES)
        without = read_images([InputTensor("PIXELS", "UINT8", one.shape[1:], form)], MAX_IMAGES)
        np.testing.assert_array_equal(with_axis, without)
    nested = read_images([InputTensor("PIXELS", "UINT8", one.shape[1:], one[0].tolist())], MAX_IMAGES)
    np.testing.assert_array_equal(nested, one)


@pytest.mark.parametrize("number", [1, MAX_IMAGES])
def test_images_up_to_the_limit_are_accepted(number: int) -> None:
    tensor = InputTensor("PIXELS", "UINT8", (number, 1, 1, 3), bytes(number * 3))
    assert len(read_images([tensor], MAX_IMAGES)) == number


@given(st.lists(st.integers(0, 2**62), max_size=8))
def test_a_shape_is_what_it_was(shape: list[int]) -> None:
    assert read_shape(shape, "T") == tuple(shape)


@given(st.lists(st.integers(2, 2**63 - 1), min_size=3, max_size=3), st.binary(max_size=20))
def test_a_shape_costs_nothing_unless_its_pixels_are_there(sides: list[int], data: bytes) -> None:
    for form in (data, list(data)):
        with pytest.raises(InvalidInput):
            read_images([InputTensor("PIXELS", "UINT8", (*sides, 3), form)], 2**63)


# ---- answers ----


def test_every_datatype_has_the_protocols_name() -> None:
    named = {np.dtype(kind): name for kind, name in DATATYPES.items()}
    assert named == {
        np.dtype("?"): "BOOL",
        np.dtype("u1"): "UINT8",
        np.dtype("u2"): "UINT16",
        np.dtype("i4"): "INT32",
        np.dtype("i8"): "INT64",
        np.dtype("f4"): "FP32",
        np.dtype("O"): "BYTES",
    }


@given(
    arrays.arrays(np.float32, arrays.array_shapes(max_dims=3, min_side=0, max_side=4)),
    st.sampled_from([">f4", "<f4"]),
)
def test_raw_bytes_are_little_endian_row_by_row(array: np.ndarray, order: str) -> None:
    for form in (array, np.asfortranarray(array), array.astype(order)):
        raw = OutputTensor("T", form).raw()
        assert raw == b"".join(struct.pack("<f", value) for value in array.ravel())


@given(st.lists(st.text(), max_size=5))
def test_texts_are_framed_in_utf_8(values: list[str]) -> None:
    raw = OutputTensor("T", texts(values)).raw()
    assert raw == b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)
    assert OutputTensor("T", texts(values)).listed() == values


SPEC = TensorSpec("T", np.float32, (2, 3))


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(2), st.just(3)), elements=st.integers(0, 9)))
def test_answers_are_stacked_in_their_order(batch: np.ndarray) -> None:
    (tensor,) = write_tensors([SPEC], [answer(T=part) for part in batch])
    assert (tensor.name, tensor.datatype, tensor.shape) == ("T", "FP32", batch.shape)
    np.testing.assert_array_equal(tensor.array, batch)


def test_a_tasks_answer_becomes_its_stated_tensors() -> None:
    for found in (np.array([1, 2], np.int64), [1.0, 2.0], np.array([1.0, 2.0])):
        (tensor,) = write_tensors([TensorSpec("T", np.float32, (2,))], [answer(T=found)])
        assert tensor.array.dtype == np.float32


FILLED = {"float": (np.float32, 0, 0.0), "int": (np.int32, -1, -1), "text": (np.object_, "", "")}


@pytest.mark.parametrize("kind", FILLED)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_shorter_answers_are_padded_at_their_end(kind: str, lengths: list[int]) -> None:
    dtype, padding, filler = FILLED[kind]
    own = [[f"é{i}" if kind == "text" else i + 7 for i in range(length)] for length in lengths]
    parts = [answer(T=texts(part) if kind == "text" else np.array(part, dtype)) for part in own]
    (tensor,) = write_tensors([TensorSpec("T", dtype, (None,), padding=padding)], parts)
    assert tensor.shape == (len(lengths), max(lengths))
    assert tensor.listed() == [v for part in own for v in part + [filler] * (max(lengths) - len(part))]
    assert tensor.array.dtype == dtype


def test_boxes_are_padded_with_whole_rows() -> None:
    spec = TensorSpec("BOXES", np.float32, (None, 4), padding=0)
    two, none = np.arange(8, dtype=np.float32).reshape(2, 4), np.zeros((0, 4), np.float32)
    (tensor,) = write_tensors([spec], [answer(BOXES=none), answer(BOXES=two)])
    np.testing.assert_array_equal(tensor.array, np.stack([np.zeros((2, 4)), two]))
    (tensor,) = write_tensors([spec], [answer(BOXES=none), answer(BOXES=none)])
    assert tensor.shape == (2, 0, 4)
    assert tensor.raw() == b""


def test_an_answer_is_not_modified() -> None:
    part = np.arange(3, dtype=np.float32)
    write_tensors([TensorSpec("T", np.float32, (None,), padding=0)], [answer(T=part), answer(T=np.zeros(5))])
    assert part.tolist() == [0, 1, 2]


def test_specs_keep_the_requested_order() -> None:
    both = {"A": np.zeros(1), "B": np.ones(1)}
    specs = [TensorSpec(name, np.float32, (1,)) for name in "BA"]
    assert [tensor.name for tensor in write_tensors(specs, [answer(**both)])] == ["B", "A"]


def test_every_model_has_receipts_that_are_json() -> None:
    assert specs_of([SPEC]) == {"T": SPEC, "RECEIPT": RECEIPT_SPEC}
    (tensor,) = write_tensors([RECEIPT_SPEC], [answer(), answer()])
    assert (tensor.datatype, tensor.shape) == ("BYTES", (2, 1))
    for text in tensor.listed():
        receipt = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert receipt["request_id"] == "me"
        assert math.isclose(receipt["budget_ms"], 5)
