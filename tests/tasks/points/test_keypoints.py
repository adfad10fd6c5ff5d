import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.patterns import noise
from tests.support.rendered import paint, rendered
from tta_server.errors import ConfigError
from tta_server.imaging.preprocessing import Normalization, Preprocessing, Resize
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.points.keypoints import Keypoints, PointsOutput
from tta_server.tasks.render.palette import color_of
from tta_server.views.geometry import Affine, Size
from tta_server.views.spec import PRIMITIVES, read_view
from tta_server.views.view import View

LABELS = ("nose", "left", "right", "tail")
PARTNER = [0, 2, 1, 3]
PAIRS = (("left", "right"),)
RAW = Normalization(scale=1)
PREPARATIONS = {
    "exact": Preprocessing(Size(56, 44), Resize.EXACT, normalization=RAW),
    "letterbox": Preprocessing(Size(64, 64), Resize.LETTERBOX, normalization=RAW),
    "free": Preprocessing(multiple=16, normalization=RAW),
    "free short": Preprocessing(None, Resize.SHORT, 53, multiple=8, normalization=RAW),
}
VIEWS = [
    ("identity", False),
    ("hflip", True),
    ("vflip", True),
    ({"rot90": 1}, False),
    ({"rot90": 2}, False),
    ({"rot90": 3}, False),
    ("transpose", True),
    ("antitranspose", True),
    ({"rotate": 17.5}, False),
    ({"rotate": -31, "border": "replicate"}, False),
    ({"zoom": 1.3}, False),
    ({"shift": [5, -3]}, False),
    ({"shift": [-2.5, 3.25], "border": "constant"}, False),
    ({"crop": {"fraction": 0.7, "anchor": "bottom_left"}}, False),
    ({"scale": 1.25}, False),
    ({"window": "top_right"}, False),
    ([{"scale": 1.25}, {"window": "bottom_right"}, "hflip"], True),
    (["hflip", {"rotate": 10}, {"shift": [4, 3]}], True),
    (["vflip", {"rotate": -8}, "transpose"], False),
    ({"brightness": 1.2}, False),
    ({"contrast": 0.8}, False),
    ({"saturation": 0.5}, False),
    ({"hue": 40}, False),
    ("grayscale", False),
]
"""How a view is written, and whether it shows the image in a mirror."""

prepared = pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
images = st.builds(Size, st.integers(30, 110), st.integers(30, 110))
seeds = st.integers(0, 2**32 - 1)
views = st.sampled_from(VIEWS)


def task(kind="coordinates", labels=LABELS, pairs=PAIRS, numbers=2, **form):
    shape = (None, len(labels), None, None) if kind == "heatmaps" else (None, len(labels), numbers)
    return Keypoints(labels, PointsOutput(kind, pairs=pairs, **form), {"points": shape})


def scene_of(prep, image):
    return ImageFrame(image, prep.place(View(), image))


def to_tensor(placement, scene):
    """Image's own pixels -> pixels of the view's input."""
    to_plain = scene.to_image.inverse()
    return to_plain.then(placement.to_plain.inverse()).then(Affine.shift(*placement.inset))


def points_in(size, seed, count=4):
    return np.random.default_rng(seed).random((count, 2)) * size


def told(points, confidence=None):
    """What a model gives for one view: points (J, 2) of its input, and confidences where it has some."""
    if confidence is None:
        return {"points": np.float64(points)[None]}
    return {"points": np.column_stack([points, np.broadcast_to(confidence, len(points))])[None]}


def merged(poses, scene, merge="mean_coordinates", weights=None, keypoints=None):
    accumulator = (keypoints or task()).accumulator(merge, ResponseSpec(), scene)
    for pose, weight in zip(poses, weights or [1.0] * len(poses), strict=True):
        accumulator.add(pose, weight)
    return accumulator.result()


# ---- undo is the inverse ----


def test_every_primitive_is_among_the_views():
    steps = [step for spec, _ in VIEWS for step in (spec if isinstance(spec, list) else [spec])]
    assert {key for step in steps for key in ([step] if isinstance(step, str) else step)} >= PRIMITIVES.keys()


