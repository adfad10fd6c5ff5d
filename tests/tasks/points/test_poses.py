import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.support.keypoints import (
    FREE,
    ONE_SURE,
    SCENE,
    images,
    merged,
    points_in,
    pose_of,
    prepared,
    scene_of,
    seeds,
    task,
    tip,
    views,
)
from tta_server.tasks import ResponseSpec


@prepared
@given(st.lists(views, min_size=2, max_size=6), images, seeds, st.randoms(use_true_random=False))
def test_order_does_not_matter(prep, specs, image, seed, order):
    source, scene = np.random.default_rng(seed), scene_of(prep, image)
    poses = [pose_of(prep, scene, spec, source.random((4, 2)) * image, source.random(4)) for spec, _ in specs]
    weights = list(source.uniform(0.1, 5, len(poses)))
    shuffled = list(range(len(poses)))
    order.shuffle(shuffled)
    one = merged(poses, scene, weights=weights)
    other = merged([poses[i] for i in shuffled], scene, weights=[weights[i] for i in shuffled])
    np.testing.assert_allclose(one.xy, other.xy, atol=1e-9)
    np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-9)
    np.testing.assert_allclose(one.spread, other.spread, atol=1e-7)
    np.testing.assert_array_equal(one.visible_in, other.visible_in)


@given(seeds, st.floats(0.01, 100))
def test_only_the_ratio_of_weights_counts(seed, factor):
    source = np.random.default_rng(seed)
    poses = [tip(x, y, source.random()) for x, y in source.uniform(5, 50, (4, 2))]
    weights = list(source.uniform(0.1, 5, 4))
    one, other = (merged(poses, SCENE, weights=w) for w in (weights, [factor * w for w in weights]))
    np.testing.assert_allclose(one.xy, other.xy, atol=1e-6)
    np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-9)
    np.testing.assert_allclose(one.spread, other.spread, atol=1e-6)


@given(seeds)
def test_one_view_is_the_model_s_own_output(seed):
    points = points_in(SCENE.image, seed)
    answer = merged([pose_of(FREE, SCENE, "identity", points, 0.4)], SCENE)
    np.testing.assert_allclose(answer.xy, points, atol=1e-9)
    np.testing.assert_allclose(answer.confidence, 0.4)
    np.testing.assert_array_equal(answer.visible_in, 1)


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
    first, second = (pose_of(FREE, scene, "identity", p, None, keypoints) for p in ([(10, 10)] * 2, [(20, 20)] * 2))
    answer = merged([first, second], scene, weights=[(1.0, 3.0), (1.0, 1.0)], keypoints=keypoints)
    np.testing.assert_allclose(answer.xy, [(15, 15), (12.5, 12.5)])


@given(st.floats(0, 45), st.floats(0, 25), st.floats(0, 0.01), seeds)
def test_a_crop_with_low_confidence_does_not_move_a_point_outside_it(x, y, confidence, seed):
    """Such a view puts the point somewhere; it does not show the place, so it does not count."""
    crop = {"crop": {"fraction": 0.5, "anchor": "bottom_right"}}
    wrong = points_in((50, 30), seed, 1)[0] + (50, 30)
    answer = merged([tip(x, y, 0.9), tip(wrong[0], wrong[1], confidence, view=crop)], SCENE)
    np.testing.assert_allclose(answer.xy, [(x, y)], atol=1e-9)
    np.testing.assert_allclose(answer.confidence, [0.9])
    np.testing.assert_allclose(answer.spread, [0], atol=1e-9)
    np.testing.assert_array_equal(answer.visible_in, [1])


@given(st.floats(0, 45), st.floats(0, 25), seeds)
def test_a_crop_with_full_confidence_does_not_move_a_point_outside_it(x, y, seed):
    """As from models that give no confidence."""
    crop = {"crop": {"fraction": 0.5, "anchor": "bottom_right"}}
    wrong = points_in((50, 30), seed, 1)[0] + (50, 30)
    answer = merged([tip(x, y), tip(wrong[0], wrong[1], view=crop)], SCENE)
    np.testing.assert_allclose(answer.xy, [(x, y)], atol=1e-9)


def test_a_crop_that_shows_a_point_counts():
    crop = {"crop": {"fraction": 0.5, "anchor": "bottom_right"}}
    answer = merged([tip(80, 50, 0.5), tip(82, 52, 0.5, view=crop)], SCENE)
    np.testing.assert_allclose(answer.xy, [(81, 51)])
    np.testing.assert_array_equal(answer.visible_in, [2])


def test_where_no_view_shows_a_point_all_count():
    answer = merged([tip(-10, 20), tip(-20, 20)], SCENE)
    np.testing.assert_allclose(answer.xy, [(-15, 20)])
    np.testing.assert_array_equal(answer.visible_in, [2])


def test_points_of_confidence_0_are_averaged():
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
