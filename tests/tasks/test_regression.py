import json
from math import inf, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rendered import rendered
from tta_server.errors import ConfigError, InvalidInput
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.scheduling.stopping import Precise, StopReason, StopSpec, read_stop
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.regression import MERGES, Regression, ValuesOutput
from tta_server.views.geometry import Size
from tta_server.views.view import View

LABELS = ("age", "height")
PLAIN = Preprocessing(Size(8, 8), Resize.EXACT).place(View(), Size(20, 10))
SCENE = ImageFrame(Size(20, 10), PLAIN)

merges = pytest.mark.parametrize("merge", MERGES)
kinds = pytest.mark.parametrize("kind", ["values", "log", "log1p"])
values = st.lists(st.tuples(*[st.floats(-50, 50)] * 2), min_size=1, max_size=9)
small = st.lists(st.tuples(*[st.integers(-5, 5)] * 2), min_size=1, max_size=7)
counts = st.lists(st.integers(1, 4), min_size=9, max_size=9)
some_weights = st.lists(st.floats(0.0625, 8), min_size=9, max_size=9)


def task(kind="values", labels=LABELS):
    return Regression(labels, ValuesOutput(kind), {"values": (None, len(labels))})


def decoded(views, regression):
    batch = np.array(views, np.float64)
    return [regression.decode({"values": batch}, row, PLAIN, SCENE) for row in range(len(batch))]


def accumulated(merge, views, weights=None, kind="values", labels=LABELS):
    regression = task(kind, labels)
    accumulator = regression.accumulator(merge, ResponseSpec(), SCENE)
    for view, weight in zip(decoded(views, regression), weights or [1.0] * len(views), strict=False):
        accumulator.add(view, weight)
    return accumulator


def merged(*arguments, **options):
    return accumulated(*arguments, **options).result()


def answered(views, kind="values", merge="mean", include=(), labels=LABELS):
    regression, wanted = task(kind, labels), ResponseSpec(frozenset(include))
    result = merged(merge, views, None, kind, labels)
    kept = [regression.view_result(view) for view in decoded(views, regression)]
    return rendered(regression.result(result, kept, SCENE, wanted), wanted)


# ---- laws ----


@merges
@given(values, some_weights, st.randoms(use_true_random=False))
def test_order_does_not_matter(merge, views, weights, order):
    shuffled = list(range(len(views)))
    order.shuffle(shuffled)
    one = merged(merge, views, weights)
    other = merged(merge, [views[i] for i in shuffled], [weights[i] for i in shuffled])
    np.testing.assert_allclose(one, other, atol=1e-9)


@merges
@given(values, st.floats(0.0625, 8))
def test_one_view_is_the_model_s_own_output(merge, views, weight):
    np.testing.assert_allclose(merged(merge, views[:1], [weight]), views[0], atol=1e-9)


@merges
@given(values, some_weights)
def test_results_lie_between_the_views(merge, views, weights):
    result = merged(merge, views, weights)
    assert (result >= np.min(views, axis=0) - 1e-9).all()
    assert (result <= np.max(views, axis=0) + 1e-9).all()


@merges
@given(small, counts, st.floats(0.01, 100))
def test_only_the_ratio_of_weights_counts(merge, views, weights, factor):
    one = merged(merge, views, [float(w) for w in weights])
    np.testing.assert_allclose(one, merged(merge, views, [factor * w for w in weights]), atol=1e-6)


@merges
@given(small, counts)
def test_a_whole_weight_is_that_many_views(merge, views, weights):
    repeated = [view for view, weight in zip(views, weights, strict=False) for _ in range(weight)]
    np.testing.assert_allclose(merged(merge, views, [float(w) for w in weights]), merged(merge, repeated), atol=1e-9)


@merges
@given(values, some_weights, st.floats(-5, 5), st.floats(-5, 5))
def test_other_units_give_the_same_answer_in_them(merge, views, weights, factor, aside):
    changed = [[factor * v + aside for v in view] for view in views]
    expected = factor * merged(merge, views, weights) + aside
    np.testing.assert_allclose(merged(merge, changed, weights), expected, atol=1e-7)


