import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.tasks.scores.kinds import CLASS_KINDS, log_softmax, one_hot, softmax
from tta_server.tasks.scores.merging import MERGES, ScoreAccumulator

LOG3 = float(np.log(3))  # softmax of [0, log 3] is [1/4, 3/4]


def merged(merge, views, weights=None, kind="logits", coverage=None):
    """Views' scores, a list of lists, merged into probabilities."""
    accumulator = ScoreAccumulator(MERGES[merge], CLASS_KINDS[kind])
    weights = weights or [1.0] * len(views)
    coverage = coverage or [None] * len(views)
    for view, weight, seen in zip(views, weights, coverage, strict=True):
        seen = seen if seen is None else np.array(seen, np.float32)
        accumulator.add(np.array(view, np.float32), weight, seen)
    return accumulator.result()


merges = pytest.mark.parametrize("merge", MERGES)
kinds = pytest.mark.parametrize("kind", CLASS_KINDS)
logits = st.lists(st.tuples(*[st.floats(-30, 30, width=32)] * 4), min_size=1, max_size=8)  # up to 8 views of 4 classes
some_weights = st.lists(st.floats(0.0625, 8, width=32), min_size=8, max_size=8)


def as_kind(views, kind):
    z = np.array(views, np.float32)
    return [softmax(v) for v in z] if kind == "probabilities" else list(z)


# ---- laws ----


@merges
@kinds
@given(logits, some_weights, st.randoms(use_true_random=False))
def test_order_does_not_matter(merge, kind, views, weights, order):
    views, weights = as_kind(views, kind), weights[: len(views)]
    shuffled = list(range(len(views)))
    order.shuffle(shuffled)
    one = merged(merge, views, weights, kind)
    other = merged(merge, [views[i] for i in shuffled], [weights[i] for i in shuffled], kind)
    np.testing.assert_allclose(one, other, atol=1e-5)


@merges
@kinds
@given(logits, some_weights)
def test_results_are_probabilities(merge, kind, views, weights):
    result = merged(merge, as_kind(views, kind), weights[: len(views)], kind)
    assert result.dtype == np.float32
    assert result.min() >= 0
    assert result.sum() == pytest.approx(1, abs=1e-5)


@merges
@given(logits)
def test_one_view_many_times_is_that_view(merge, views):
    np.testing.assert_allclose(merged(merge, views[:1] * 7), merged(merge, views[:1]), atol=1e-5)


@merges
@given(logits, st.floats(0.0625, 16, width=32))
def test_only_the_ratio_of_weights_counts(merge, views, factor):
    weights = [1.0 + 0.5 * k for k in range(len(views))]
    scaled = [w * factor for w in weights]
    np.testing.assert_allclose(merged(merge, views, weights), merged(merge, views, scaled), atol=1e-5)


@merges
@given(logits)
def test_a_whole_weight_is_that_many_views(merge, views):
    if merge == "max":
        return  # for max a weight scales a view's scores; it does not repeat the view
    weights = [1.0 + k % 3 for k in range(len(views))]
    repeated = [view for view, weight in zip(views, weights, strict=True) for _ in range(int(weight))]
    np.testing.assert_allclose(merged(merge, views, weights), merged(merge, repeated), atol=1e-5)


@merges
@given(logits)
def test_the_same_weight_for_each_class_is_one_weight(merge, views):
    weights = [1.0 + 0.5 * k for k in range(len(views))]
    by_class = [(w,) * 4 for w in weights]
    np.testing.assert_allclose(merged(merge, views, by_class), merged(merge, views, weights), atol=1e-5)


@merges
@given(logits)
def test_adding_and_reading_change_neither_views_nor_sums(merge, views):
    accumulator = ScoreAccumulator(MERGES[merge], CLASS_KINDS["logits"])
    added = np.array(views, np.float32)
    for view in added:
        accumulator.add(view, 1.0)
        np.testing.assert_array_equal(accumulator.result().copy(), accumulator.result())
    np.testing.assert_array_equal(added, np.array(views, np.float32))


@given(logits)
def test_a_single_view_is_its_softmax_to_the_bit(views):
    z = np.array(views[0], np.float32)
    for merge in ("mean_probabilities", "mean_logits"):
        np.testing.assert_array_equal(merged(merge, [z]), softmax(z))


@pytest.mark.parametrize("merge", ["geometric_mean", "max"])
@given(logits)
def test_a_single_view_is_its_softmax(merge, views):
    z = np.array(views[0], np.float32)
    np.testing.assert_allclose(merged(merge, [z]), softmax(z), atol=1e-6)


@merges
@given(logits)
def test_the_merges_of_maps_are_those_of_their_pixels(merge, views):
    maps = [np.array([view, view[::-1]], np.float32).T.reshape(4, 1, 2) for view in views]
    whole = merged(merge, maps)
    np.testing.assert_allclose(whole[:, 0, 0], merged(merge, views), atol=1e-6)
    np.testing.assert_allclose(whole[:, 0, 1], merged(merge, [view[::-1] for view in views]), atol=1e-6)


@merges
@given(logits, some_weights)
def test_a_pixel_is_merged_from_the_views_that_cover_it(merge, views, weights):
    weights = weights[: len(views)]
    seen = [k % 2 == 0 for k in range(len(views))]
    maps = [np.array(view, np.float32).reshape(4, 1, 1) for view in views]
    whole = merged(merge, maps, weights, coverage=[[[float(s)]] for s in seen])
    expected = merged(
        merge,
        [v for v, s in zip(views, seen, strict=True) if s],
        [w for w, s in zip(weights, seen, strict=True) if s],
    )
    np.testing.assert_allclose(whole[:, 0, 0], expected, atol=1e-5)