@prepared
@given(views, images, seeds)
def test_a_point_moved_to_a_view_and_decoded_comes_back(prep, view, image, seed):
    spec, mirrored = view
    placement, scene = prep.place(read_view(spec), image), scene_of(prep, image)
    points = points_in(image, seed)
    named = points[PARTNER] if mirrored else points  # in a mirror the left ear looks like a right one
    pose = task().decode(told(to_tensor(placement, scene).apply(named)), 0, placement, scene)
    np.testing.assert_allclose(pose.xy, points, atol=1e-6)
    np.testing.assert_array_equal(pose.confidence, 1)


@prepared
@given(views, images, seeds)
def test_parts_of_the_input_are_its_pixels_over_its_size(prep, view, image, seed):
    placement, scene = prep.place(read_view(view[0]), image), scene_of(prep, image)
    points = points_in(placement.tensor, seed)
    pixels = task().decode(told(points), 0, placement, scene)
    parts = task(units="normalized").decode(told(points / placement.tensor), 0, placement, scene)
    np.testing.assert_allclose(parts.xy, pixels.xy, atol=1e-6)


@prepared
@given(views, images, seeds)
def test_labels_of_a_pair_change_places_exactly_when_the_view_is_a_mirror(prep, view, image, seed):
    spec, mirrored = view
    placement, scene = prep.place(read_view(spec), image), scene_of(prep, image)
    points, confidence = points_in(image, seed), np.array([0.9, 0.8, 0.7, 0.6])
    outputs = told(to_tensor(placement, scene).apply(points), confidence)
    pose = task(numbers=3).decode(outputs, 0, placement, scene)
    order = PARTNER if mirrored else [0, 1, 2, 3]
    np.testing.assert_allclose(pose.xy, points[order], atol=1e-6)
    np.testing.assert_allclose(pose.confidence, confidence[order])


@prepared
@given(images, seeds)
def test_without_pairs_nothing_changes_places(prep, image, seed):
    placement, scene = prep.place(read_view("hflip"), image), scene_of(prep, image)
    points = points_in(image, seed)
    outputs = told(to_tensor(placement, scene).apply(points))
    np.testing.assert_allclose(task(pairs=()).decode(outputs, 0, placement, scene).xy, points, atol=1e-6)


@prepared
@given(st.lists(views, min_size=1, max_size=6), images, seeds)
def test_views_that_say_the_same_have_no_spread(prep, specs, image, seed):
    scene, points = scene_of(prep, image), points_in(image, seed)
    poses = [seen(prep, scene, spec, points[PARTNER] if mirrored else points) for spec, mirrored in specs]
    answer = merged(poses, scene)
    np.testing.assert_allclose(answer.xy, points, atol=1e-6)
    np.testing.assert_allclose(answer.spread, 0, atol=1e-6)


def seen(prep, scene, spec, points, confidence=None, keypoints=None):
    """The pose of a view that finds these points of the image."""
    placement = prep.place(read_view(spec), scene.image)
    outputs = told(to_tensor(placement, scene).apply(np.float64(points)), confidence)
    return (keypoints or task()).decode(outputs, 0, placement, scene)


# ---- merging ----

FREE = Preprocessing(normalization=RAW)
SCENE = scene_of(FREE, Size(100, 60))
ONE = task(labels=("tip",), pairs=None)
ONE_SURE = task(labels=("tip",), pairs=None, numbers=3)


def tip(x, y, confidence=None, view="identity"):
    keypoints = ONE if confidence is None else ONE_SURE
    return seen(FREE, SCENE, view, [(x, y)], confidence, keypoints)


@prepared
@given(st.lists(views, min_size=2, max_size=6), images, seeds, st.randoms(use_true_random=False))
def test_order_does_not_matter(prep, specs, image, seed, order):
    source, scene = np.random.default_rng(seed), scene_of(prep, image)
    poses = [seen(prep, scene, spec, source.random((4, 2)) * image, source.random(4)) for spec, _ in specs]
    weights = list(source.uniform(0.1, 5, len(poses)))
    shuffled = list(range(len(poses)))
    order.shuffle(shuffled)
    one = merged(poses, scene, weights=weights)
    other = merged([poses[i] for i in shuffled], scene, weights=[weights[i] for i in shuffled])
    np.testing.assert_allclose(one.xy, other.xy, atol=1e-9)
    np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-9)
    np.testing.assert_allclose(one.spread, other.spread, atol=1e-7)
    np.testing.assert_array_equal(one.views, other.views)