@given(small, counts)
def test_the_median_is_that_of_values_repeated_by_their_weight(views, weights):
    columns = repeated_columns(views, weights)
    expected = [np.median(column) for column in columns]
    np.testing.assert_allclose(merged("median", views, [float(w) for w in weights]), expected, atol=1e-9)


@given(small, counts)
def test_the_trimmed_mean_leaves_out_a_fifth_at_each_end(views, weights):
    """Of values repeated five times by their weight, that is a whole number of them."""
    columns = repeated_columns(views, [5 * w for w in weights])
    expected = [np.mean(c[len(c) // 5 : len(c) - len(c) // 5]) for c in map(sorted, columns)]
    np.testing.assert_allclose(merged("trimmed_mean", views, [float(w) for w in weights]), expected, atol=1e-9)


def repeated_columns(views, weights):
    return [
        [view[d] for view, weight in zip(views, weights, strict=False) for _ in range(weight)]
        for d in range(len(LABELS))
    ]


@merges
@given(values, some_weights)
def test_values_are_merged_independently(merge, views, weights):
    changed = [(age, -3 * height) for age, height in views]
    by_value = [(w, 1 / w) for w in weights]
    np.testing.assert_allclose(
        merged(merge, views, weights)[0], merged(merge, changed, by_value)[0], rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("merge", ["median", "trimmed_mean"])
@given(st.floats(-1e9, 1e9))
def test_one_outlier_of_six_views_hardly_counts(merge, wild):
    views = [[10, 10], [11, 11], [12, 12], [11, 11], [10, 10], [wild, wild]]
    assert (merged(merge, views) >= 10).all()
    assert (merged(merge, views) <= 12).all()


@merges
def test_adding_never_writes_into_a_view(merge):
    accumulator = task().accumulator(merge, ResponseSpec(), SCENE)
    view = np.array([1.0, 2.0])
    accumulator.add(view, 2.0)
    first = accumulator.result()
    accumulator.add(np.array([5.0, 6.0]), 2.0)
    np.testing.assert_array_equal(view, [1, 2])
    np.testing.assert_array_equal(first, [1, 2])


# ---- how precise ----


@given(st.lists(st.tuples(*[st.floats(-50, 50)] * 2), min_size=2, max_size=9), st.floats(0.1, 10))
def test_the_standard_error_of_equal_weights_is_the_usual_one(views, weight):
    """Sample standard deviation over root k, the largest of the vector's."""
    usual = (np.std(views, axis=0, ddof=1) / sqrt(len(views))).max()
    found = accumulated("mean", views, [weight] * len(views)).standard_error()
    assert found == pytest.approx(usual, rel=1e-6, abs=1e-9)


def test_the_standard_error_by_hand():
    """1, 3 and 5: deviation 2, over root 3. The other value is the same in all."""
    assert accumulated("mean", [[1, 7], [3, 7], [5, 7]]).standard_error() == pytest.approx(2 / sqrt(3))


def test_the_standard_error_is_in_the_answer_s_unit():
    """exp gives 1 and 3: deviation root 2, over root 2."""
    assert accumulated("mean", [[0], [np.log(3)]], kind="log", labels=("n",)).standard_error() == pytest.approx(1)
    assert accumulated("mean", [[0], [np.log(3)]], kind="log1p", labels=("n",)).standard_error() == pytest.approx(1)


@given(values, some_weights)
def test_the_standard_error_ignores_the_scale_of_weights(views, weights):
    one = accumulated("mean", views, weights).standard_error()
    other = accumulated("mean", views, [4 * w for w in weights]).standard_error()
    assert one == pytest.approx(other)


def test_one_view_has_no_standard_error():
    assert accumulated("mean", [[1, 2]]).standard_error() == inf
    assert Precise(1e9).decide(accumulated("mean", [[1, 2]])) is None


@pytest.mark.parametrize("weights", [[(1.0, 0.0), (0.0, 1.0)], [(1.0, 1.0), (1.0, 0.0)]])
def test_a_value_with_weight_in_one_view_has_no_standard_error(weights):
    assert accumulated("mean", [[1, 5], [9, 50]], weights).standard_error() == inf


def test_precise_is_a_standard_error_within_the_tolerance():
    evidence = accumulated("mean", [[1, 7], [3, 7], [5, 7]])
    assert Precise(1.16).decide(evidence) is StopReason.PRECISE
    assert Precise(1.15).decide(evidence) is None
    assert Precise(1e-9).decide(accumulated("mean", [[4, 4]] * 2)) is StopReason.PRECISE


@pytest.mark.parametrize("merge", ["median", "trimmed_mean"])
def test_a_tolerance_is_refused_for_other_merges_than_the_mean(merge):
    with pytest.raises(InvalidInput, match=f"standard error is that of merge mean, not of {merge}"):
        task().check_mean(merge)
    task().check_mean("mean")


@pytest.mark.parametrize("written", [{"tolerance": 2.5}, '{"tolerance": 2.5}'])
def test_formats_of_a_tolerance(written):
    assert read_stop(written) == StopSpec("tolerance", 2.5)


@pytest.mark.parametrize("written", [{"tolerance": 0}, {"tolerance": -1}, {"tolerance": inf}, "tolerance"])
def test_a_tolerance_is_a_number_over_0(written):
    with pytest.raises(InvalidInput, match=r'{"tolerance": a number over 0}'):
        read_stop(written)


@merges
def test_nothing_is_certain_before_the_last_view(merge):
    with pytest.raises(InvalidInput, match=f"merge {merge} has no bound"):
        task().check_bounded(merge, [1.0])
    assert accumulated(merge, [[1, 2]]).undecided([]) == 1


# ---- values by hand ----

VIEWS = [[1, 10], [2, 20], [9, 30]]


@pytest.mark.parametrize(
    ("merge", "weights", "expected"),
    [
        ("mean", [1.0, 1.0, 1.0], (4, 20)),
        ("mean", [2.0, 1.0, 1.0], (3.25, 17.5)),
        ("mean", [(1.0, 1.0), (3.0, 0.0), (1.0, 1.0)], (3.2, 20)),
        ("median", [1.0, 1.0, 1.0], (2, 20)),
        ("median", [2.0, 1.0, 1.0], (1.5, 15)),
        ("median", [3.0, 1.0, 1.0], (1, 10)),
        ("median", [1.0, 1.0, 2.0], (5.5, 25)),
        # a fifth of 3 is 0.6: the ends count 0.4, the middle 1
        ("trimmed_mean", [1.0, 1.0, 1.0], ((0.4 + 2 + 3.6) / 1.8, 20)),
        # a fifth of 5 is 1: 1 counts 0, 2 counts 2, 9 counts 1
        ("trimmed_mean", [1.0, 2.0, 2.0], ((2 * 2 + 9) / 3, (2 * 20 + 30) / 3)),
    ],
)
def test_three_views_by_hand(merge, weights, expected):
    np.testing.assert_allclose(merged(merge, VIEWS, weights), expected)


@kinds
@merges
@given(st.lists(st.tuples(*[st.floats(-3, 3)] * 2), min_size=1, max_size=5))
def test_logarithms_are_merged_before_they_are_undone(kind, merge, views):
    undo: Any = {"values": lambda v: v, "log": np.exp, "log1p": np.expm1}[kind]
    listed = answered(views, kind, merge).prediction["values"]
    np.testing.assert_allclose(list(listed.values()), undo(merged(merge, views)), rtol=1e-9)


def test_the_mean_of_logarithms_is_the_geometric_mean():
    assert answered(np.log([[2, 5], [8, 5]]), "log").prediction["values"] == pytest.approx({"age": 4, "height": 5})
    assert answered(np.log([[3, 1], [9, 1]]), "log1p").prediction["values"] == pytest.approx(
        {"age": sqrt(27) - 1, "height": 0}
    )


# ---- answers ----


def test_an_answer_names_its_values():
    answer = answered(VIEWS)
    assert answer.prediction == {"values": {"age": 4, "height": 20}}
    assert answer.uncertainty == {}
    assert task().confidence(merged("mean", VIEWS)) is None
    assert answer.lines == ["age 4", "height 20"]


def test_uncertainty_is_in_the_answer_s_unit():
    unsure = answered([[1, 10], [3, 20], [5, 30]], include=["uncertainty"]).uncertainty["by_value"]
    assert unsure["age"] == {"std": 2, "standard_error": pytest.approx(2 / sqrt(3), abs=1e-6), "least": 1, "most": 5}
    assert unsure["height"]["std"] == 10
    counted = answered(np.log([[1, 1], [3, 1]]), "log", include=["uncertainty"]).uncertainty["by_value"]["age"]
    assert (counted["least"], counted["most"]) == pytest.approx((1, 3))
    assert counted["std"] == pytest.approx(sqrt(2), abs=1e-6)


def test_one_view_has_no_spread():
    unsure = answered([[1, 10]], include=["uncertainty"]).uncertainty["by_value"]
    assert unsure["age"] == {"std": 0, "standard_error": 0, "least": 1, "most": 1}


def test_each_view_has_its_own_values():
    views = answered(np.log([[1, 2], [3, 4]]), "log", include=["views"]).views
    assert views[0]["values"] == pytest.approx({"age": 1, "height": 2})
    assert views[1]["values"] == pytest.approx({"age": 3, "height": 4})


def test_an_answer_is_json():
    answer = answered([[1e30, -1e-30]], include=["views", "uncertainty"])
    json.dumps([answer.prediction, answer.views, answer.uncertainty], allow_nan=False)


@pytest.mark.parametrize(
    "merge",
    ["median", "mean", "trimmed_mean"],
)
def test_a_value_without_weight_in_any_view_so_far_is_a_number(merge):
    """As after the first of two views with the weights [1, 0] and [0, 1], where the budget ends."""
    assert np.isfinite(merged(merge, [[1, 10]], [(1.0, 0.0)])).all()


# ---- what a model gives ----


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_unsound(bad):
    sound, unsound = decoded([[1, 2], [1, bad]], task())
    assert task().is_sound(sound)
    assert not task().is_sound(unsound)


@pytest.mark.parametrize("kind", ["log", "log1p"])
def test_minus_infinity_is_the_logarithm_of_0(kind):
    (view,) = decoded([[0, -np.inf]], task(kind))
    assert task(kind).is_sound(view)


@pytest.mark.parametrize("kind", ["log", "log1p"])
def test_a_logarithm_that_overflows_is_unsound(kind):
    (view,) = decoded([[0, 1e4]], task(kind))
    assert not task(kind).is_sound(view)


def test_a_model_of_one_value_may_give_one_axis():
    regression = Regression(("n",), ValuesOutput(), {"values": (None,)})
    regression.check({"values": np.zeros(3)}, Size(8, 8))
    np.testing.assert_array_equal(regression.decode({"values": np.array([4.0, 5.0])}, 1, PLAIN, SCENE), [5])


@pytest.mark.parametrize(("labels", "shape"), [(2, (1, 3)), (2, (1,)), (1, (1, 2)), (1, (1, 1, 1)), (2, (1, 2, 1))])
def test_outputs_of_another_shape_are_refused_naming_both(labels, shape):
    found = rf"regression with {labels} labels needs an output values of shape \[N, {labels}\]; the model gives \["
    with pytest.raises(ConfigError, match=found):
        task(labels=LABELS[:labels]).check({"values": np.zeros(shape)}, Size(8, 8))
    with pytest.raises(ConfigError, match=found):
        Regression(LABELS[:labels], ValuesOutput(), {"values": (None, *shape[1:])})


def test_a_decoded_view_outlives_its_batch():
    batch = np.array([[1.0, 2.0]])
    view = task().decode({"values": batch}, 0, PLAIN, SCENE)
    batch[:] = 9
    np.testing.assert_array_equal(view, [1, 2])