@merges
@pytest.mark.parametrize("size", [65504.0, 1e6, 1e30])
def test_large_logits_survive(merge, size):
    z = [[size, -size, 0.0], [size, 0.0, -size]]
    result = merged(merge, z)
    assert np.isfinite(result).all()
    assert result[0] == pytest.approx(1, abs=1e-6)


@merges
def test_a_class_that_a_model_masks_with_minus_infinity_survives(merge):
    result = merged(merge, [[0.0, -np.inf, LOG3], [0.0, -np.inf, LOG3]])
    assert np.isfinite(result).all()
    assert result[1] == 0
    assert result.argmax() == 2


@merges
def test_probabilities_of_0_and_1_survive(merge):
    result = merged(merge, [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]], kind="probabilities")
    np.testing.assert_allclose(result, [0, 1, 0], atol=1e-6)


@merges
def test_a_class_that_no_view_has_weight_for_does_not_win(merge):
    result = merged(merge, [[0.0, 1.0, 2.0], [0.0, 2.0, 1.0]], [(0.0, 1.0, 1.0), (0.0, 1.0, 1.0)])
    assert np.isfinite(result).all()
    assert result[0] == pytest.approx(0, abs=1e-6)


@merges
def test_nothing_added_has_no_result(merge):
    with pytest.raises(ValueError, match="no prediction was added"):
        ScoreAccumulator(MERGES[merge], CLASS_KINDS["logits"]).result()


# ---- values by hand ----

A, B = [0.0, LOG3], [LOG3 * 2, 0.0]  # probabilities (1/4, 3/4) and (9/10, 1/10)


@pytest.mark.parametrize(
    ("merge", "weights", "expected"),
    [
        ("mean_probabilities", [1.0, 1.0], (0.575, 0.425)),
        ("mean_probabilities", [3.0, 1.0], (0.4125, 0.5875)),
        ("mean_probabilities", [(1.0, 3.0), (1.0, 1.0)], (0.575 / 1.1625, 0.5875 / 1.1625)),
        ("mean_logits", [1.0, 1.0], (3**0.5 / (1 + 3**0.5), 1 / (1 + 3**0.5))),  # logits (log 3, log 3 / 2)
        ("mean_logits", [2.0, 1.0], (0.5, 0.5)),  # logits (2 log 3 / 3, 2 log 3 / 3)
        ("geometric_mean", [1.0, 1.0], (3**0.5 / (1 + 3**0.5), 1 / (1 + 3**0.5))),  # roots of 9/40 and 3/40
        ("geometric_mean", [2.0, 1.0], (0.5, 0.5)),
        ("max", [1.0, 1.0], (0.9 / 1.65, 0.75 / 1.65)),
        ("max", [2.0, 1.0], (0.9 / 2.4, 1.5 / 2.4)),
        ("vote", [1.0, 1.0], (0.5, 0.5)),
        ("vote", [3.0, 1.0], (0.25, 0.75)),
    ],
)
def test_two_views_by_hand(merge, weights, expected):
    np.testing.assert_allclose(merged(merge, [A, B], weights), expected, atol=1e-6)


def test_three_views_of_probabilities_by_hand():
    views = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.4, 0.5, 0.1]]
    np.testing.assert_allclose(merged("mean_probabilities", views, kind="probabilities"), [0.4, 0.5, 0.1], atol=1e-6)
    np.testing.assert_allclose(merged("vote", views, kind="probabilities"), [1 / 3, 2 / 3, 0], atol=1e-6)
    roots = np.cbrt([0.028, 0.08, 0.001])
    np.testing.assert_allclose(merged("geometric_mean", views, kind="probabilities"), roots / roots.sum(), atol=1e-6)
    np.testing.assert_allclose(merged("max", views, kind="probabilities"), np.array([7, 8, 1]) / 16, atol=1e-6)


def test_coverage_by_hand():
    views = [np.reshape([[0.2, 0.2], [0.8, 0.8]], (2, 1, 2)), np.reshape([[0.6, 0.6], [0.4, 0.4]], (2, 1, 2))]
    result = merged("mean_probabilities", views, [1.0, 3.0], "probabilities", [None, [[1.0, 0.0]]])
    np.testing.assert_allclose(result[:, 0], [[0.5, 0.2], [0.5, 0.8]], atol=1e-6)


def test_ties_go_to_the_lower_class():
    np.testing.assert_array_equal(one_hot(np.array([1, 2, 2], np.float32)), [0, 1, 0])
    np.testing.assert_array_equal(one_hot(np.zeros((3, 1, 2), np.float32))[:, 0, 0], [1, 0, 0])


@given(logits)
def test_log_softmax_is_the_log_of_softmax(views):
    z = np.array(views[0], np.float32)
    np.testing.assert_allclose(np.exp(log_softmax(z)), softmax(z), atol=1e-6)
    assert softmax(z).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("merge", ["mean_logits", "geometric_mean"])
def test_a_class_ruled_out_without_weight_does_not_count(merge):
    """-inf at a pixel that the second view does not show, and for a class to which it gives no weight."""
    seen = np.array([[[1.0, 2.0]], [[0.0, 0.0]]], np.float32)
    ruled_out = np.array([[[1.0, -np.inf]], [[0.0, 0.0]]], np.float32)
    alone, both = (ScoreAccumulator(MERGES[merge], CLASS_KINDS["logits"]) for _ in range(2))
    alone.add(seen, 1.0)
    both.add(seen, 1.0)
    both.add(ruled_out, 1.0, np.array([[0.0, 0.0]], np.float32))
    np.testing.assert_allclose(both.result(), alone.result())
    weighted = ScoreAccumulator(MERGES[merge], CLASS_KINDS["logits"])
    weighted.add(np.array([1.0, -np.inf], np.float32), (1.0, 0.0))
    assert np.isfinite(weighted.result()).all()
