"""Inputs beside the image: what each function gives, and which inputs of a file it fits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.backends.inputs import Frame, OtherInput, fits_function, make_inputs, mistake, undeclared


def made(function, shape, dtype, rows=2, size=(4, 6), frames=()):
    (value,) = make_inputs({"x": OtherInput(function, shape, np.dtype(dtype))}, rows, size, frames).values()
    assert value.dtype == dtype
    assert value.flags.c_contiguous
    return value.tolist()


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [
        ("width_height", (None, 2), [[6, 4], [6, 4]]),
        ("width_height", (None, None), [[6, 4], [6, 4]]),
        ("width_height", (2,), [6, 4]),
        ("height_width", (None, 2), [[4, 6], [4, 6]]),
        ("height_width", (None,), [4, 6]),
        ("ones", (None, 2), [[1, 1], [1, 1]]),
        ("ones", (None, None), [[1, 1], [1, 1]]),
        ("ones", (None, 4), [[1, 1, 1, 1]] * 2),
        ("ones", (None, 1, 2), [[[1, 1]]] * 2),
        ("ones", (None,), [1, 1]),
        ("ones", (3,), [1, 1, 1]),
    ],
)
@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_values_by_hand_for_two_rows_of_6x4(function, shape, expected, dtype):
    assert made(function, shape, dtype) == expected


def test_a_mask_is_1_where_the_image_lies_and_everywhere_without_frames():
    found = made("mask", (None, None, None), "int64", 3, (3, 4), [Frame(1, 0, 2, 3), Frame(0, 0, 4, 2)])
    assert found[0] == [[0, 1, 1, 0]] * 3
    assert found[1] == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert found[2] == [[1, 1, 1, 1]] * 3


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_mask_holds_as_many_ones_as_the_frame_has_pixels(height, width, data):
    frames = []
    for _ in range(data.draw(st.integers(1, 3))):
        left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
        frames.append(
            Frame(left, top, data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top)))
        )
    mask = np.array(made("mask", (None, height, width), "bool", len(frames), (height, width), frames))
    assert mask.sum(axis=(1, 2)).tolist() == [frame.width * frame.height for frame in frames]


@pytest.mark.parametrize(
    ("function", "shape", "dtype", "sentence"),
    [
        ("width_height", (None, 2), "float16", "is float16; width_height gives int64, int32, float32, float64"),
        ("width_height", (None, 3), "int64", "has the shape [any, 3]; width_height gives [N, 2]"),
        ("height_width", (None, 2, 1), "int64", "has the shape [any, 2, 1]; height_width gives [N, 2]"),
        ("height_width", (4, 2), "int64", "has the shape [4, 2]; height_width gives [N, 2]"),
        ("width_height", (), "int64", "has the shape []; width_height gives [N, 2]"),
        ("ones", (None, 2), "bool", "is bool; ones gives int64, int32, float32, float64, float16"),
        ("ones", (), "float32", "has the shape []; ones gives [N, 2], or N and fixed sizes"),
        ("ones", (None, 3, None), "float32", "has the shape [any, 3, any]; ones gives [N, 2], or N and fixed sizes"),
        ("ones", (2, 2), "float32", "has the shape [2, 2]; ones gives [N, 2], or N and fixed sizes"),
        ("mask", (None, 1, 8, 6), "int64", "has the shape [any, 1, 8, 6]; mask gives [N, H, W]"),
        ("mask", (None, 6, 8), "int64", "has the shape [any, 6, 8]; mask gives [N, H, W]"),
    ],
)
def test_an_input_that_its_function_does_not_make_is_named(function, shape, dtype, sentence):
    found = mistake("x", OtherInput(function, shape, np.dtype(dtype)), (8, 6))
    assert found == f"input.others has x: {function}, but the model file's input x {sentence}"


@pytest.mark.parametrize(
    ("function", "shape", "dtype"),
    [
        ("width_height", (None, 2), "int64"),
        ("height_width", (1, 2), "float32"),
        ("ones", (None, 2), "float16"),
        ("ones", (1, 5, 7), "int32"),
        ("mask", (None, None, None), "bool"),
        ("mask", (1, 8, 6), "int64"),
    ],
)
def test_an_input_that_its_function_makes(function, shape, dtype):
    assert mistake("x", OtherInput(function, shape, np.dtype(dtype)), (8, 6)) == ""


def test_a_mask_of_fixed_size_needs_an_image_of_that_size():
    mask = OtherInput("mask", (None, 64, 64), np.dtype(np.int64))
    assert mistake("x", mask, (64, 64)) == ""
    for size in ((None, None), (None, 64), (64, 48)):
        assert "has the shape [any, 64, 64]; mask gives [N, H, W]" in mistake("x", mask, size)


def test_an_input_that_is_not_declared_is_named_with_what_it_likely_is():
    assert undeclared(["orig_target_sizes"]) == (
        "the model file also takes orig_target_sizes, which tta.yaml does not declare; set input.others: "
        "{orig_target_sizes: width_height}, with one of width_height, height_width, ones, mask for it"
    )
    assert "{im_shape: height_width, scale_factor: ones, prompt: ...}" in undeclared(
        ["im_shape", "scale_factor", "prompt"]
    )


def test_ones_of_which_a_middle_axis_is_free_are_not_made() -> None:
    """Its size could be any; [N, 2, 3] is made."""
    free, fixed = (OtherInput("ones", (None, axis, 3), np.dtype(np.float32)) for axis in (None, 2))
    assert "gives [N, 2], or N and fixed sizes" in mistake("x", free, (8, 8))
    assert mistake("x", fixed, (8, 8)) == ""
    assert not fits_function("ones", free)


def test_a_function_fits_an_input_by_shape_and_type() -> None:
    half, whole = (OtherInput("ones", (None, 2), np.dtype(kind)) for kind in (np.float16, np.int64))
    assert not fits_function("width_height", half)
    assert fits_function("width_height", whole)
    assert not fits_function("mask", whole)
