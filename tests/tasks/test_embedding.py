import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rendered import rendered
from tta_server.errors import ConfigError, InvalidInput
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.embedding import Embedding, VectorOutput, unit
from tta_server.views.geometry import Size
from tta_server.views.view import View

PLAIN = Preprocessing(Size(8, 8), Resize.EXACT).place(View(), Size(20, 10))
SCENE = ImageFrame(Size(20, 10), PLAIN)
TASK = Embedding((), VectorOutput(), {"vector": (None, None)})

merges = pytest.mark.parametrize("merge", Embedding.merges)
numbers = st.floats(-50, 50).map(lambda v: round(v, 3))
vectors = st.lists(st.tuples(*[numbers] * 3).filter(any), min_size=1, max_size=8)
some_weights = st.lists(st.floats(0.0625, 8), min_size=8, max_size=8)


def decoded(views):
    batch = np.array(views, np.float64)
    return [TASK.decode({"vector": batch}, row, PLAIN, SCENE) for row in range(len(batch))]


def merged(merge, views, weights=None):
    accumulator = TASK.accumulator(merge, ResponseSpec(), SCENE)
    for view, weight in zip(decoded(views), weights or [1.0] * len(views), strict=False):
        accumulator.add(view, weight)
    return accumulator.result()


def answered(views, include=(), merge="mean"):
    kept = [TASK.view_result(view) for view in decoded(views)]
    wanted = ResponseSpec(frozenset(include))
    return rendered(TASK.result(merged(merge, views), kept, SCENE, wanted), wanted)


# ---- laws ----


def balance(merge, views, weights):
    """The length of what is summed, as a share of its parts' lengths: small where views nearly cancel each other."""
    parts = [
        w * (unit(np.array(v)) if merge == "mean_directions" else np.array(v))
        for v, w in zip(views, weights, strict=False)
    ]
    return np.linalg.norm(sum(parts)) / sum(map(np.linalg.norm, parts))


@merges
@given(vectors, some_weights, st.randoms(use_true_random=False))
def test_order_does_not_matter(merge, views, weights, order):
    if balance(merge, views, weights) < 1e-3:
        return
    shuffled = list(range(len(views)))
    order.shuffle(shuffled)
    other = merged(merge, [views[i] for i in shuffled], [weights[i] for i in shuffled])
    np.testing.assert_allclose(merged(merge, views, weights), other, atol=1e-9)


@merges
@given(vectors, some_weights)
def test_results_have_length_1(merge, views, weights):
    length = np.linalg.norm(merged(merge, views, weights))
    assert length == pytest.approx(1) or balance(merge, views, weights) < 1e-9


@merges
@given(vectors, st.floats(0.0625, 8))
def test_one_view_is_the_model_s_own_output_at_length_1(merge, views, weight):
    own = np.array(views[0])
    np.testing.assert_allclose(merged(merge, views[:1], [weight]), own / np.linalg.norm(own), atol=1e-12)


@merges
@given(vectors, some_weights, st.floats(0.0625, 16))
def test_only_the_ratio_of_weights_counts(merge, views, weights, factor):
    if balance(merge, views, weights) < 1e-3:
        return
    other = merged(merge, views, [factor * w for w in weights])
    np.testing.assert_allclose(merged(merge, views, weights), other, atol=1e-9)


@given(vectors, some_weights)
def test_the_mean_of_directions_ignores_lengths(views, weights):
    if balance("mean_directions", views, weights) < 1e-3:
        return
    longer = [np.array(view) * (1 + k) for k, view in enumerate(views)]
    one = merged("mean_directions", views, weights)
    np.testing.assert_allclose(one, merged("mean_directions", longer, weights), atol=1e-9)


@given(st.lists(st.tuples(*[numbers] * 3), min_size=1, max_size=6))
def test_spreads_stay_in_their_bounds(views):
    unsure = answered(views, ["uncertainty"]).uncertainty
    assert 0 <= unsure["spherical_variance"] <= 1
    assert 0 <= unsure["mean_angle_degrees"] <= 180


@given(vectors, st.integers(1, 5))
def test_views_that_agree_have_no_spread(views, times):
    unsure = answered(views[:1] * times, ["uncertainty"]).uncertainty
    assert unsure["spherical_variance"] == pytest.approx(0, abs=1e-6)
    assert unsure["mean_angle_degrees"] == pytest.approx(0, abs=1e-4)


