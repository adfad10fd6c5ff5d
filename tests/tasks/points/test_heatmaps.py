import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.examples import times
from tta_server.errors import ConfigError
from tta_server.imaging.normalization import Normalization
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.points.heatmaps import REACH, peaks
from tta_server.tasks.points.keypoints import Keypoints
from tta_server.tasks.points.output import PointsOutput
from tta_server.tasks.scores.kinds import identity, sigmoid
from tta_server.views.geometry import Affine, Size
from tta_server.views.spec import read_view
from tta_server.views.view import View

LABELS = ("nose", "left", "right")
PARTNER = [0, 2, 1]
PAIRS = (("left", "right"),)
STRIDE = 4
RAW = Normalization(scale=1)
PREPARATIONS = {
    "exact": Preprocessing(Size(96, 72), Resize.EXACT, normalization=RAW),
    "letterbox": Preprocessing(Size(96, 96), Resize.LETTERBOX, normalization=RAW),
    "free": Preprocessing(multiple=16, normalization=RAW),
    "free short": Preprocessing(None, Resize.SHORT, 70, multiple=8, normalization=RAW),
}
TURNS = {
    "identity": lambda maps: maps,
    "hflip": lambda maps: maps[:, :, ::-1],
    "vflip": lambda maps: maps[:, ::-1],
    "rot90": lambda maps: np.rot90(maps, 1, (1, 2)),
    "rot180": lambda maps: np.rot90(maps, 2, (1, 2)),
    "rot270": lambda maps: np.rot90(maps, 3, (1, 2)),
    "transpose": lambda maps: maps.transpose(0, 2, 1),
    "antitranspose": lambda maps: np.rot90(maps, 2, (1, 2)).transpose(0, 2, 1),
}
"""Each symmetry as a function of planes (J, h, w)."""
MIRRORS = ("hflip", "vflip", "transpose", "antitranspose")
SPECS = {name: name for name in ("identity", *MIRRORS)} | {f"rot{90 * n}": {"rot90": n} for n in (1, 2, 3)}
SAMPLED = [
    {"rotate": 13},
    {"rotate": -40, "border": "replicate"},
    {"zoom": 1.3},
    {"shift": [5, -3]},
    {"crop": {"fraction": 0.75, "anchor": "top_left"}},
    {"scale": 1.25},
    [{"scale": 1.25}, {"window": "bottom_right"}, "hflip"],
    ["hflip", {"rotate": 10}, {"shift": [4, 3]}],
]

prepared = pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
images = st.builds(Size, st.integers(70, 120), st.integers(70, 120))
views = st.sampled_from([*SPECS.values(), *SAMPLED])
whole_cells = st.builds(Size, st.integers(18, 30).map(lambda n: 4 * n), st.integers(18, 30).map(lambda n: 4 * n))
offsets = st.sampled_from([0, 0.5])
seeds = st.integers(0, 2**32 - 1)


def task(labels=LABELS, pairs=PAIRS, **form):
    shape = (None, len(labels), None, None)
    return Keypoints(labels, PointsOutput("heatmaps", pairs=pairs, **form), {"maps": shape})


def scene_of(prep, image):
    return ImageFrame(image, prep.place(View(), image))


