from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from tests.support.patterns import blob, centroid, noise, size_of, smooth
from tta_server.errors import TooLarge
from tta_server.imaging.decoding import Limits
from tta_server.imaging.normalization import Channels, Normalization
from tta_server.imaging.preprocessing import Canvas, Preprocessing, Resize
from tta_server.imaging.sizes import short_side
from tta_server.views import color
from tta_server.views.geometry import Size
from tta_server.views.presets import preset
from tta_server.views.spec import read_view
from tta_server.views.view import Border, View

RAW = Normalization(scale=1)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PREPARATIONS = {
    "crop": Preprocessing(Size(48, 40), Resize.SHORT, 56, normalization=RAW),
    "exact": Preprocessing(Size(57, 44), Resize.EXACT, normalization=RAW),
    "letterbox": Preprocessing(Size(60, 60), Resize.LETTERBOX, normalization=RAW),
    "free": Preprocessing(multiple=16, normalization=RAW),
    "free short": Preprocessing(None, Resize.SHORT, 53, multiple=8, normalization=RAW),
}

EXACT_VIEWS = [
    "identity",
    "hflip",
    "vflip",
    {"rot90": 1},
    {"rot90": 2},
    {"rot90": 3},
    "transpose",
    "antitranspose",
    {"shift": [5, -3]},
    {"shift": [-4, 0], "border": "constant"},
    {"window": "top_left"},
    {"window": "bottom_right"},
    {"scale": 1.25},
    {"scale": 1.25, "window": "top_right"},
    ["hflip", {"shift": [3, 2]}, {"rot90": 1}],
    [{"scale": 1.125}, {"window": "bottom_left"}, "transpose"],
]
SAMPLED_VIEWS = [
    {"rotate": 17},
    {"rotate": -33.5},
    {"rotate": 90.5, "border": "reflect"},
    {"zoom": 1.3},
    {"shift": [2.5, -1.25]},
    {"crop": 0.8},
    {"crop": {"fraction": 0.75, "anchor": "top_left"}},
    {"crop": {"fraction": 0.7, "anchor": "bottom_right"}, "border": "replicate"},
    {"crop": {"fraction": 0.8, "center": [0.3, 0.6]}},
    ["hflip", {"rotate": 10}, {"shift": [4, 3]}],
    [{"rotate": 10}, "hflip"],
    [{"shift": [4, 3]}, {"rot90": 1}, {"crop": {"fraction": 0.8, "anchor": "top_right"}}],
    [{"scale": 1.25}, {"window": "top_left"}, {"rotate": 8}, "transpose"],
    [{"scale": 1.25}, {"window": [0.3, 0.9]}, {"zoom": 1.1}, "vflip"],
]

prepared = pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
shares = st.floats(0, 1)
images = st.builds(Size, st.integers(70, 110), st.integers(70, 110))


def viewed(prep, pixels, view):
    """Return the model's input for a view, and its placement."""
    placement = prep.place(view, size_of(pixels))
    return written(prep, prep.canvas(pixels, view.scale), view, placement), placement


def written(prep, canvas, view, placement):
    batch = prep.empty(1, placement.tensor)
    prep.write(canvas, view, placement, batch[0])
    return batch[0]


def framed(tensor, placement):
    """Return the part of a tensor (C, H, W) that is the view's frame."""
    (x, y), (w, h) = placement.inset, placement.frame
    return tensor[:, y : y + h, x : x + w]


# ---- points follow pixels ----


def on_black(spec):
    """Read a view with black beyond the canvas, so that no second blob is reflected into it."""
    return replace(read_view(spec), border=Border.CONSTANT)


def point_well_inside(placement, magnification, share, sigma):
    """Return a point of the frame at a blob's width from its edges, and its point on the canvas, (1, 2) each."""
    margin = 4.5 * sigma * magnification
    frame = np.array(placement.frame, float)
    assume((frame > 2 * margin).all())
    there = margin + np.array([share]) * (frame - 2 * margin)
    here = placement.to_canvas.apply(there)
    assume((here > 4.5 * sigma).all() and (here < np.array(placement.canvas) - 4.5 * sigma).all())
    return there, here


@prepared
@given(st.sampled_from(EXACT_VIEWS), images, st.tuples(shares, shares))
def test_points_follow_pixels_exactly_in_exact_views(prep, spec, image, share):
    view = on_black(spec)
    placement = prep.place(view, image)
    assert placement.exact
    assert_pixels_follow(prep, view, placement, share, 1e-3)


@prepared
@given(st.sampled_from(SAMPLED_VIEWS), images, st.tuples(shares, shares))
def test_points_follow_pixels_in_interpolated_views(prep, spec, image, share):
    view = on_black(spec)
    assert_pixels_follow(prep, view, prep.place(view, image), share, 0.05)


