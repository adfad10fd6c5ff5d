import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.patterns import noise, size_of, smooth
from tta_server.imaging.normalization import Normalization
from tta_server.imaging.padding import Anchor, Pad
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.masks.maps import ScoreMaps
from tta_server.tasks.masks.output import MapsOutput
from tta_server.tasks.masks.segmentation import Segmentation
from tta_server.tasks.scores.merging import MERGES
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import View

LABELS = ("ground", "tree", "sky")
RAW = Normalization(scale=1)
PREPARATIONS = {
    "exact": Preprocessing(Size(57, 44), Resize.EXACT, normalization=RAW),
    "letterbox": Preprocessing(Size(64, 64), Resize.LETTERBOX, normalization=RAW),
    "top left": Preprocessing(Size(64, 64), Resize.LETTERBOX, letterbox_anchor=Anchor.TOP_LEFT, normalization=RAW),
    "zeros": Preprocessing(None, Resize.LONG, 61, multiple=16, pad=Pad.ZEROS, normalization=RAW),
    "free": Preprocessing(multiple=16, normalization=RAW),
    "free short": Preprocessing(None, Resize.SHORT, 53, multiple=8, normalization=RAW),
    "crop": Preprocessing(Size(48, 40), Resize.SHORT, 56, normalization=RAW),
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
    {"shift": [-8, 6], "border": "constant"},
    {"window": "top_left"},
    {"window": "bottom_right"},
    ["hflip", {"shift": [3, 2]}, {"rot90": 1}],
    ["transpose", {"window": "top_right"}, {"shift": [0, 7]}],
]
SAMPLED_VIEWS = [
    {"rotate": 11},
    {"rotate": -27, "border": "replicate"},
    {"zoom": 1.25},
    {"shift": [2.5, -3.25]},
    {"crop": {"fraction": 0.75, "anchor": "top_left"}},
    {"crop": {"fraction": 0.8, "center": [0.4, 0.7]}},
    {"scale": 1.25},
    [{"scale": 1.25}, {"window": "bottom_right"}, "hflip"],
    ["hflip", {"rotate": 10}, {"shift": [4, 3]}],
    [{"rotate": 10}, "transpose"],
]

prepared = pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
images = st.builds(Size, st.integers(40, 110), st.integers(40, 110))
sizes = st.builds(Size, st.integers(1, 70), st.integers(1, 70))


def task(labels=LABELS, kind="probabilities"):
    return Segmentation(labels, MapsOutput(kind), {"maps": (None, len(labels), None, None)})


def scene_of(prep, image):
    return ImageFrame(image, prep.place(View(), image))


def model_input(prep, pixels, view):
    """The tensor (3, H, W) of one view, as if a model gave it back as its scores, and its placement."""
    placement = prep.place(view, size_of(pixels))
    batch = prep.empty(1, placement.tensor)
    prep.write(prep.canvas(pixels, view.scale), view, placement, batch[0])
    return batch[0], placement


def undone(prep, pixels, spec, stride=1):
    """A view's own pixels, averaged over squares of `stride`, decoded into the plain view's frame."""
    scores, placement = model_input(prep, pixels, read_view(spec))
    scores = pooled(scores, stride)[None]
    return task().decode({"maps": scores}, 0, placement, scene_of(prep, size_of(pixels)))