@given(seeds, st.floats(0.01, 100))
def test_only_the_ratio_of_weights_counts(seed, factor):
    source = np.random.default_rng(seed)
    poses = [tip(*source.uniform(5, 50, 2), source.random()) for _ in range(4)]
    weights = list(source.uniform(0.1, 5, 4))
    one, other = (merged(poses, SCENE, weights=w) for w in (weights, [factor * w for w in weights]))
    np.testing.assert_allclose(one.xy, other.xy, atol=1e-6)
    np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-9)
    np.testing.assert_allclose(one.spread, other.spread, atol=1e-6)


@given(seeds)
def test_one_view_is_the_model_s_own_output(seed):
    points = points_in(SCENE.image, seed)
    answer = merged([seen(FREE, SCENE, "identity", points, 0.4)], SCENE)
    np.testing.assert_allclose(answer.xy, points, atol=1e-9)
    np.testing.assert_allclose(answer.confidence, 0.4)
    np.testing.assert_array_equal(answer.views, 1)


def test_the_mean_counts_by_weight_and_confidence():
    """(10 x 0.9 x 1 + 20 x 0.3 x 2) / 1.5 = 14, and confidence (0.9 + 2 x 0.3) / 3 = 0.5."""
    answer = merged([tip(10, 40, 0.9), tip(20, 30, 0.3)], SCENE, weights=[1.0, 2.0])
    np.testing.assert_allclose(answer.xy, [[14, 36]], atol=1e-9)
    np.testing.assert_allclose(answer.confidence, [0.5])


def test_the_spread_is_the_root_of_the_mean_squared_distance():
    """From (13, 34): (10, 30) is 5 away, (16, 38) too."""
    answer = merged([tip(10, 30), tip(16, 38)], SCENE)
    np.testing.assert_allclose(answer.xy, [[13, 34]])
    np.testing.assert_allclose(answer.spread, [5])


def test_the_spread_counts_by_weight_and_confidence():
    """(0, 0) at 0.75 and (8, 0) at 0.25 meet at (2, 0): 0.75 x 4 + 0.25 x 36 = 12."""
    answer = merged([tip(10, 30, 0.75), tip(18, 30, 0.25)], SCENE)
    np.testing.assert_allclose(answer.xy, [[12, 30]])
    np.testing.assert_allclose(answer.spread, [12**0.5])


def test_a_weight_for_each_label_is_that_point_s_own():
    scene, keypoints = SCENE, task(labels=("a", "b"), pairs=())
    first, second = (seen(FREE, scene, "identity", p, None, keypoints) for p in ([(10, 10)] * 2, [(20, 20)] * 2))
    answer = merged([first, second], scene, weights=[(1.0, 3.0), (1.0, 1.0)], keypoints=keypoints)
    np.testing.assert_allclose(answer.xy, [(15, 15), (12.5, 12.5)])


@given(st.floats(0, 45), st.floats(0, 25), st.floats(0, 0.01), seeds)
def test_a_point_outside_a_crop_is_hardly_disturbed_by_it(x, y, confidence, seed):
    """Such a view is unsure, and says something all the same; it counts by how sure it is, in the end not at all."""
    crop = {"crop": {"fraction": 0.5, "anchor": "bottom_right"}}
    wrong = points_in((50, 30), seed, 1)[0] + (50, 30)
    answer = merged([tip(x, y, 0.9), tip(*wrong, confidence, view=crop)], SCENE)
    np.testing.assert_allclose(answer.xy, [(x, y)], atol=1e-9)
    np.testing.assert_allclose(answer.confidence, [0.9])
    np.testing.assert_allclose(answer.spread, [0], atol=1e-9)
    np.testing.assert_array_equal(answer.views, [1])


