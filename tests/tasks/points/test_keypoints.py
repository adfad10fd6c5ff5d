import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.keypoints import (
    FREE,
    LABELS,
    ONE_SURE,
    PARTNER,
    SCENE,
    VIEWS,
    images,
    merged,
    outputs_of,
    points_in,
    pose_of,
    prepared,
    scene_of,
    seeds,
    task,
    tip,
    to_tensor,
    views,
)
from tests.support.patterns import noise
from tests.support.rendered import paint, rendered
from tta_server.tasks import ResponseSpec
from tta_server.tasks.render.palette import color_of
from tta_server.views.geometry import Size
from tta_server.views.spec import PRIMITIVES, read_view

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
    named = points[PARTNER] if mirrored else points  # in a mirror image the left ear looks like a right one
    pose = task().decode(outputs_of(to_tensor(placement, scene).apply(named)), 0, placement, scene)
    np.testing.assert_allclose(pose.xy, points, atol=1e-6)
    np.testing.assert_array_equal(pose.confidence, 1)


@prepared
@given(views, images, seeds)
def test_normalized_points_are_pixels_over_the_input_s_size(prep, view, image, seed):
    placement, scene = prep.place(read_view(view[0]), image), scene_of(prep, image)
    points = points_in(placement.tensor, seed)
    pixels = task().decode(outputs_of(points), 0, placement, scene)
    parts = task(units="normalized").decode(outputs_of(points / placement.tensor), 0, placement, scene)
    np.testing.assert_allclose(parts.xy, pixels.xy, atol=1e-6)


@prepared
@given(views, images, seeds, st.sampled_from(["pixels", "normalized"]))
def test_points_may_come_y_first(prep, view, image, seed, units):
    placement, scene = prep.place(read_view(view[0]), image), scene_of(prep, image)
    points = points_in(placement.tensor, seed) / (placement.tensor if units == "normalized" else 1)
    x_first = task(units=units).decode(outputs_of(points), 0, placement, scene)
    y_first = task(units=units, order="yx").decode(outputs_of(points[:, ::-1]), 0, placement, scene)
    np.testing.assert_array_equal(y_first.xy, x_first.xy)


@prepared
@given(views, images, seeds)
def test_labels_of_a_pair_change_places_exactly_when_the_view_is_a_mirror(prep, view, image, seed):
    spec, mirrored = view
    placement, scene = prep.place(read_view(spec), image), scene_of(prep, image)
    points, confidence = points_in(image, seed), np.array([0.9, 0.8, 0.7, 0.6])
    outputs = outputs_of(to_tensor(placement, scene).apply(points), confidence)
    pose = task(numbers=3).decode(outputs, 0, placement, scene)
    order = PARTNER if mirrored else [0, 1, 2, 3]
    np.testing.assert_allclose(pose.xy, points[order], atol=1e-6)
    np.testing.assert_allclose(pose.confidence, confidence[order])


@prepared
@given(images, seeds)
def test_without_pairs_nothing_changes_places(prep, image, seed):
    placement, scene = prep.place(read_view("hflip"), image), scene_of(prep, image)
    points = points_in(image, seed)
    outputs = outputs_of(to_tensor(placement, scene).apply(points))
    np.testing.assert_allclose(task(pairs=()).decode(outputs, 0, placement, scene).xy, points, atol=1e-6)


@prepared
@given(st.lists(views, min_size=1, max_size=6), images, seeds)
def test_views_that_agree_have_no_spread(prep, specs, image, seed):
    scene, points = scene_of(prep, image), points_in(image, seed)
    poses = [pose_of(prep, scene, spec, points[PARTNER] if mirrored else points) for spec, mirrored in specs]
    answer = merged(poses, scene)
    np.testing.assert_allclose(answer.xy, points, atol=1e-6)
    np.testing.assert_allclose(answer.spread, 0, atol=1e-6)


# ---- outputs ----


def test_two_numbers_a_point_have_confidence_1():
    np.testing.assert_array_equal(tip(3, 4).confidence, 1)


@pytest.mark.parametrize(("logit", "probability"), [(0.0, 0.5), (np.log(3), 0.75), (-1e4, 0), (1e4, 1)])
def test_a_third_number_may_be_a_logit(logit, probability):
    keypoints = task(labels=("tip",), pairs=None, numbers=3, scores="logits")
    pose = pose_of(FREE, SCENE, "identity", [(5, 5)], logit, keypoints)
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
    pose_of(FREE, SCENE, "identity", [(10, 20), (30, 40), (50, 10), (90, 50)], [0.9, 0.4, 0.2, 1.0]),
    pose_of(FREE, SCENE, "identity", [(16, 28), (30, 40), (50, 10), (90, 50)], [0.9, 0.4, 0.2, 1.0]),
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
def test_visible_is_the_least_confidence_of_a_visible_point(visible, seen_are):
    points = answered(TWO, keypoints=task(numbers=3, visible=visible)).prediction["keypoints"]
    assert sum(p["visible"] for p in points) == seen_are


def test_uncertainty_is_the_spread_if_included():
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


def test_visible_points_are_painted_at_their_places():
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
    pose = pose_of(FREE, scene, "identity", [(-5, 0), (0, 0), (size.width, size.height), (1e6, 1e6)])
    painted = paint(answered([pose], scene=scene).result, noise(size))
    assert painted.shape == (size.height, size.width, 3)
    picture = io.BytesIO()
    Image.fromarray(painted).save(picture, "PNG")
    assert base64.b64encode(picture.getvalue())