@prepared
@given(st.floats(-180, 180), st.floats(1, 1.3), images, st.tuples(shares, shares))
def test_points_follow_pixels_at_any_angle_and_zoom(prep, degrees, zoom, image, share):
    view = on_black([{"rotate": degrees}, {"zoom": zoom}])
    assert_pixels_follow(prep, view, prep.place(view, image), share, 0.05)


def assert_pixels_follow(prep, view, placement, share, tolerance):
    _, point = point_well_inside(placement, view.geometry.magnification, share, sigma=1.5)
    hill = blob(placement.canvas, point[0], sigma=1.5)
    tensor = written(prep, Canvas(np.stack([hill] * 3), prep), view, placement)
    expected = placement.to_canvas.inverse().apply(centroid(hill))
    np.testing.assert_allclose(centroid(framed(tensor, placement)[0]), expected, atol=tolerance)


@prepared
@given(st.sampled_from([*EXACT_VIEWS, *SAMPLED_VIEWS]), images, st.tuples(shares, shares))
def test_undoing_a_view_moves_its_pixels_to_those_of_the_plain_view(prep, spec, image, share):
    view, plain_view = on_black(spec), View()
    placement, plain = prep.place(view, image), prep.place(plain_view, image)
    shrink = np.array(image) / placement.canvas
    _, on_canvas = point_well_inside(placement, view.geometry.magnification, share, sigma=2.2)
    on_plain = placement.to_plain.apply(placement.to_canvas.inverse().apply(on_canvas))
    assume((on_plain > 9).all() and (on_plain < np.array(plain.frame) - 9).all())
    hill = blob(image, (on_canvas * shrink)[0], sigma=2 * shrink.min())
    pixels = np.repeat(hill[:, :, None], 3, axis=2)
    there, here = (centroid(framed(viewed(prep, pixels, v)[0], prep.place(v, image))[0]) for v in (view, plain_view))
    np.testing.assert_allclose(placement.to_plain.apply(there), here, atol=0.15)


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


# ---- colour ----

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


# ---- sizes ----


@pytest.mark.parametrize(
    ("prep", "image", "scale", "canvas", "tensor", "inset"),
    [
        (Preprocessing(Size(224, 224), Resize.SHORT, 256), Size(500, 375), 1, Size(341, 256), Size(224, 224), (0, 0)),
        (
            Preprocessing(Size(224, 224), Resize.SHORT, 256),
            Size(375, 500),
            1.25,
            Size(320, 426),
            Size(224, 224),
            (0, 0),
        ),
        (Preprocessing(Size(224, 192), Resize.EXACT), Size(50, 600), 1.25, Size(280, 240), Size(224, 192), (0, 0)),
        (Preprocessing(Size(64, 64), Resize.LETTERBOX), Size(200, 100), 1, Size(64, 32), Size(64, 64), (0, 16)),
        (Preprocessing(Size(64, 64), Resize.LETTERBOX), Size(100, 300), 1, Size(21, 64), Size(64, 64), (21, 0)),
        (Preprocessing(Size(64, 64), Resize.LETTERBOX), Size(200, 100), 0.5, Size(32, 16), Size(64, 64), (16, 24)),
        (Preprocessing(multiple=16), Size(33, 16), 1, Size(33, 16), Size(48, 16), (0, 0)),
        (Preprocessing(multiple=16), Size(33, 16), 1.5, Size(50, 24), Size(64, 32), (0, 0)),
    ],
)
def test_sizes_by_hand(prep, image, scale, canvas, tensor, inset):
    placement = prep.place(View(scale=scale), image)
    assert (placement.canvas, placement.tensor, placement.inset) == (canvas, tensor, inset)


@prepared
@given(st.sampled_from([*EXACT_VIEWS, *SAMPLED_VIEWS]), images)
def test_a_tensor_contains_its_frame_and_only_rotated_views_swap_sides(prep, spec, image):
    view = read_view(spec)
    placement, straight = prep.place(view, image), prep.place(View(scale=view.scale, anchor=view.anchor), image)
    assert placement.inset[0] + placement.frame.width <= placement.tensor.width
    assert placement.inset[1] + placement.frame.height <= placement.tensor.height
    assert placement.frame == (straight.frame.swapped if view.geometry.swaps else straight.frame)


@prepared
def test_undoing_the_plain_view_is_the_identity(prep):
    points = np.array([(0.0, 0.0), (11.0, 7.5)])
    np.testing.assert_allclose(prep.place(View(), Size(91, 77)).to_plain.apply(points), points, atol=1e-9)


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


@pytest.mark.parametrize("name", ["five_crop", "ten_crop"])
def test_windows_of_a_model_of_any_size_have_the_plain_size_and_differ(name):
    prep, image = Preprocessing(multiple=16), Size(64, 48)
    placements = [prep.place(view, image) for view in preset(name, crops=False).views]
    assert {placement.frame for placement in placements} == {image}
    assert len({placement.to_plain for placement in placements}) == len(placements)