@given(st.floats(0, 45), st.floats(0, 25), seeds)
def test_a_point_outside_a_crop_is_not_disturbed_by_one_that_is_as_sure(x, y, seed):
    """As models are that give no confidence."""
    crop = {"crop": {"fraction": 0.5, "anchor": "bottom_right"}}
    wrong = points_in((50, 30), seed, 1)[0] + (50, 30)
    answer = merged([tip(x, y), tip(*wrong, view=crop)], SCENE)
    np.testing.assert_allclose(answer.xy, [(x, y)], atol=1e-9)


def test_a_crop_that_sees_a_point_counts():
    crop = {"crop": {"fraction": 0.5, "anchor": "bottom_right"}}
    answer = merged([tip(80, 50, 0.5), tip(82, 52, 0.5, view=crop)], SCENE)
    np.testing.assert_allclose(answer.xy, [(81, 51)])
    np.testing.assert_array_equal(answer.views, [2])


def test_where_no_view_sees_a_point_all_are_heard():
    answer = merged([tip(-10, 20), tip(-20, 20)], SCENE)
    np.testing.assert_allclose(answer.xy, [(-15, 20)])
    np.testing.assert_array_equal(answer.views, [2])


def test_points_that_nobody_is_sure_of_are_their_mean():
    answer = merged([tip(10, 20, 0.0), tip(30, 40, 0.0)], SCENE)
    np.testing.assert_allclose(answer.xy, [(20, 30)])
    np.testing.assert_array_equal(answer.confidence, 0)
    assert np.isfinite(answer.spread).all()


def test_adding_keeps_what_was_added():
    pose = tip(10, 20, 0.5)
    before = pose.xy.copy()
    accumulator = ONE_SURE.accumulator("mean_coordinates", ResponseSpec(), SCENE)
    accumulator.add(pose, 2.0)
    first = accumulator.result()
    accumulator.add(tip(30, 20, 0.5), 2.0)
    np.testing.assert_array_equal(pose.xy, before)
    np.testing.assert_allclose(first.xy, [(10, 20)])


# ---- what a model gives ----


def test_two_numbers_a_point_are_sure():
    np.testing.assert_array_equal(tip(3, 4).confidence, 1)


@pytest.mark.parametrize(("logit", "probability"), [(0.0, 0.5), (np.log(3), 0.75), (-1e4, 0), (1e4, 1)])
def test_a_third_number_may_be_a_logit(logit, probability):
    keypoints = task(labels=("tip",), pairs=None, numbers=3, scores="logits")
    pose = seen(FREE, SCENE, "identity", [(5, 5)], logit, keypoints)
    assert keypoints.is_sound(pose)
    assert pose.confidence[0] == pytest.approx(probability)


@pytest.mark.parametrize(
    "numbers",
    [
        [np.nan, 2, 0.5],
        [1, 2, np.nan],
        [1, np.inf, 0.5],
        [-np.inf, 2, 0.5],
    ],
)
def test_a_view_with_nan_or_infinity_is_unsound(numbers):
    keypoints = ONE_SURE
    pose = keypoints.decode({"points": np.array([[numbers]])}, 0, SCENE.plain, SCENE)
    assert not keypoints.is_sound(pose)
    assert keypoints.is_sound(tip(1, 2, 0.5))


def test_rows_of_a_batch_are_views_of_their_own():
    batch = {"points": np.arange(16, dtype=np.float32).reshape(2, 4, 2)}
    second = task().decode(batch, 1, SCENE.plain, SCENE)
    np.testing.assert_allclose(second.xy, np.arange(8, 16).reshape(4, 2))


def test_a_decoded_view_outlives_its_batch():
    batch = np.ones((1, 4, 3))
    pose = task(numbers=3).decode({"points": batch}, 0, SCENE.plain, SCENE)
    batch[:] = 9
    np.testing.assert_array_equal(pose.xy, 1)
    np.testing.assert_array_equal(pose.confidence, 1)


# ---- answers ----


def answered(poses, include=(), keypoints=None, scene=SCENE):
    keypoints, wanted = keypoints or task(), ResponseSpec(frozenset(include))
    accumulator = keypoints.accumulator("mean_coordinates", wanted, scene)
    for pose in poses:
        accumulator.add(pose, 1.0)
    kept = [keypoints.view_result(pose) for pose in poses]
    return rendered(keypoints.result(accumulator.result(), kept, scene, wanted), wanted)


