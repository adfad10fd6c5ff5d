"""The plain view equals offline preprocessing; exact views copy pixels; sizes are bounded."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.patterns import noise, smooth
from tests.support.preparations import (
    EXACT_VIEWS,
    MEAN,
    PREPARATIONS,
    RAW,
    SAMPLED_VIEWS,
    STD,
    framed,
    prepared,
    viewed,
    written,
)
from tta_server.errors import TooLarge
from tta_server.imaging.decoding import Limits
from tta_server.imaging.normalization import Channels, Normalization
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.imaging.sizes import short_side
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import Border, View

# ---- exactness ----


NUMPY = {
    "hflip": lambda a: a[:, :, ::-1],
    "vflip": lambda a: a[:, ::-1],
    "transpose": lambda a: a.transpose(0, 2, 1),
    "antitranspose": lambda a: np.rot90(a, 2, (1, 2)).transpose(0, 2, 1),
}


@prepared
@given(st.sampled_from(list(NUMPY)), st.builds(Size, st.integers(5, 90), st.integers(5, 90)))
def test_a_symmetry_of_the_view_is_the_symmetry_of_the_plain_view(prep, name, image):
    pixels = noise(image)
    plain, moved = (framed(*viewed(prep, pixels, read_view(spec))) for spec in ("identity", name))
    np.testing.assert_array_equal(moved, NUMPY[name](plain))


@prepared
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_equal_numpy_s(prep, turns):
    pixels = noise(Size(83, 67))
    plain, moved = (framed(*viewed(prep, pixels, read_view(spec))) for spec in ("identity", {"rot90": turns}))
    np.testing.assert_array_equal(moved, np.rot90(plain, turns, (1, 2)))


PAD_MODES = {"reflect101": "reflect", "reflect": "symmetric", "replicate": "edge", "constant": "constant"}


@pytest.mark.parametrize("border", PAD_MODES)
@pytest.mark.parametrize("image", [Size(30, 20), Size(5, 3)])  # the second is reflected several times over
def test_a_shift_shows_the_border_rule_beyond_the_canvas(image, border):
    pixels = noise(image)
    tensor, placement = viewed(PREPARATIONS["free"], pixels, read_view({"shift": [9, -7], "border": border}))
    wide = np.pad(pixels.transpose(2, 0, 1), ((0, 0), (9, 9), (9, 9)), PAD_MODES[border])
    expected = wide[:, 16 : 16 + image.height, : image.width]
    np.testing.assert_array_equal(framed(tensor, placement), expected)


def test_a_shifted_window_shows_the_canvas_not_the_border():
    prep = PREPARATIONS["crop"]
    pixels = noise(Size(80, 56))  # the canvas, exactly
    tensor, _ = viewed(prep, pixels, read_view({"shift": [-10, 6], "border": "constant"}))
    np.testing.assert_array_equal(tensor, pixels[2:42, 26:74].transpose(2, 0, 1))


def test_the_constant_border_is_black_before_normalisation():
    prep = Preprocessing(Size(8, 6), Resize.EXACT, normalization=Normalization(255, MEAN, STD))
    tensor, _ = viewed(prep, noise(Size(8, 6)), read_view({"shift": [2, 0], "border": "constant"}))
    black = -np.array(MEAN) / STD
    np.testing.assert_allclose(tensor[:, :, :2], np.broadcast_to(black.reshape(3, 1, 1), (3, 6, 2)), rtol=1e-6)


@prepared
def test_writing_views_does_not_change_the_canvas(prep):
    pixels = noise(Size(90, 70))
    views = [read_view(spec) for spec in ("identity", "hflip", {"rotate": 9}, {"brightness": 1.4}, {"shift": [3, 1]})]
    canvas = prep.canvas(pixels, 1.0)
    placed = [(view, prep.place(view, Size(90, 70))) for view in views]
    once = [written(prep, canvas, *one).copy() for one in placed]
    for (view, placement), before in zip(reversed(placed), reversed(once), strict=True):
        np.testing.assert_array_equal(written(prep, canvas, view, placement), before)
        np.testing.assert_array_equal(viewed(prep, pixels, view)[0], before)


@prepared
@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_a_pillow_image_becomes_the_canvas_that_its_pixels_become(prep, scale):
    pixels = noise(Size(90, 70))
    expected = prep.canvas(pixels, scale).planes
    np.testing.assert_array_equal(prep.canvas(Image.fromarray(pixels), scale).planes, expected)


# ---- equality with offline preprocessing ----


def resized(pixels, size, interpolation="bilinear"):
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling[interpolation.upper()]))


def offline_short_side(pixels, length, interpolation="bilinear"):
    """Resize as torchvision's resize(length), which truncates the long side."""
    height, width = pixels.shape[:2]
    short, long = min(width, height), max(width, height)
    new_long = int(length * long / short)
    size = (length, new_long) if width <= height else (new_long, length)
    return resized(pixels, size, interpolation)


