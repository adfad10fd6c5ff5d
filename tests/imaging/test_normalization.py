"""Colour maps are applied after interpolation, and clipped before normalisation."""

import numpy as np
import pytest

from tests.support.patterns import noise
from tests.support.preparations import MEAN, RAW, STD, viewed
from tta_server.imaging.normalization import Channels, Normalization
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.views import color
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import View

COLORS = [{"brightness": 1.6}, {"contrast": 1.5}, {"saturation": 1.8}, {"hue": 40}, "grayscale"]


@pytest.mark.parametrize("spec", [*COLORS, ["hflip", {"brightness": 1.2}], [{"rotate": 7}, {"contrast": 0.7}]])
def test_interpolate_then_colour_then_clip_then_normalise(spec):
    view = read_view(spec)
    raw, prep = (
        Preprocessing(Size(30, 20), Resize.EXACT, normalization=n) for n in (RAW, Normalization(255, MEAN, STD))
    )
    uncolored = View(geometry=view.geometry)
    values = viewed(raw, noise(Size(30, 20)), uncolored)[0].astype(np.float64)
    m = view.color.matrix
    colored = np.einsum("ij,jhw->ihw", m[:, :3], values) + m[:, 3].reshape(3, 1, 1)
    expected = (np.clip(colored, 0, 255) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    np.testing.assert_allclose(viewed(prep, noise(Size(30, 20)), view)[0], expected, atol=1e-4)


@pytest.mark.parametrize("spec", COLORS)
def test_bgr_sees_the_same_colours_in_the_other_order(spec):
    rgb, bgr = (Preprocessing(channels=c, normalization=RAW) for c in (Channels.RGB, Channels.BGR))
    pixels, view = noise(Size(20, 10)), read_view(spec)
    np.testing.assert_allclose(viewed(bgr, pixels, view)[0], viewed(rgb, pixels, view)[0][::-1], atol=1e-3)


@pytest.mark.parametrize("spec", COLORS)
def test_grey_sees_what_rgb_sees_of_a_grey_image(spec):
    rgb, grey = (Preprocessing(channels=c, normalization=RAW) for c in (Channels.RGB, Channels.GREY))
    pixels, view = np.repeat(noise(Size(20, 10), 1), 3, axis=2), read_view(spec)
    np.testing.assert_allclose(viewed(grey, pixels, view)[0][0], viewed(rgb, pixels, view)[0][1], atol=0.1)


def test_models_that_take_uint8_round():
    prep = Preprocessing(Size(2, 1), Resize.EXACT, dtype=np.dtype(np.uint8))
    pixels = np.array([[[10, 101, 250], [3, 5, 7]]], np.uint8)
    tensor, _ = viewed(prep, pixels, View(color=color.brightness(1.13)))
    np.testing.assert_array_equal(tensor.transpose(1, 2, 0), [[[11, 114, 255], [3, 6, 8]]])


def test_clipping_by_hand():
    prep = Preprocessing(Size(1, 1), Resize.EXACT, normalization=RAW)
    tensor, _ = viewed(prep, np.array([[[200, 100, 0]]], np.uint8), read_view({"contrast": 2}))
    np.testing.assert_allclose(tensor[:, 0, 0], [255, 72.5, 0], atol=1e-3)