TWO = [
    seen(FREE, SCENE, "identity", [(10, 20), (30, 40), (50, 10), (90, 50)], [0.9, 0.4, 0.2, 1.0]),
    seen(FREE, SCENE, "identity", [(16, 28), (30, 40), (50, 10), (90, 50)], [0.9, 0.4, 0.2, 1.0]),
]


def test_an_answer_lists_the_points_by_label():
    prediction = answered(TWO).prediction
    assert (prediction["height"], prediction["width"]) == (60, 100)
    assert prediction["keypoints"][0] == {
        "label": "nose", "x": 13, "y": 24, "confidence": 0.9, "visible": True, "spread": 5, "views": 2,
    }  # fmt: skip
    assert [p["label"] for p in prediction["keypoints"]] == list(LABELS)
    assert [p["visible"] for p in prediction["keypoints"]] == [True, True, False, True]
    json.dumps(prediction, allow_nan=False)


@pytest.mark.parametrize(("visible", "seen_are"), [(0, 4), (0.2, 4), (0.5, 2), (1, 1)])
def test_visible_is_the_least_confidence_of_a_point_that_is_seen(visible, seen_are):
    points = answered(TWO, keypoints=task(numbers=3, visible=visible)).prediction["keypoints"]
    assert sum(p["visible"] for p in points) == seen_are


def test_uncertainty_is_the_spread_and_there_only_when_asked_for():
    assert answered(TWO).uncertainty == {}
    unsure = answered(TWO, ["uncertainty"]).uncertainty
    assert unsure == {"mean_spread": 1.25, "spread_by_keypoint": {"nose": 5, "left": 0, "right": 0, "tail": 0}}


def test_each_view_has_its_own_points():
    views = answered(TWO, ["views"]).views
    assert views[0]["keypoints"][0] == [10, 20, 0.9]
    assert views[1]["keypoints"][0] == [16, 28, 0.9]
    assert task().keeps_view_results(ResponseSpec(frozenset(["views"])))
    assert not task().keeps_view_results(ResponseSpec(frozenset(["uncertainty"])))


def test_confidence_is_the_mean_over_the_points():
    assert task().confidence(merged(TWO, SCENE)) == pytest.approx((0.9 + 0.4 + 0.2 + 1) / 4)


def test_every_point_has_a_line():
    assert answered(TWO).lines[0] == "nose 13, 24 (0.90)"


def test_the_points_that_are_seen_are_painted_where_they_are():
    pixels = np.full((60, 100, 3), 255, np.uint8)
    answer = answered(TWO)
    painted = paint(answer.result, pixels)
    for index, point in enumerate(answer.prediction["keypoints"], start=1):
        color = painted[round(point["y"]), round(point["x"])]
        assert (tuple(color) == color_of(index)) == point["visible"]
    np.testing.assert_array_equal(pixels, 255)
    assert painted.shape == pixels.shape


@pytest.mark.parametrize("size", [Size(1, 1), Size(1, 40), Size(300, 2)])
def test_painting_takes_images_of_any_size(size):
    scene = scene_of(FREE, size)
    pose = seen(FREE, scene, "identity", [(-5, 0), (0, 0), (size.width, size.height), (1e6, 1e6)])
    painted = paint(answered([pose], scene=scene).result, noise(size))
    assert painted.shape == (size.height, size.width, 3)
    picture = io.BytesIO()
    Image.fromarray(painted).save(picture, "PNG")
    assert base64.b64encode(picture.getvalue())


# ---- refused at load ----


@pytest.mark.parametrize("shape", [(None, 3, 2), (None, 4, 4), (None, 4, 1), (None, 4), (None, 8), (None, 4, 2, 1)])
def test_coordinates_of_another_shape_are_refused_naming_both(shape):
    with pytest.raises(
        ConfigError, match=r"4 labels needs an output points of shape \[N, 4, 2\] or \[N, 4, 3\]; the model gives \["
    ):
        Keypoints(LABELS, PointsOutput("coordinates", pairs=PAIRS), {"points": shape})


