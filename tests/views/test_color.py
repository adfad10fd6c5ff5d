import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.views.color import (
    IDENTITY,
    LUMA,
    brightness,
    contrast,
    grayscale,
    hue,
    saturation,
)

factors = st.floats(0, 4)
colors = st.tuples(*[st.floats(0, 255)] * 3).map(np.array)
maps = st.one_of(factors.map(brightness), factors.map(contrast), factors.map(saturation), st.floats(-180, 180).map(hue))


def applied(color_map, rgb):
    m = color_map.matrix
    return m[:, :3] @ rgb + m[:, 3]


# ---- laws ----


@given(maps, maps, colors)
def test_composing_is_applying_one_after_the_other(first, second, rgb):
    expected = applied(second, applied(first, rgb))
    np.testing.assert_allclose(applied(first.then(second), rgb), expected, atol=1e-6)


@given(maps)
def test_identity_changes_nothing_on_either_side(some):
    assert IDENTITY.then(some) == some == some.then(IDENTITY)


@given(maps, st.floats(0, 255))
def test_grey_stays_grey(some, level):
    r, g, b = applied(some, np.full(3, level))
    assert r == pytest.approx(g, abs=0.2)  # the chroma axes of 1953, to 4 decimals, sum to 1e-4
    assert g == pytest.approx(b, abs=0.2)


@given(st.floats(-180, 180), factors, colors)
def test_hue_and_saturation_keep_luma(degrees, factor, rgb):
    luma = np.array(LUMA) @ rgb
    assert np.array(LUMA) @ applied(hue(degrees), rgb) == pytest.approx(luma, abs=1e-6)
    assert np.array(LUMA) @ applied(saturation(factor), rgb) == pytest.approx(luma, abs=1e-6)


@given(st.floats(-90, 90), colors)
def test_opposite_hues_cancel(degrees, rgb):
    np.testing.assert_allclose(applied(hue(degrees).then(hue(-degrees)), rgb), rgb, atol=1e-6)


@given(factors)
def test_contrast_pivots_on_mid_grey(factor):
    np.testing.assert_allclose(applied(contrast(factor), np.full(3, 127.5)), 127.5, atol=1e-9)


@pytest.mark.parametrize("neutral", [brightness(1), contrast(1), saturation(1), hue(0), hue(360)])
def test_neutral_adjustments_are_the_identity(neutral):
    assert neutral.is_identity


@pytest.mark.parametrize("active", [brightness(1.1), contrast(0.9), saturation(0), hue(5), grayscale()])
def test_others_are_not_the_identity(active):
    assert not active.is_identity


# ---- examples ----


@pytest.mark.parametrize(
    ("some", "expected"),
    [
        (brightness(2), (200, 100, 20)),
        (contrast(2), (72.5, -27.5, -107.5)),
        (saturation(2), (139.61, 39.61, -40.39)),
        (grayscale(), (60.39, 60.39, 60.39)),
        (brightness(2).then(contrast(0.5)), (163.75, 113.75, 73.75)),
        (contrast(0.5).then(brightness(2)), (227.5, 177.5, 137.5)),
    ],
)
def test_maps_of_100_50_10(some, expected):
    # luma is 0.299 * 100 + 0.587 * 50 + 0.114 * 10 = 60.39
    np.testing.assert_allclose(applied(some, np.array([100, 50, 10])), expected, atol=1e-9)


def test_a_third_of_the_hue_circle_moves_red_towards_green_or_blue():
    r, g, b = np.clip(applied(hue(120), np.array([255.0, 0, 0])), 0, 255) / 255
    turned = colorsys.rgb_to_hsv(r, g, b)[0] * 360
    assert min(abs(turned - 120), abs(turned - 240)) < 30