def pooled(planes, stride):
    channels, height, width = planes.shape
    return planes.reshape(channels, height // stride, stride, width // stride, stride).mean(axis=(2, 4))


def framed(prep, pixels):
    """The plain view's frame (3, h, w)."""
    tensor, placement = model_input(prep, pixels, View())
    (x, y), (w, h) = placement.inset, placement.frame
    return tensor[:, y : y + h, x : x + w]


def covered(maps):
    return np.ones(maps.scores.shape[1:], bool) if maps.coverage is None else maps.coverage == 1


# ---- undo is the inverse ----


@prepared
@given(st.sampled_from(EXACT_VIEWS), images)
def test_undoing_an_exact_view_gives_back_the_plain_view_where_it_is_shown(prep, spec, image):
    pixels = noise(image)
    maps, plain = undone(prep, pixels, spec), framed(prep, pixels)
    here = covered(maps)
    assert maps.scores.shape == plain.shape
    np.testing.assert_array_equal(maps.scores[:, here], plain[:, here])


@prepared
@given(st.sampled_from(SAMPLED_VIEWS), images)
def test_undoing_an_interpolated_view_of_a_smooth_image_nearly_gives_back_the_plain_view(prep, spec, image):
    pixels = smooth(image)
    maps, plain = undone(prep, pixels, spec), framed(prep, pixels)
    inner = room(prep, spec, image, maps) > 1  # at the very edge, half a pixel beyond it is mixed in
    away = np.abs(maps.scores - plain)[:, inner]
    assert away.max(initial=0) < 12
    assert away.sum() <= away.size


@pytest.mark.parametrize("name", ["hflip", "vflip", "transpose", {"rot90": 1}, {"rot90": 3}, {"shift": [8, -4]}])
def test_undoing_at_a_stride_of_4_is_exact_where_squares_fall_on_squares(name):
    prep = Preprocessing(multiple=16, normalization=RAW)
    pixels = noise(Size(48, 32))
    maps = undone(prep, pixels, name, stride=4)
    here = covered(maps)
    assert maps.grid.stride == (4, 4)
    assert here.mean() >= 0.7
    np.testing.assert_array_equal(maps.scores[:, here], pooled(framed(prep, pixels), 4)[:, here])


@pytest.mark.parametrize("image", [Size(96, 64), Size(64, 96), Size(90, 31), Size(64, 51)])
@pytest.mark.parametrize("spec", ["identity", "hflip", "transpose", {"rot90": 3}, {"rotate": 9}, {"crop": 0.8}])
def test_undoing_at_a_stride_of_4_inside_letterbox_bars(spec, image):
    prep = PREPARATIONS["letterbox"]
    pixels = smooth(image)
    maps, plain = undone(prep, pixels, spec, stride=4), framed(prep, pixels)
    inner = room(prep, spec, image, maps) > 6  # further out, squares hold some of the bars
    expected = np.stack([at_cells(plane, maps.scores.shape[1:], 4) for plane in plain])
    assert inner.mean() > 0.2
    np.testing.assert_allclose(maps.scores[:, inner], expected[:, inner], atol=8)


def room(prep, spec, image, maps):
    """How far inside the view's frame each of the grid's centres lies, in pixels; negative outside, (h, w)."""
    placement = prep.place(read_view(spec), image)
    y, x = (np.mgrid[0 : maps.scores.shape[1], 0 : maps.scores.shape[2]] + 0.5) * maps.grid.stride[0]
    u, v = placement.to_plain.inverse().apply(np.stack([x.ravel(), y.ravel()], axis=1)).T
    return np.minimum.reduce([u, placement.frame.width - u, v, placement.frame.height - v]).reshape(x.shape)


def at_cells(plane, shape, stride):
    """A plane's values at the centres of squares of `stride`: the mean of the four pixels around each."""
    rows = np.minimum(np.arange(shape[0]) * stride + stride // 2, plane.shape[0] - 1)
    columns = np.minimum(np.arange(shape[1]) * stride + stride // 2, plane.shape[1] - 1)
    return sum(plane[np.ix_(rows - dy, columns - dx)] for dy in (0, 1) for dx in (0, 1)) / 4


# ---- coverage ----


@prepared
@pytest.mark.parametrize("stride", [1, 2, 4])
@given(sizes)
def test_the_plain_view_covers_the_whole_grid(prep, stride, image):
    plain = prep.place(View(), image)
    shape = (1, 3, -(-plain.tensor.height // stride), -(-plain.tensor.width // stride))
    maps = task().decode({"maps": np.ones(shape, np.float32)}, 0, plain, ImageFrame(image, plain))
    assert covered(maps).all()


@prepared
@given(st.sampled_from([*EXACT_VIEWS, *SAMPLED_VIEWS]), images)
def test_coverage_is_1_where_a_point_lies_in_the_view_s_frame(prep, spec, image):
    maps = undone(prep, noise(image), spec)
    inside = room(prep, spec, image, maps)
    certain = np.abs(inside) > 1e-3
    np.testing.assert_array_equal(covered(maps)[certain], (inside > 0)[certain])


@pytest.mark.parametrize(
    ("spec", "rows", "columns"),
    [
        ({"crop": {"fraction": 0.5, "anchor": "top_left"}}, slice(0, 20), slice(0, 30)),
        ({"crop": {"fraction": 0.5, "anchor": "bottom_right"}}, slice(20, 40), slice(30, 60)),
        ({"crop": 0.5}, slice(10, 30), slice(15, 45)),
        ({"zoom": 2}, slice(10, 30), slice(15, 45)),
        ({"shift": [8, -4]}, slice(4, 40), slice(0, 52)),
        (["hflip", {"shift": [8, 0]}], slice(0, 40), slice(8, 60)),
    ],
)
def test_what_a_view_of_60_by_40_pixels_covers(spec, rows, columns):
    expected = np.zeros((40, 60), bool)
    expected[rows, columns] = True
    np.testing.assert_array_equal(
        covered(undone(Preprocessing(normalization=RAW), noise(Size(60, 40)), spec)), expected
    )


@pytest.mark.parametrize("merge", MERGES)
def test_a_crop_changes_only_what_it_shows(merge):
    prep = Preprocessing(normalization=Normalization(255))
    pixels = smooth(Size(60, 40))
    accumulator = task(kind="logits").accumulator(merge, ResponseSpec(), scene_of(prep, Size(60, 40)))
    plain = undone(prep, pixels, "identity")
    accumulator.add(plain, 1.0)
    before = accumulator.result().scores.copy()
    crop = undone(prep, pixels, {"crop": {"fraction": 0.5, "anchor": "top_left"}})
    accumulator.add(ScoreMaps(10 - 7 * crop.scores, crop.coverage, grid=crop.grid), 1.0)
    after = accumulator.result().scores
    np.testing.assert_allclose(after[:, 20:], before[:, 20:], atol=1e-6)
    np.testing.assert_allclose(after[:, :, 30:], before[:, :, 30:], atol=1e-6)
    assert np.abs(after - before)[:, :20, :30].max() > 0.01