def hills(tensor, points, offset=0.5, sigma=1.4):
    """Heat maps (J, h, w) of an input of that size, with gaussians around points in its pixels."""
    cells = np.float64(points) / STRIDE + 0.5 - offset
    y, x = np.mgrid[0 : -(-tensor.height // STRIDE), 0 : -(-tensor.width // STRIDE)] + 0.5
    squares = [(x - u) ** 2 + (y - v) ** 2 for u, v in cells]
    return np.exp(-np.array(squares) / (2 * sigma**2)).astype(np.float32)


def inner_points(frame, seed, away=4 * STRIDE):
    """Points of a frame, far enough from its edge for the whole neighbourhood of a centroid."""
    size = np.array(frame, np.float64)
    return away + np.random.default_rng(seed).random((len(LABELS), 2)) * (size - 2 * away)


def to_image(placement, scene):
    """A view's input -> the image's own pixels."""
    return Affine.shift(-placement.inset[0], -placement.inset[1]).then(placement.to_plain).then(scene.to_image)


def merged(keypoints, poses, scene, merge="mean_heatmaps", weights=None):
    accumulator = keypoints.accumulator(merge, ResponseSpec(), scene)
    for pose, weight in zip(poses, weights or [1.0] * len(poses), strict=True):
        accumulator.add(pose, weight)
    return accumulator.result()


def pose_of(prep, image, spec, points, offset=0.5, keypoints=None):
    """The pose decoded from a view whose heat maps have hills at these points of the image."""
    placement, scene = prep.place(read_view(spec), image), scene_of(prep, image)
    maps = hills(placement.tensor, to_image(placement, scene).inverse().apply(points), offset)
    return (keypoints or task(offset=offset)).decode({"maps": maps[None]}, 0, placement, scene)


# ---- undo is the inverse ----


@prepared
@given(views, images, offsets, seeds)
def test_a_hill_in_a_view_s_own_map_comes_back_within_half_a_cell(prep, spec, image, offset, seed):
    placement, scene = prep.place(read_view(spec), image), scene_of(prep, image)
    at = inner_points(placement.frame, seed) + placement.inset
    pose = task(offset=offset, pairs=()).decode(
        {"maps": hills(placement.tensor, at, offset)[None]}, 0, placement, scene
    )
    found = to_image(placement, scene).inverse().apply(pose.xy)
    assert np.abs(found - at).max() <= 0.5 * STRIDE
    assert pose.confidence.min() > 0.85


@prepared
@settings(max_examples=times(40))
@given(views, images, offsets, seeds)
def test_the_mean_of_one_view_s_heat_maps_is_within_a_cell_of_its_hills(prep, spec, image, offset, seed):
    """They are sampled once more, onto the plain view's grid."""
    placement, scene = prep.place(read_view(spec), image), scene_of(prep, image)
    points = to_image(placement, scene).apply(inner_points(placement.frame, seed, away=5 * STRIDE) + placement.inset)
    plain = to_image(scene.plain, scene).inverse().apply(points)
    margin = np.minimum(plain - scene.plain.inset, scene.plain.frame - plain + scene.plain.inset).min(axis=1)
    answer = merged(task(pairs=()), [pose_of(prep, image, spec, points, offset, task(pairs=(), offset=offset))], scene)
    away = to_image(scene.plain, scene).inverse().apply(answer.xy) - plain
    assert np.abs(away[margin > 4 * STRIDE]).max(initial=0) <= STRIDE


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(
    ("prep", "image"),
    [
        (Preprocessing(multiple=4, normalization=RAW), Size(52, 36)),
        (Preprocessing(multiple=16, normalization=RAW), Size(52, 36)),  # padded to 64x48, or turned to 48x64
        (Preprocessing(Size(96, 96), Resize.LETTERBOX, normalization=RAW), Size(96, 64)),
        (Preprocessing(Size(96, 96), Resize.LETTERBOX, normalization=RAW), Size(30, 90)),
        (Preprocessing(Size(96, 72), Resize.EXACT, normalization=RAW), Size(31, 47)),
    ],
)
@settings(max_examples=times(40))
@given(seed=seeds)
def test_flips_and_quarter_turns_of_heat_maps_are_undone_value_for_value(turn, prep, image, seed):
    """For any values in padding or bars."""
    source, keypoints, scene = np.random.default_rng(seed), task(), scene_of(prep, image)
    plain, view = scene.plain, prep.place(read_view(SPECS[turn]), image)
    maps = source.random((3, plain.frame.height // STRIDE, plain.frame.width // STRIDE), np.float32)
    named = maps[PARTNER] if turn in MIRRORS else maps
    straight = keypoints.decode({"maps": around(plain, maps, source)}, 0, plain, scene)
    turned = keypoints.decode({"maps": around(view, TURNS[turn](named), source)}, 0, view, scene)
    for pose in (straight, turned):
        assert keypoints.move_maps(pose.maps).coverage is None
        np.testing.assert_array_equal(keypoints.move_maps(pose.maps).scores, maps)


def around(placement, inner, source):
    """Heat maps (1, J, h, w) of a whole input, with noise outside its frame."""
    x, y = (side // STRIDE for side in placement.inset)
    shape = (1, len(inner), placement.tensor.height // STRIDE, placement.tensor.width // STRIDE)
    whole = source.random(shape, np.float32)
    whole[0, :, y : y + inner.shape[1], x : x + inner.shape[2]] = inner
    return whole


@pytest.mark.parametrize("turn", TURNS)
@settings(max_examples=times(40))
@given(whole_cells, seeds)
def test_with_an_offset_of_0_flips_and_turns_are_undone_within_half_a_pixel(turn, image, seed):
    """The first cell's centre lies on the frame's edge then, and no cell's on the edge across."""
    prep = Preprocessing(multiple=4, normalization=RAW)
    points = inner_points(image, seed)
    named = points[PARTNER] if turn in MIRRORS else points
    keypoints, scene = task(offset=0), scene_of(prep, image)
    straight = merged(keypoints, [pose_of(prep, image, "identity", points, 0)], scene)
    turned = merged(keypoints, [pose_of(prep, image, SPECS[turn], named, 0)], scene)
    tie = np.abs(points / STRIDE % 1 - 0.5).min(axis=1) < 0.02  # rounding decides which of two cells is the peak
    assert np.abs(turned.xy - straight.xy)[~tie].max(initial=0) <= 0.5


@pytest.mark.parametrize("spec", [{"rot90": 1}, {"rot90": 3}, "transpose", {"scale": 1.25}], ids=str)
@pytest.mark.parametrize("image", [Size(90, 78), Size(81, 95)])
def test_maps_whose_cells_do_not_fill_the_input_are_moved_back_too(spec, image):
    """A model of stride 4 that leaves out the last pixels gives 22x19 cells for 90x78, and 28x24 for 112x98."""
    scene, points = scene_of(PLAIN, image), np.array([(30, 40), (50, 20), (20, 55)])
    poses = []
    for view in ("identity", spec):
        placement = PLAIN.place(read_view(view), image)
        maps = hills(placement.tensor, to_image(placement, scene).inverse().apply(points))
        cells = maps[None, :, : placement.tensor.height // STRIDE, : placement.tensor.width // STRIDE]
        poses.append(task(pairs=()).decode({"maps": cells}, 0, placement, scene))
    answer = merged(task(pairs=()), poses, scene)
    assert np.abs(answer.xy - points).max() <= 0.5 * STRIDE


# ---- other forms of the same maps ----


@prepared
@settings(max_examples=times(40))
@given(views, images, seeds)
def test_maps_whose_points_come_last_are_the_same_maps(prep, spec, image, seed):
    placement, scene = prep.place(read_view(spec), image), scene_of(prep, image)
    maps = hills(placement.tensor, inner_points(placement.frame, seed) + placement.inset)
    last = Keypoints(LABELS, PointsOutput("heatmaps", pairs=PAIRS, layout="NHWC"), {"maps": (None, None, None, 3)})
    one = task().decode({"maps": maps[None]}, 0, placement, scene)
    other = last.decode({"maps": maps.transpose(1, 2, 0)[None]}, 0, placement, scene)
    np.testing.assert_array_equal(other.xy, one.xy)
    np.testing.assert_array_equal(other.confidence, one.confidence)
    np.testing.assert_array_equal(last.move_maps(other.maps).scores, task().move_maps(one.maps).scores)


@prepared
@settings(max_examples=times(40))
@given(views, images, seeds)
def test_raw_maps_are_those_that_are_clipped_before(prep, spec, image, seed):
    placement, scene = prep.place(read_view(spec), image), scene_of(prep, image)
    maps = 1.3 * hills(placement.tensor, inner_points(placement.frame, seed) + placement.inset) - 0.3
    maps += np.random.default_rng(seed).normal(0, 0.02, maps.shape).astype(np.float32)
    raw, own = task(scores="raw"), task()
    one = own.decode({"maps": np.clip(maps, 0, 1)[None]}, 0, placement, scene)
    other = raw.decode({"maps": maps[None]}, 0, placement, scene)
    clear = maps.max(axis=(1, 2)) < 1  # else the largest of several cells that are 1 after clipping is known to one
    order = PARTNER if placement.mirrors else [0, 1, 2]
    np.testing.assert_array_equal(other.xy[clear[order]], one.xy[clear[order]])
    np.testing.assert_array_equal(other.confidence, one.confidence)
    np.testing.assert_array_equal(raw.move_maps(other.maps).scores, own.move_maps(one.maps).scores)


def test_raw_maps_by_hand():
    """Beside the peak at cell (3, 1) of 1.5, which counts as 1, lie 0.5 and -0.5, which counts as 0."""
    maps = np.full((1, 1, 4, 8), -0.1, np.float32)
    maps[0, 0, 1, 2:5] = 0.5, 1.5, -0.5
    pose = task(("tip",), None, scores="raw").decode({"maps": maps}, 0, SCENE.plain, SCENE)
    np.testing.assert_allclose(pose.xy, [(4 * (3.5 - 0.5 / 1.5), 6)])
    np.testing.assert_array_equal(pose.confidence, [1])


# ---- merging ----

PLAIN = Preprocessing(normalization=RAW)


@prepared
@pytest.mark.parametrize("turn", ["hflip", "vflip", "rot180"])
@settings(max_examples=times(40))
@given(images, seeds)
def test_the_mean_of_a_view_and_its_flip_of_the_same_scene_is_the_view(prep, turn, image, seed):
    scene = scene_of(prep, image)
    plain = scene.plain
    snug = all(side % STRIDE == 0 for side in (*plain.frame, *plain.inset))
    points = to_image(plain, scene).apply(inner_points(plain.frame, seed) + plain.inset)
    named = points[PARTNER] if turn in MIRRORS else points
    alone = pose_of(prep, image, "identity", points)
    answer = merged(task(), [alone, pose_of(prep, image, SPECS[turn], named)], scene)
    cell = STRIDE * np.abs(to_image(plain, scene).apply([(1, 1)]) - to_image(plain, scene).apply([(0, 0)]))
    assert (np.abs(answer.xy - merged(task(), [alone], scene).xy) <= (1e-3 if snug else 1) * cell).all()
    np.testing.assert_array_equal(answer.visible_in, 2)


@prepared
@pytest.mark.parametrize("merge", ["mean_heatmaps", "mean_coordinates"])
@settings(max_examples=times(40))
@given(st.lists(views, min_size=2, max_size=4), images, seeds, st.randoms(use_true_random=False))
def test_order_does_not_matter(prep, merge, specs, image, seed, order):
    scene = scene_of(prep, image)
    points = to_image(scene.plain, scene).apply(inner_points(scene.plain.frame, seed) + scene.plain.inset)
    poses = [pose_of(prep, image, spec, points + k) for k, spec in enumerate(specs)]
    weights = [1.0 + k for k in range(len(specs))]
    shuffled = list(range(len(specs)))
    order.shuffle(shuffled)
    one = merged(task(), poses, scene, merge, weights)
    other = merged(task(), [poses[k] for k in shuffled], scene, merge, [weights[k] for k in shuffled])
    np.testing.assert_allclose(one.xy, other.xy, atol=1e-3)
    np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-6)
    np.testing.assert_allclose(one.spread, other.spread, atol=1e-3)


SCENE = scene_of(PLAIN, Size(32, 16))
TIP = task(("tip",), None)


def tip(cells, view="identity"):
    """The pose of a view of 32x16 pixels, 8x4 cells for most, with values at some cells (x, y)."""
    placement = PLAIN.place(read_view(view), SCENE.image)
    maps = np.zeros((1, 1, 4, 8), np.float32)
    for (x, y), value in cells.items():
        maps[0, 0, y, x] = value
    return TIP.decode({"maps": maps}, 0, placement, SCENE)


def test_heat_maps_are_summed_before_the_peak_is_searched():
    """Two views have peaks at cells 6 apart and a lower value at one between: there the sum is largest."""
    answer = merged(TIP, [tip({(0, 1): 0.6, (4, 1): 0.5}), tip({(7, 1): 0.6, (4, 1): 0.5})], SCENE)
    assert answer.confidence == pytest.approx([0.5])
    np.testing.assert_allclose(answer.xy, [(4 * 4 + 2, 6)])
    two = merged(TIP, [tip({(0, 1): 0.6}), tip({(7, 1): 0.6})], SCENE, "mean_coordinates")
    np.testing.assert_allclose(two.xy, [(16, 6)])


def test_heat_maps_count_by_weight():
    """(0.6 x 3 + 0) / 4 = 0.45 beats (0 + 0.8) / 4 = 0.2."""
    answer = merged(TIP, [tip({(1, 2): 0.6}), tip({(6, 2): 0.8})], SCENE, weights=[3.0, 1.0])
    np.testing.assert_allclose(answer.xy, [(6, 10)])
    assert answer.confidence == pytest.approx([0.45])


def test_the_spread_of_heat_maps_is_that_of_each_view_s_own_points():
    """From the peak at (6, 10), one view's own point is 0 away and the other's 20, at 0.6 x 3 and 0.8 x 1."""
    answer = merged(TIP, [tip({(1, 2): 0.6}), tip({(6, 2): 0.8})], SCENE, weights=[3.0, 1.0])
    assert answer.spread == pytest.approx([(0.8 * 400 / 2.6) ** 0.5])


@pytest.mark.parametrize("merge", ["mean_heatmaps", "mean_coordinates"])
@given(st.floats(0, 0.2))
def test_a_crop_does_not_move_a_point_that_it_does_not_show(merge, level):
    """The crop shows the right half of the frame's middle, and has a peak there."""
    crop = {"crop": {"fraction": 0.5, "anchor": "bottom_right"}}
    plain = tip({(1, 1): 0.9})
    answer = merged(TIP, [plain, tip({(5, 2): level}, crop)], SCENE, merge)
    np.testing.assert_allclose(answer.xy, [(6, 6)], atol=1e-6)
    np.testing.assert_allclose(answer.confidence, [0.9], atol=1e-6)
    np.testing.assert_array_equal(answer.visible_in, [1])
    np.testing.assert_allclose(answer.spread, [0], atol=1e-6)


def test_a_weight_for_each_label_is_that_map_s_own():
    keypoints = task(("a", "b"), ())
    maps = np.zeros((2, 1, 2, 4, 8), np.float32)
    maps[0, 0, :, 1, 1] = maps[1, 0, :, 1, 6] = 0.8
    poses = [keypoints.decode({"maps": m}, 0, SCENE.plain, SCENE) for m in maps]
    answer = merged(keypoints, poses, SCENE, weights=[(3.0, 1.0), (1.0, 3.0)])
    np.testing.assert_allclose(answer.xy, [(6, 6), (26, 6)])
    np.testing.assert_allclose(answer.confidence, 0.6, atol=1e-6)


# ---- peaks ----


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("merge", ["mean_heatmaps", "mean_coordinates"])
@pytest.mark.parametrize(("scores", "level"), [("probabilities", 0.0), ("logits", -1e4), ("logits", -30.0)])
def test_an_empty_heat_map_gives_an_invisible_point(merge, scores, level):
    keypoints = task(scores=scores)
    maps = np.full((1, 3, 4, 8), level, np.float32)
    poses = [keypoints.decode({"maps": maps}, 0, SCENE.plain, SCENE) for _ in range(2)]
    assert all(map(keypoints.is_sound, poses))
    answer = merged(keypoints, poses, SCENE, merge)
    assert np.isfinite(answer.xy).all()
    assert np.isfinite(answer.spread).all()
    assert answer.confidence.max() < 1e-6
    assert not keypoints.result(answer, [], SCENE, ResponseSpec()).visible.any()


@pytest.mark.parametrize("scores", ["probabilities", "logits"])
def test_negative_values_of_a_map_move_no_point(scores):
    maps = np.full((1, 1, 4, 8), -0.09 if scores == "probabilities" else -30, np.float32)
    maps[0, 0, 1, 1] = 1 if scores == "probabilities" else 30
    pose = task(("tip",), None, scores=scores).decode({"maps": maps}, 0, SCENE.plain, SCENE)
    np.testing.assert_allclose(pose.xy, [(6, 6)], atol=1e-6)
    np.testing.assert_allclose(pose.confidence, [1])


@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
def test_a_map_of_one_cell_points_at_its_middle(level):
    points, tops = peaks(np.full((2, 1, 1), level, np.float32), identity)
    np.testing.assert_allclose(points, 0.5)
    np.testing.assert_allclose(tops, level)


@given(st.integers(1, 9), st.integers(1, 9), seeds)
def test_a_single_cell_is_found_wherever_it_is(width, height, seed):
    """At each border and corner too."""
    for y in range(height):
        for x in range(width):
            maps = np.zeros((1, height, width), np.float32)
            maps[0, y, x] = 0.7
            points, tops = peaks(maps, identity)
            np.testing.assert_allclose(points, [(x + 0.5, y + 0.5)])
            np.testing.assert_allclose(tops, [0.7])


@given(st.integers(1, 12), st.integers(1, 12), seeds)
def test_a_point_lies_in_its_map_and_within_reach_of_the_peak(width, height, seed):
    maps = np.random.default_rng(seed).random((4, height, width), np.float32)
    points, tops = peaks(maps, identity)
    assert (points > 0).all()
    assert (points < (width, height)).all()
    for plane, (x, y), top in zip(maps, points, tops, strict=True):
        row, column = np.unravel_index(plane.argmax(), plane.shape)
        assert top == plane.max()
        assert max(abs(x - column - 0.5), abs(y - row - 0.5)) <= REACH


@given(st.integers(3, 12), st.integers(3, 12), seeds)
def test_peaks_of_a_mirrored_map_are_mirrored(width, height, seed):
    """Drawn without ties: of those the first cell in reading order is taken."""
    maps = np.random.default_rng(seed).permutation(4 * width * height).reshape(4, height, width).astype(np.float32)
    points, _ = peaks(maps, identity)
    mirrored, _ = peaks(maps[:, :, ::-1], identity)
    turned, _ = peaks(maps.transpose(0, 2, 1), identity)
    np.testing.assert_allclose(mirrored, (width, 0) + points * (-1, 1))
    np.testing.assert_allclose(turned, points[:, ::-1])


def test_the_peak_of_logits_is_found_where_their_probabilities_are_all_1():
    """In single precision, which has no number between 1 - 6e-8 and 1."""
    maps = 30 + 10 * hills(Size(32, 32), [(18, 14)])
    points, tops = peaks(maps, sigmoid)
    np.testing.assert_allclose(points * STRIDE, [(18, 14)])
    np.testing.assert_array_equal(tops, 1)


def test_a_point_is_the_centroid_around_the_peak():
    """5 at cell 2 and 3 at cell 3: 3/8 of a cell further; cell 6 is out of reach."""
    maps = np.zeros((1, 3, 8), np.float32)
    maps[0, 1, 2], maps[0, 1, 3], maps[0, 1, 6] = 0.5, 0.3, 0.4
    points, tops = peaks(maps, identity)
    np.testing.assert_allclose(points, [(2.5 + 3 / 8, 1.5)])
    np.testing.assert_allclose(tops, [0.5])


@pytest.mark.parametrize("edge", ["left", "right", "top", "bottom"])
def test_a_hill_at_the_edge_is_found_within_a_cell(edge):
    point = {"left": (1, 31), "right": (95, 31), "top": (43, 1), "bottom": (43, 63)}[edge]
    points, _ = peaks(hills(Size(96, 64), [point]), identity)
    assert np.abs(points * STRIDE - point).max() <= STRIDE


def test_cells_lie_where_offset_says():
    """Cell (3, 1) at stride 4: its centre at 4 x 3 + 2, or at 4 x 3."""
    maps = np.zeros((1, 1, 4, 8), np.float32)
    maps[0, 0, 1, 3] = 1
    for offset, expected in ((0.5, (14, 6)), (0, (12, 4)), (1, (16, 8))):
        pose = task(("tip",), None, offset=offset).decode({"maps": maps}, 0, SCENE.plain, SCENE)
        np.testing.assert_allclose(pose.xy, [expected])


def test_strides_may_differ_along_the_sides():
    maps = np.zeros((1, 1, 8, 8), np.float32)
    maps[0, 0, 5, 3] = 1
    pose = TIP.decode({"maps": maps}, 0, SCENE.plain, SCENE)
    np.testing.assert_allclose(pose.xy, [(14, 11)])


def test_logits_are_probabilities_after_the_sigmoid():
    maps = np.full((1, 1, 4, 8), -30, np.float32)
    maps[0, 0, 1, 3] = np.log(3)
    pose = task(("tip",), None, scores="logits").decode({"maps": maps}, 0, SCENE.plain, SCENE)
    np.testing.assert_allclose(pose.confidence, [0.75], atol=1e-6)


@pytest.mark.parametrize("scores", ["probabilities", "logits", "raw"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_map_with_nan_or_infinity_is_unsound(scores, bad):
    maps = np.zeros((1, 3, 4, 8), np.float32)
    keypoints = task(scores=scores)
    assert keypoints.is_sound(keypoints.decode({"maps": maps}, 0, SCENE.plain, SCENE))
    maps[0, 1, 2, 2] = bad
    assert not keypoints.is_sound(keypoints.decode({"maps": maps}, 0, SCENE.plain, SCENE))


def test_half_precision_is_widened():
    maps = np.zeros((1, 3, 4, 8), np.float16)
    maps[0, :, 1, 3] = 0.5
    pose = task().decode({"maps": maps}, 0, SCENE.plain, SCENE)
    assert task().move_maps(pose.maps).scores.dtype == np.float32
    np.testing.assert_allclose(pose.xy, [(14, 6)] * 3)


def test_a_view_result_has_points_and_no_maps():
    """Maps are a part of the batch, and large."""
    maps = np.zeros((1, 3, 4, 8), np.float32)
    maps[0, :, 1, 3] = 0.5
    pose = task().decode({"maps": maps}, 0, SCENE.plain, SCENE)
    kept, answer = task().view_result(pose), merged(task(), [pose], SCENE)
    maps[:] = 9
    assert kept.maps is None
    np.testing.assert_allclose(kept.xy, [(14, 6)] * 3)
    np.testing.assert_array_equal(kept.confidence, 0.5)
    np.testing.assert_allclose(answer.confidence, 0.5)


@pytest.mark.parametrize("merge", ["mean_heatmaps", "mean_coordinates"])
def test_values_in_bars_move_no_point(merge):
    """Nor its spread."""
    prep, image = Preprocessing(Size(32, 32), Resize.LETTERBOX, normalization=RAW), Size(32, 16)
    scene = scene_of(prep, image)
    maps = np.full((1, 1, 8, 8), 0.5, np.float32)
    maps[:, :, 2:6] = 0  # 8 pixels of bars above and below
    maps[0, 0, 3, 1] = 0.4
    poses = [TIP.decode({"maps": m}, 0, scene.plain, scene) for m in (maps, maps * np.float32(0.9))]
    answer = merged(TIP, poses, scene, merge)
    np.testing.assert_allclose(answer.xy, [(6, 6)], atol=1e-6)
    np.testing.assert_allclose(answer.spread, [0], atol=1e-6)


def test_confidence_is_clipped_to_a_probability():
    """A model's heat maps may overshoot a little."""
    maps = np.full((1, 3, 4, 8), -0.05, np.float32)
    maps[0, 0, 1, 3] = 1.2
    maps[0, 1, 1, 3] = 0.9
    keypoints = task()
    keypoints.check({"maps": maps}, SCENE.image)
    answer = merged(keypoints, [keypoints.decode({"maps": maps}, 0, SCENE.plain, SCENE)], SCENE)
    confidence = keypoints.result(answer, [], SCENE, ResponseSpec()).confidence
    assert ((confidence >= 0) & (confidence <= 1)).all()


@pytest.mark.parametrize("stride", [0, -4, float("nan")])
def test_a_stride_of_0_or_less_is_refused_at_load(stride):
    with pytest.raises((ValueError, ConfigError), match="stride"):
        task(stride=stride)
