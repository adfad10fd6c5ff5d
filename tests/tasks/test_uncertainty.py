import json
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.scores.classification import Classification
from tta_server.tasks.scores.kinds import ScoresOutput
from tta_server.tasks.uncertainty import deviation, entropy, of_classes, of_labels
from tta_server.views.geometry import Size
from tta_server.views.view import View

SLACK = 2e-6
"""What rounding to 6 decimals, and float32, may add."""


def distributions(classes):
    parts = st.lists(st.sampled_from([0, 0, 1, 1, 2, 5, 1000]), min_size=classes, max_size=classes).filter(any)
    return parts.map(lambda p: np.array(p, np.float32) / np.float32(sum(p)))


views_of_classes = st.integers(1, 6).flatmap(lambda c: st.lists(distributions(c), min_size=1, max_size=8))
views_of_labels = st.integers(1, 5).flatmap(
    lambda c: st.lists(
        st.lists(st.floats(0, 1, width=32), min_size=c, max_size=c).map(np.float32), min_size=1, max_size=8
    )
)


# ---- laws ----


@given(views_of_classes)
def test_what_views_disagree_about_is_part_of_the_whole(views):
    found = of_classes(views)
    assert 0 <= found["mutual_information"] <= found["entropy"] + SLACK
    assert found["entropy"] <= log(len(views[0])) + SLACK
    assert -SLACK <= found["mean_entropy"] <= found["entropy"] + SLACK
    whole = found["mean_entropy"] + found["mutual_information"]
    assert found["entropy"] == pytest.approx(whole, abs=2 * SLACK)


@given(views_of_labels)
def test_labels_hold_at_most_one_bit_each(views):
    found = of_labels(views)
    assert 0 <= found["mutual_information"] <= found["entropy"] + SLACK
    assert found["entropy"] <= log(2) + SLACK


@given(views_of_classes, st.integers(1, 6))
def test_equal_views_disagree_about_nothing(views, times):
    found = of_classes(views[:1] * times)
    assert found["mutual_information"] == pytest.approx(0, abs=SLACK)
    assert found["mean_entropy"] == pytest.approx(found["entropy"], abs=SLACK)
    assert of_labels(views[:1] * times)["mutual_information"] == pytest.approx(0, abs=SLACK)


@given(views_of_classes, st.randoms(use_true_random=False))
def test_order_does_not_matter(views, order):
    shuffled = list(views)
    order.shuffle(shuffled)
    assert of_classes(views) == pytest.approx(of_classes(shuffled), abs=SLACK)
    assert of_labels(views) == pytest.approx(of_labels(shuffled), abs=SLACK)


@given(views_of_labels)
def test_a_label_is_as_uncertain_as_two_classes(views):
    first = [view[:1] for view in views]
    both = [np.array([view[0], 1 - view[0]], np.float64) for view in views]
    assert of_labels(first) == pytest.approx(of_classes(both), abs=SLACK)


# ---- by hand ----


def test_entropy_is_in_nats():
    np.testing.assert_allclose(entropy(np.array([[0.5, 0.5], [1, 0], [0.25, 0.75]])), [log(2), 0, 0.562335], atol=1e-6)


def test_certain_views_of_different_classes_only_disagree():
    """Their mean is even: log 2; each by itself 0."""
    assert of_classes([np.float32([1, 0]), np.float32([0, 1])]) == {
        "entropy": 0.693147, "mean_entropy": 0, "mutual_information": 0.693147,
    }  # fmt: skip


def test_equally_uncertain_views_do_not_disagree():
    assert of_classes([np.float32([0.5, 0.5])] * 2) == {
        "entropy": 0.693147, "mean_entropy": 0.693147, "mutual_information": 0,
    }  # fmt: skip


def test_two_views_by_hand():
    """(3/4, 1/4) and (1/4, 3/4) have 0.562335 each, and an even mean."""
    assert of_classes([np.float32([0.75, 0.25]), np.float32([0.25, 0.75])]) == {
        "entropy": 0.693147, "mean_entropy": 0.562335, "mutual_information": 0.130812,
    }  # fmt: skip


def test_labels_by_hand():
    """The first label as two certain classes, the second even: means of (log 2, log 2), (0, log 2)."""
    assert of_labels([np.float32([1, 0.5]), np.float32([0, 0.5])]) == {
        "entropy": 0.693147, "mean_entropy": 0.346574, "mutual_information": 0.346574,
    }  # fmt: skip


@pytest.mark.parametrize("of", [of_classes, of_labels])
@pytest.mark.parametrize("times", [1, 3])
def test_certain_views_have_an_entropy_of_0_not_of_minus_0(of, times):
    assert {json.dumps(value) for value in of([np.float32([1, 0])] * times).values()} == {"0.0"}


def test_deviation_is_that_of_a_sample():
    np.testing.assert_allclose(deviation(np.array([[1.0, 5], [3, 5], [5, 5]])), [2, 0])
    np.testing.assert_array_equal(deviation(np.array([[1.0, 5]])), 0)


# ---- in classification ----

PLAIN = Preprocessing(Size(8, 8), Resize.EXACT).place(View(), Size(20, 10))
SCENE = ImageFrame(Size(20, 10), PLAIN)


def answered(views, include=("uncertainty",), weights=None):
    labels = [str(c) for c in range(len(views[0]))]
    task = Classification(labels, ScoresOutput("probabilities"), {"scores": (None, len(labels))})
    wanted = ResponseSpec(frozenset(include))
    accumulator = task.accumulator("mean_probabilities", wanted, SCENE)
    seen = [task.decode({"scores": np.float32(views)}, row, PLAIN, SCENE) for row in range(len(views))]
    for view, weight in zip(seen, weights or [1.0] * len(views), strict=True):
        accumulator.add(view, weight)
    return task.result(accumulator.result(), [task.view_result(view) for view in seen], SCENE, wanted)


def test_classification_has_margin_and_agreement_too():
    unsure = answered([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.25]]).uncertainty
    assert unsure["margin"] == pytest.approx(0.25, abs=1e-6)
    assert unsure["agreement"] == 0.75
    assert unsure.keys() == {"entropy", "mean_entropy", "mutual_information", "margin", "agreement"}


def test_each_view_counts_once_whatever_its_weight():
    views = [[0.75, 0.25], [0.25, 0.75]]
    even, uneven = answered(views).uncertainty, answered(views, weights=[9.0, 1.0]).uncertainty
    assert even["mutual_information"] == uneven["mutual_information"] == 0.130812
    assert uneven["margin"] == pytest.approx(0.4, abs=1e-6)


def test_a_single_class_is_certain():
    unsure = answered([[1.0]]).uncertainty
    assert (unsure["entropy"], unsure["margin"], unsure["agreement"]) == (0, 1, 1)


def test_uncertainty_is_there_only_if_included():
    assert answered([[0.75, 0.25]], include=["views"]).uncertainty == {}
