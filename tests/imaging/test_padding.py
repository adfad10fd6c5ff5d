"""Bars and padding lie where, and are what, the sources of models have them."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.examples import times
from tests.support.patterns import noise
from tests.support.preparations import MEAN, RAW, STD, framed, viewed
from tta_server.imaging.normalization import Channels, Normalization
from tta_server.imaging.padding import Anchor, Pad
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.views.geometry import Size
from tta_server.views.view import View

IMAGENET = Normalization(255, MEAN, STD)
images = st.builds(Size, st.integers(4, 300), st.integers(4, 300))
inputs = st.builds(Size, st.integers(32, 160), st.integers(32, 160))


@settings(max_examples=times(200))
@given(images, inputs)
def test_a_letterbox_equals_yolox_s(image, size):
    """YOLOX and rtmlib: sides cut off to whole pixels, OpenCV, at the top left, 114, BGR from 0 to 255."""
    prep = Preprocessing(
        size,
        Resize.LETTERBOX,
        resize_like="opencv",
        rounding="floor",
        letterbox_anchor=Anchor.TOP_LEFT,
        channels=Channels.BGR,
        normalization=RAW,
    )
    pixels = noise(image)
    ratio = min(size.height / image.height, size.width / image.width)
    assume(min(image) * ratio >= 1)  # OpenCV makes no image without pixels
    small = cv2.resize(pixels[:, :, ::-1].copy(), (int(image.width * ratio), int(image.height * ratio)))
    expected = np.full((size.height, size.width, 3), 114, np.uint8)
    expected[: small.shape[0], : small.shape[1]] = small
    np.testing.assert_array_equal(viewed(prep, pixels, View())[0], expected.transpose(2, 0, 1))


@settings(max_examples=times(200))
@given(images, inputs)
def test_a_letterbox_equals_that_of_ultralytics(image, size):
    """Rounded sides, OpenCV, and bars of which the right and lower ones get the odd pixel."""
    prep = Preprocessing(size, Resize.LETTERBOX, resize_like="opencv", normalization=RAW)
    pixels = noise(image)
    ratio = min(size.height / image.height, size.width / image.width)
    width, height = round(image.width * ratio), round(image.height * ratio)
    across, down = (size.width - width) / 2, (size.height - height) / 2
    small = cv2.resize(pixels, (width, height)) if image != (width, height) else pixels
    bars = (round(down - 0.1), round(down + 0.1), round(across - 0.1), round(across + 0.1))
    expected = cv2.copyMakeBorder(small, *bars, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    np.testing.assert_array_equal(viewed(prep, pixels, View())[0], expected.transpose(2, 0, 1))


@pytest.mark.parametrize("channels", [Channels.RGB, Channels.BGR])
def test_bars_by_channel_are_in_the_model_s_order(channels):
    prep = Preprocessing(
        Size(20, 20), Resize.LETTERBOX, letterbox_fill=(104, 117, 123), channels=channels, normalization=RAW
    )
    tensor, placement = viewed(prep, noise(Size(40, 20)), View())
    assert placement.inset == (0, 5)
    assert tensor[:, :5].reshape(3, -1).max(axis=1).tolist() == [104, 117, 123]
    assert tensor[:, 15:].reshape(3, -1).min(axis=1).tolist() == [104, 117, 123]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
@pytest.mark.parametrize(("anchor", "rows"), [(Anchor.TOP_LEFT, np.s_[8:]), (Anchor.CENTER, np.s_[:4])])
def test_bars_of_zeros_are_0_after_normalisation(dtype, anchor, rows):
    prep = Preprocessing(
        Size(16, 16),
        Resize.LETTERBOX,
        letterbox_anchor=anchor,
        letterbox_fill="zeros",
        dtype=np.dtype(dtype),
        normalization=IMAGENET,
    )
    tensor, _ = viewed(prep, noise(Size(20, 10)), View())
    assert not tensor[:, rows].any()
    assert tensor[:, 4:8].any()


@settings(max_examples=times(200))
@given(images, st.integers(2, 64))
def test_padding_with_zeros_equals_padding_the_normalised_image(image, multiple):
    """As mm* and DETR pad: to the right and below, after normalisation."""
    prep = Preprocessing(multiple=multiple, pad=Pad.ZEROS, normalization=IMAGENET)
    pixels = noise(image)
    planes = (pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255) - np.float32(MEAN).reshape(3, 1, 1)) / (
        np.float32(STD).reshape(3, 1, 1)
    )
    around = (0, 0), (0, -image.height % multiple), (0, -image.width % multiple)
    np.testing.assert_array_equal(viewed(prep, pixels, View())[0], np.pad(planes, around))


def test_views_are_padded_after_they_are_made():
    prep = Preprocessing(multiple=16, pad=Pad.ZEROS, normalization=RAW)
    pixels = np.full((20, 30, 3), 200, np.uint8)
    tensor, placement = viewed(prep, pixels, View(name="x"))
    assert placement.tensor == Size(32, 32)
    assert (framed(tensor, placement) == 200).all()
    assert tensor.sum() == 3 * 200 * 20 * 30


def test_the_long_side_has_its_length_at_every_scale():
    prep = Preprocessing(None, Resize.LONG, 64)
    assert prep.canvas_size(Size(200, 100)) == Size(64, 32)
    assert prep.canvas_size(Size(10, 20), 1.25) == Size(40, 80)