@merges
def test_adding_never_writes_into_a_view(merge):
    accumulator = TASK.accumulator(merge, ResponseSpec(), SCENE)
    view = np.array([3.0, 4.0])
    accumulator.add(view, 1.0)
    first = accumulator.result()
    accumulator.add(np.array([0.0, 5.0]), 1.0)
    np.testing.assert_array_equal(view, [3, 4])
    np.testing.assert_allclose(first, [0.6, 0.8])


# ---- values by hand ----


@pytest.mark.parametrize(
    ("merge", "weights", "expected"),
    [
        ("mean", [1.0, 1.0], (3, 4)),  # (3, 0) + (0, 4)
        ("mean", [4.0, 3.0], (1, 1)),
        ("mean_directions", [1.0, 1.0], (1, 1)),
        ("mean_directions", [3.0, 4.0], (3, 4)),
    ],
)
def test_two_views_by_hand(merge, weights, expected):
    np.testing.assert_allclose(merged(merge, [[3, 0], [0, 4]], weights), np.array(expected) / np.hypot(*expected))


def test_spread_by_hand():
    """At right angles: the mean of the two is 1 / root 2 long, and 45 degrees from each."""
    unsure = answered([[3, 0], [0, 3]], ["uncertainty"]).uncertainty
    assert unsure == {"spherical_variance": pytest.approx(1 - 0.5**0.5, abs=1e-6), "mean_angle_degrees": 45}


def test_opposite_views_have_a_spherical_variance_of_1():
    unsure = answered([[2, 0], [-2, 0]], ["uncertainty"]).uncertainty
    assert unsure["spherical_variance"] == 1
    np.testing.assert_array_equal(merged("mean", [[2, 0], [-2, 0]]), 0)


def test_each_view_has_its_similarity_to_the_result():
    views = answered([[3, 0], [0, 3]], ["views"]).views
    assert [view["similarity"] for view in views] == pytest.approx([0.5**0.5] * 2)
    assert all(-1 <= view["similarity"] <= 1 for view in answered([[0.1, 0.7]] * 3, ["views"]).views)


# ---- answers ----


def test_the_prediction_is_the_vector_and_its_length():
    answer = answered([[3, 4]])
    assert answer.prediction["dimensions"] == 2
    assert answer.prediction["embedding"] == pytest.approx([0.6, 0.8])
    assert answer.uncertainty == {}
    assert TASK.confidence(merged("mean", [[3, 4]])) is None  # type: ignore[func-returns-value]
    assert answer.lines == ["2 numbers: 0.600, 0.800, ..."]


@pytest.mark.parametrize("views", [[[0, 0, 0]], [[0, 0, 0], [1, 0, 0]], [[1e-30, 0, 0]], [[1e30, -1e30, 0]]])
def test_an_answer_is_json(views):
    answer = answered(views, ["views", "uncertainty"])
    json.dumps([answer.prediction, answer.views, answer.uncertainty], allow_nan=False)


@pytest.mark.parametrize("large", [1e4, 1e30])
@merges
def test_large_numbers_keep_their_direction(merge, large):
    np.testing.assert_allclose(merged(merge, [[3 * large, 4 * large]] * 3), [0.6, 0.8])


def test_a_vector_of_zeros_has_no_direction():
    np.testing.assert_array_equal(unit(np.zeros(3)), 0)
    np.testing.assert_allclose(merged("mean_directions", [[0, 0], [0, 2]]), [0, 1])


@merges
def test_stop_rules_other_than_all_are_refused(merge):
    assert TASK.stops == ("all",)
    with pytest.raises(InvalidInput, match=f"merge {merge} has no bound"):
        TASK.check_bounded(merge, [1.0])
    with pytest.raises(InvalidInput, match=f"merge {merge} is no mean of values"):
        TASK.check_mean(merge)


# ---- what a model gives ----


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_unsound(bad):
    sound, unsound = decoded([[1, 2], [1, bad]])
    assert TASK.is_sound(sound)
    assert not TASK.is_sound(unsound)


@pytest.mark.parametrize("shape", [(2,), (1, 2, 1), (1, 3, 2, 1)])
def test_outputs_of_another_shape_are_refused_naming_both(shape):
    with pytest.raises(ConfigError, match=r"embedding needs an output vector of shape \[N, D\]; the model gives \["):
        TASK.check({"vector": np.ones(shape)}, Size(8, 8))


def test_a_model_that_gives_zeros_is_refused():
    with pytest.raises(ConfigError, match="needs vectors with a direction; output vector is all zeros"):
        TASK.check({"vector": np.zeros((1, 4))}, Size(8, 8))