def offline_centre_crop(pixels, size):
    """Crop as torchvision's center_crop."""
    top = round((pixels.shape[0] - size.height) / 2.0)
    left = round((pixels.shape[1] - size.width) / 2.0)
    return pixels[top : top + size.height, left : left + size.width]


def offline_letterbox(pixels, size, fill):
    height, width = pixels.shape[:2]
    ratio = min(size.width / width, size.height / height)
    inner = resized(pixels, (max(1, round(width * ratio)), max(1, round(height * ratio))))
    whole = np.full((size.height, size.width, *pixels.shape[2:]), fill, np.uint8)
    top, left = (size.height - inner.shape[0]) // 2, (size.width - inner.shape[1]) // 2
    whole[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return whole


def normalised(pixels, mean, std):
    """Apply torchvision's ToTensor and Normalize: (H, W, C) uint8 -> (C, H, W) float32."""
    planes = np.atleast_3d(pixels).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return (planes - np.float32(mean).reshape(-1, 1, 1)) / np.float32(std).reshape(-1, 1, 1)


images_of_any_shape = st.builds(Size, st.integers(1, 120), st.integers(1, 120))


@given(images_of_any_shape, st.builds(Size, st.integers(1, 40), st.integers(1, 40)), st.integers(0, 20))
def test_short_side_and_centre_crop_equal_torchvision(image, size, extra):
    prep = Preprocessing(size, Resize.SHORT, max(size) + extra, normalization=Normalization(255, MEAN, STD))
    pixels = noise(image)
    tensor, _ = viewed(prep, pixels, View())
    expected = offline_centre_crop(offline_short_side(pixels, max(size) + extra), size)
    np.testing.assert_array_equal(tensor, normalised(expected, MEAN, STD))


@given(images_of_any_shape, st.builds(Size, st.integers(1, 40), st.integers(1, 40)), st.floats(0.6, 1))
def test_squashing_and_a_centre_crop_equal_timm(image, size, share):
    whole = Size(math.floor(size.width / share), math.floor(size.height / share))
    prep = Preprocessing(size, Resize.EXACT, crop_from=whole, normalization=Normalization(255, MEAN, STD))
    pixels = noise(image)
    expected = normalised(offline_centre_crop(resized(pixels, whole), size), MEAN, STD)
    np.testing.assert_array_equal(viewed(prep, pixels, View())[0], expected)


@given(images_of_any_shape, st.builds(Size, st.integers(1, 40), st.integers(1, 40)), st.floats(0.6, 1))
def test_covering_and_a_centre_crop_equal_timm(image, size, share):
    """As timm does for inputs that are not square: ResizeKeepRatio, then CenterCrop."""
    whole = Size(math.floor(size.width / share), math.floor(size.height / share))
    prep = Preprocessing(size, Resize.COVER, crop_from=whole, normalization=Normalization(255, MEAN, STD))
    pixels = noise(image)
    ratio = min(image.width / whole.width, image.height / whole.height)
    canvas = Size(round(image.width / ratio), round(image.height / ratio))
    expected = normalised(offline_centre_crop(resized(pixels, canvas), size), MEAN, STD)
    np.testing.assert_array_equal(viewed(prep, pixels, View())[0], expected)


@given(images_of_any_shape, st.builds(Size, st.integers(1, 40), st.integers(1, 40)))
def test_exact_resize_equals_pillow(image, size):
    prep = Preprocessing(size, Resize.EXACT, normalization=Normalization(255, MEAN, STD))
    pixels = noise(image)
    np.testing.assert_array_equal(viewed(prep, pixels, View())[0], normalised(resized(pixels, size), MEAN, STD))


@given(images_of_any_shape, st.builds(Size, st.integers(1, 40), st.integers(1, 40)), st.integers(0, 255))
def test_letterbox_equals_resizing_and_pasting_in_the_middle(image, size, fill):
    prep = Preprocessing(size, Resize.LETTERBOX, letterbox_fill=fill, normalization=Normalization(255, MEAN, STD))
    pixels = noise(image)
    expected = normalised(offline_letterbox(pixels, size, fill), MEAN, STD)
    np.testing.assert_array_equal(viewed(prep, pixels, View())[0], expected)


@given(st.builds(Size, st.integers(1, 40), st.integers(1, 40)), st.integers(1, 32))
def test_free_size_is_padded_by_reflection_to_the_multiple(image, multiple):
    pixels = noise(image)
    tensor, _ = viewed(Preprocessing(multiple=multiple), pixels, View())
    right, below = -image.width % multiple, -image.height % multiple
    expected = np.pad(normalised(pixels, 0, 1), ((0, 0), (0, below), (0, right)), "reflect")
    np.testing.assert_array_equal(tensor, expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_every_interpolation_equals_pillow(interpolation):
    prep = Preprocessing(None, Resize.SHORT, 31, interpolation=interpolation, normalization=RAW)
    pixels = noise(Size(90, 61))
    tensor, _ = viewed(prep, pixels, View())
    np.testing.assert_array_equal(tensor, offline_short_side(pixels, 31, interpolation).transpose(2, 0, 1))


def as_channels(pixels, channels):
    if channels is Channels.GREY:
        return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
    return pixels[:, :, ::-1] if channels is Channels.BGR else pixels


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", list(Channels))
@pytest.mark.parametrize("resize", [Resize.SHORT, Resize.EXACT, Resize.LETTERBOX])
def test_channels_layout_and_dtype(resize, channels, layout, dtype):
    size = Size(30, 24)
    mean, std = (MEAN, STD) if channels is not Channels.GREY else ((0.5,), (0.25,))
    prep = Preprocessing(
        size,
        resize,
        33,
        channels=channels,
        layout=layout,
        dtype=np.dtype(dtype),
        normalization=Normalization(255, mean, std),
    )
    pixels = as_channels(noise(Size(75, 52)), channels)
    offline = {
        Resize.SHORT: lambda p: offline_centre_crop(offline_short_side(p, 33), size),
        Resize.EXACT: lambda p: resized(p, size),
        Resize.LETTERBOX: lambda p: offline_letterbox(p, size, 114),
    }[resize]
    small = np.stack([offline(np.ascontiguousarray(pixels[:, :, c])) for c in range(pixels.shape[2])], axis=2)
    expected = small.transpose(2, 0, 1) if dtype is np.uint8 else normalised(small, mean, std).astype(dtype)
    tensor, _ = viewed(prep, noise(Size(75, 52)), View())
    assert tensor.dtype == dtype
    np.testing.assert_array_equal(tensor, expected if layout == "NCHW" else expected.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("prep", "image", "window"),
    [
        (Preprocessing(normalization=RAW), Size(33, 21), np.s_[:, :]),
        (Preprocessing(Size(33, 21), Resize.EXACT, normalization=RAW), Size(33, 21), np.s_[:, :]),
        (Preprocessing(Size(33, 21), Resize.LETTERBOX, normalization=RAW), Size(33, 21), np.s_[:, :]),
        (Preprocessing(Size(16, 16), Resize.SHORT, 21, normalization=RAW), Size(33, 21), np.s_[2:18, 8:24]),
    ],
)
def test_nothing_differs_where_nothing_is_resized(prep, image, window):
    pixels = noise(image)
    np.testing.assert_array_equal(viewed(prep, pixels, View())[0], pixels[window].transpose(2, 0, 1))


# ---- bounds ----


@pytest.mark.parametrize(
    ("prep", "image", "view"),
    [
        (Preprocessing(Size(128, 128), Resize.SHORT, 146), Size(60000, 1), View()),
        (Preprocessing(Size(128, 128), Resize.SHORT, 146), Size(1, 60000), View()),
        (Preprocessing(None, Resize.SHORT, 146, max_size=16384), Size(60000, 1), View()),
        (Preprocessing(max_size=16384), Size(5000, 4000), View()),
        (Preprocessing(max_size=16384), Size(16385, 1), View()),
        (Preprocessing(max_size=4096), Size(2500, 2500), View(scale=4)),
        (Preprocessing(max_size=8192), Size(8000, 100), View(scale=4)),
        (Preprocessing(max_size=8192, multiple=512), Size(8192, 1950), View()),
        (Preprocessing(max_size=1024, tile=512), Size(5001, 5000), View()),
        (Preprocessing(max_size=1024, tile=512), Size(65_536, 1), View()),
        (Preprocessing(max_size=1024, tile=512), Size(2600, 2600), View(scale=2)),
        (Preprocessing(max_size=8192, tile=4096), Size(4000, 9000), View()),
        (Preprocessing(), Size(1025, 10), View()),
    ],
)
def test_a_canvas_or_input_over_the_limits_is_refused(prep, image, view):
    with pytest.raises(TooLarge, match=f"^the image is {image}"):
        prep.check([View(), view], image, Limits())


@pytest.mark.parametrize(
    ("prep", "image"),
    [
        (Preprocessing(Size(64, 64), Resize.LETTERBOX), Size(60000, 1)),
        (Preprocessing(Size(64, 64), Resize.EXACT), Size(1, 60000)),
        (Preprocessing(), Size(1024, 1024)),
        (Preprocessing(Size(128, 128), Resize.SHORT, 146), Size(5000, 5000)),
        (Preprocessing(None, Resize.SHORT, 100), Size(5000, 5000)),
        (Preprocessing(max_size=1024, tile=512), Size(4472, 3577)),
        (Preprocessing(max_size=1024, tile=512), Size(40_000, 100)),
        (Preprocessing(None, Resize.SHORT, 800, 1333, max_size=1333), Size(1920, 1080)),
    ],
)
def test_sizes_within_the_limits_pass(prep, image):
    prep.check([View(), View(scale=1.25)], image, Limits())


@pytest.mark.parametrize(
    ("prep", "image", "limits", "named"),
    [
        (Preprocessing(max_size=1024, tile=512), Size(6000, 5000), Limits(), "25000000 pixels .--max-pixels raises"),
        (Preprocessing(max_size=8192), Size(5000, 5000), Limits(), "16000000 pixels .* smaller input.resize"),
        (Preprocessing(), Size(1025, 10), Limits(), "limit is 1024 pixels on the long side.* input.max_size"),
    ],
)
def test_a_refusal_names_the_option_that_raises_the_limit(prep, image, limits, named):
    with pytest.raises(TooLarge, match=named):
        prep.check([View()], image, limits)


def test_max_pixels_raises_the_limit_of_a_tiled_canvas_but_not_of_an_input():
    prep, image = Preprocessing(max_size=1024, tile=512), Size(9000, 9000)
    prep.check([View()], image, Limits(max_pixels=90_000_000))
    with pytest.raises(TooLarge, match="given 9000x9000 at once"):
        Preprocessing(max_size=9000).check([View()], image, Limits(max_pixels=90_000_000))


@given(images_of_any_shape, st.integers(2, 40), st.integers(1, 40))
def test_a_limited_long_side_equals_pillow_at_torchvision_s_size(image, length, more):
    prep = Preprocessing(None, Resize.SHORT, length, length + more, normalization=Normalization(255, MEAN, STD))
    pixels = noise(image)
    expected = normalised(resized(pixels, short_side(image, length, length + more)), MEAN, STD)
    np.testing.assert_array_equal(viewed(prep, pixels, View())[0], expected)


@prepared
@given(st.builds(Size, st.integers(1, 30), st.integers(1, 30)), st.sampled_from([*EXACT_VIEWS, *SAMPLED_VIEWS]))
def test_every_view_works_on_the_smallest_images(prep, image, spec):
    tensor, placement = viewed(prep, noise(image), read_view(spec))
    assert tensor.shape == (3, placement.tensor.height, placement.tensor.width)
    assert 0 <= tensor.min() <= tensor.max() <= 255


@pytest.mark.parametrize("border", list(Border))
def test_interpolated_pixels_beyond_the_canvas_obey_the_border_rule(border):
    pixels = smooth(Size(40, 30))
    prep = Preprocessing(normalization=RAW)
    tensor, _ = viewed(prep, pixels, read_view({"shift": [6.5, 0], "border": border.value}))
    wide = np.pad(pixels.astype(np.float64), ((0, 0), (7, 0), (0, 0)), PAD_MODES[border.value])
    expected = (wide[:, 0:6] + wide[:, 1:7]) / 2  # pixel 0 shows the canvas at -6.5, half of -7 and half of -6
    np.testing.assert_allclose(tensor.transpose(1, 2, 0)[:, :6], expected, atol=0.01)