@pytest.mark.parametrize("shape", [(None, 3, None, None), (None, 4, None), (None, 4, 2)])
def test_heat_maps_of_another_shape_are_refused_naming_both(shape):
    with pytest.raises(ConfigError, match=r"4 labels needs an output points of shape \[N, 4, h, w\]; the model gives"):
        Keypoints(LABELS, PointsOutput("heatmaps", pairs=PAIRS), {"points": shape})


@pytest.mark.parametrize(
    ("kind", "shape"), [("coordinates", (1, 4, 4)), ("coordinates", (1, 2, 2)), ("heatmaps", (1, 3, 8, 8))]
)
def test_a_run_that_gives_another_shape_is_refused(kind, shape):
    with pytest.raises(ConfigError, match="4 labels needs an output points of shape"):
        task(kind).check({"points": np.zeros(shape, np.float32)}, Size(32, 32))


@pytest.mark.parametrize(
    ("stride", "shape"), [(8, (8, 8)), (2, (8, 8)), (4, (4, 8)), (4, (8, 4)), (4, (7, 8)), (32, (8, 8)), (100, (8, 8))]
)
def test_a_stride_that_is_not_the_model_s_is_refused(stride, shape):
    with pytest.raises(ConfigError, match=rf"output.stride is {stride}, but the model gives .* a stride of"):
        task("heatmaps", stride=stride).check({"points": np.zeros((1, 4, *shape), np.float32)}, Size(32, 32))


def test_the_model_s_own_stride_and_one_left_out_pass():
    for stride in (4, None):
        task("heatmaps", stride=stride).check({"points": np.zeros((1, 4, 8, 16), np.float32)}, Size(64, 32))


@pytest.mark.parametrize("labels", [("left_eye", "right_eye"), ("nose", "LeftEar"), ("eye right",)])
def test_labels_with_left_or_right_need_pairs(labels):
    with pytest.raises(ConfigError, match=r"output.pairs is missing: labels like .* change places in a mirror image"):
        task(labels=labels, pairs=None)
    task(labels=labels, pairs=())


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([("left", "rihgt")], "names 'rihgt', which is none of the labels: nose, left, right, tail"),
        ([("left", "right"), ("left", "tail")], "names 'left' twice"),
        ([("left", "right"), ("right", "left")], "names 'left' twice"),
        ([("nose", "nose")], "names 'nose' twice"),
    ],
)
def test_pairs_that_cannot_be_are_refused(pairs, sentence):
    with pytest.raises(ConfigError, match=f"output.pairs {sentence}"):
        task(pairs=pairs)


def test_coordinates_know_no_mean_of_heat_maps():
    assert task().merges == ("mean_coordinates",)
    assert task("heatmaps").merges == ("mean_heatmaps", "mean_coordinates")


def test_pixels_that_are_said_to_be_parts_of_the_input_are_refused():
    outputs = {"points": np.float32([[(12, 30), (1, 2), (0, 0), (20, 9)]])}
    with pytest.raises(ConfigError, match=r"output.units is normalized, but the model gives coordinates up to 30"):
        task(units="normalized").check(outputs, Size(32, 32))
    task().check(outputs, Size(32, 32))
    task(units="normalized").check({"points": outputs["points"] / 32}, Size(32, 32))


def test_logits_that_are_said_to_be_probabilities_are_refused():
    levels = {"points": np.float32([[[1, 2, level] for level in (-3, 0, 4, 1)]])}
    with pytest.raises(
        ConfigError, match=r"output.scores is probabilities, but the model gives -3 to 4; are they logit"
    ):
        task(numbers=3).check(levels, Size(32, 32))
    task(numbers=3, scores="logits").check(levels, Size(32, 32))
    with pytest.raises(ConfigError, match=r"output.scores is probabilities"):
        task("heatmaps").check({"points": np.full((1, 4, 8, 8), -3, np.float32)}, Size(32, 32))


@pytest.mark.parametrize("form", [{"offset": -0.1}, {"offset": 1.5}, {"visible": -1}, {"visible": 2}])
def test_numbers_out_of_range_are_refused(form):
    with pytest.raises(ValueError, match=f"{next(iter(form))} is a .* between 0 and 1, not"):
        PointsOutput("heatmaps", **form)
