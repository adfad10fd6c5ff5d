import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rendered import rendered
from tta_server.errors import ConfigError, InvalidInput
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.scheduling.stopping import Certain, StopReason
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.scores.kinds import LabelsOutput
from tta_server.tasks.scores.merging import LABEL_MERGES
from tta_server.tasks.scores.multilabel import Multilabel
from tta_server.views.geometry import Size
from tta_server.views.view import View

LABELS = ("cat", "dog", "owl")
PLAIN = Preprocessing(Size(8, 8), Resize.EXACT).place(View(), Size(20, 10))
SCENE = ImageFrame(Size(20, 10), PLAIN)
LOG3 = float(np.log(3))  # the sigmoid of log 3 is 3/4, that of -log 3 is 1/4

merges = pytest.mark.parametrize("merge", LABEL_MERGES)
bounded = pytest.mark.parametrize("merge", ["mean_probabilities", "vote"])
thousandths = st.integers(-30_000, 30_000).map(
    lambda n: n / 1000
)  # nearer 0, rounding decides on which side of 1/2 a probability is
logits = st.lists(st.tuples(*[thousandths] * 3), min_size=1, max_size=8)
shares = st.lists(st.tuples(*[st.sampled_from([0, 0.2, 0.49, 0.5, 0.51, 0.8, 1])] * 3), min_size=1, max_size=8)
some_weights = st.lists(st.floats(0.0625, 8, width=32), min_size=8, max_size=8)
thresholds = st.sampled_from([0.1, 0.5, 0.7])


def task(kind="logits", threshold=0.5, labels=LABELS):
    return Multilabel(labels, LabelsOutput(kind, threshold=threshold), {"scores": (None, len(labels))})


def decoded(scores, multilabel):
    scores = np.array(scores, np.float32)
    return [multilabel.decode({"scores": scores}, row, PLAIN, SCENE) for row in range(len(scores))]


def accumulated(merge, views, weights=None, kind="logits", threshold=0.5):
    multilabel = task(kind, threshold)
    accumulator = multilabel.accumulator(merge, ResponseSpec(), SCENE)
    for view, weight in zip(decoded(views, multilabel), weights or [1.0] * len(views), strict=False):
        accumulator.add(view, weight)
    return accumulator


def merged(*arguments, **options):
    return accumulated(*arguments, **options).result()


def sigmoid(z):
    return 1 / (1 + np.exp(-np.asarray(z, np.float64)))


# ---- laws ----


@merges
@given(logits, some_weights, st.randoms(use_true_random=False))
def test_order_does_not_matter(merge, views, weights, order):
    shuffled = list(range(len(views)))
    order.shuffle(shuffled)
    one = merged(merge, views, weights)
    other = merged(merge, [views[i] for i in shuffled], [weights[i] for i in shuffled])
    np.testing.assert_allclose(one, other, atol=1e-5)


@merges
@given(logits)
def test_one_view_is_the_model_s_own_output(merge, views):
    own = sigmoid(views[0])
    expected = own >= 0.5 if merge == "vote" else own
    np.testing.assert_allclose(merged(merge, views[:1]), expected, atol=1e-6)


@merges
@given(shares)
def test_one_view_of_probabilities_is_the_model_s_own_output(merge, views):
    own = np.float32(views[0])
    expected = own >= 0.5 if merge == "vote" else own
    np.testing.assert_allclose(merged(merge, views[:1], kind="probabilities"), expected, atol=2e-6)


@merges
@given(logits)
def test_one_view_many_times_is_that_view(merge, views):
    np.testing.assert_allclose(merged(merge, views[:1] * 7), merged(merge, views[:1]), atol=1e-5)


@merges
@given(logits, some_weights)
def test_results_lie_between_the_views_own(merge, views, weights):
    if merge == "max":
        weights = [1.0] * 8  # for max a weight scales a view's scores
    result, own = merged(merge, views, weights), sigmoid(views)
    own = own >= 0.5 if merge == "vote" else own
    assert result.dtype == np.float32
    assert (result >= own.min(axis=0) - 1e-5).all()
    assert (result <= own.max(axis=0) + 1e-5).all()


@pytest.mark.parametrize("merge", [merge for merge in LABEL_MERGES if merge != "max"])
@given(logits, some_weights, st.floats(0.0625, 16, width=32))
def test_only_the_ratio_of_weights_counts(merge, views, weights, factor):
    one = merged(merge, views, weights)
    np.testing.assert_allclose(one, merged(merge, views, [factor * w for w in weights]), atol=1e-5)


@merges
@given(logits, some_weights)
def test_labels_are_merged_independently(merge, views, weights):
    """Another logit for the owl, and other weights for it, leave cat and dog as they are."""
    changed = [(cat, dog, -owl) for cat, dog, owl in views]
    by_label = [(w, w, 9.0 * w) for w in weights]
    np.testing.assert_allclose(
        merged(merge, views, weights)[:2], merged(merge, changed, by_label)[:2], rtol=1e-5, atol=1e-7
    )


@merges
@given(st.lists(st.tuples(*[st.sampled_from([-1e4, -50, 0, 50, 1e4])] * 3), min_size=1, max_size=5), some_weights)
def test_large_logits_stay_probabilities(merge, views, weights):
    result = merged(merge, views, weights)
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1


@merges
def test_probabilities_of_0_and_1_stay_what_they_are(merge):
    result = merged(merge, [[0, 1, 0], [0, 1, 0]], kind="probabilities")
    np.testing.assert_allclose(result, [0, 1, 0], atol=2e-6)


# ---- certain ----


@bounded
@given(shares, some_weights, thresholds, st.sets(st.integers(0, 7)), st.integers(0, 2**32 - 1))
def test_no_decided_label_changes_sides_for_any_views_that_follow(merge, views, weights, threshold, lost, seed):
    """The views that follow may find no label, all or any, and some may be lost to NaN."""
    multilabel, source = task("probabilities", threshold), np.random.default_rng(seed)
    for done in range(1, len(views) + 1):
        rest = weights[done : len(views)]
        progress = accumulated(merge, views[:done], weights, "probabilities", threshold)
        if Certain().decide(Evidence(progress, rest)) is None:
            continue
        before = labels_of(multilabel, progress.result())
        for follows in (np.zeros((len(rest), 3)), np.ones((len(rest), 3)), source.random((len(rest), 3)), views[done:]):
            after = accumulated(merge, views[:done], weights, "probabilities", threshold)
            for number, (view, weight) in enumerate(zip(follows, rest, strict=True)):
                if number not in lost:
                    after.add(np.array(view, np.float32), weight)
            assert labels_of(multilabel, after.result()) == before


class Evidence:
    """Evidence for the rule: the merge so far, and the weights of the remaining views."""

    def __init__(self, accumulator, weights):
        self._accumulator = accumulator
        self._remaining = [(PLAIN, weight) for weight in weights]

    def margin(self):
        return self._accumulator.margin()

    def views_in_order(self):
        return 0

    def undecided(self):
        return self._accumulator.undecided(self._remaining)

    def standard_error(self):
        return self._accumulator.standard_error()


def labels_of(multilabel, merged):
    return set(np.flatnonzero(multilabel.result(merged, [], SCENE, ResponseSpec()).present))


@bounded
def test_undecided_is_the_share_of_the_labels(merge):
    """After one view of three: cat at 1 may fall to 1/3, dog at 0 may rise to 2/3; with the third known, only dog."""
    progress = accumulated(merge, [[1, 0, 1]], kind="probabilities")
    assert progress.undecided([(PLAIN, (1.0, 1.0, 0.0))] * 2) == pytest.approx(2 / 3)
    assert progress.undecided([(PLAIN, 0.5)]) == 0
    assert progress.undecided([]) == 0
    assert Certain().decide(Evidence(progress, [0.5])) is StopReason.CERTAIN


@bounded
def test_a_label_on_the_threshold_is_open_while_views_follow(merge):
    progress = accumulated(merge, [[1, 1, 0], [1, 0, 0]], kind="probabilities")
    assert progress.undecided([(PLAIN, 0.001)]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("merge", ["mean_logits", "max"])
def test_merges_without_bounds_are_refused(merge):
    with pytest.raises(InvalidInput, match=f"merge {merge} has no bound"):
        task().check_bounded(merge, [1.0])


# ---- values by hand ----

A, B = [LOG3, 0.0, -LOG3], [-LOG3, 2 * LOG3, -LOG3]  # probabilities (3/4, 1/2, 1/4) and (1/4, 9/10, 1/4)


@pytest.mark.parametrize(
    ("merge", "weights", "expected"),
    [
        ("mean_probabilities", [1.0, 1.0], (0.5, 0.7, 0.25)),
        ("mean_probabilities", [3.0, 1.0], (0.625, 0.6, 0.25)),
        ("mean_probabilities", [(1.0, 3.0, 1.0), (3.0, 1.0, 0.0)], (0.375, 0.6, 0.25)),
        ("mean_logits", [1.0, 1.0], (0.5, 0.75, 0.25)),  # logits (0, log 3, -log 3)
        ("mean_logits", [3.0, 1.0], (3**0.5 / (1 + 3**0.5), 3**0.5 / (1 + 3**0.5), 0.25)),  # (log 3, log 3) / 2
        ("max", [1.0, 1.0], (0.75, 0.9, 0.25)),
        ("max", [1.0, 0.5], (0.75, 0.5, 0.25)),
        ("max", [2.0, 1.0], (1.0, 1.0, 0.5)),  # the largest w p, at most 1
        ("vote", [1.0, 1.0], (0.5, 1.0, 0.0)),
        ("vote", [3.0, 1.0], (0.75, 1.0, 0.0)),
    ],
)
def test_two_views_by_hand(merge, weights, expected):
    np.testing.assert_allclose(merged(merge, [A, B], weights), expected, atol=1e-6)


def test_a_view_votes_for_labels_that_reach_the_threshold():
    views = [[0.8, 0.6, 0.7], [0.7, 0.9, 0.69]]
    result = merged("vote", views, kind="probabilities", threshold=0.7)
    np.testing.assert_allclose(result, [1, 0.5, 0.5])


# ---- answers ----


def answered(views, kind="probabilities", threshold=0.5, include=(), top_k=5):
    multilabel, wanted = task(kind, threshold), ResponseSpec(frozenset(include), top_k)
    accumulator = multilabel.accumulator("mean_probabilities", wanted, SCENE)
    seen = decoded(views, multilabel)
    for view in seen:
        accumulator.add(view, 1.0)
    kept = [multilabel.view_result(view) for view in seen]
    return rendered(multilabel.result(accumulator.result(), kept, SCENE, wanted), wanted)


def test_labels_are_those_that_reach_the_threshold_the_most_probable_first():
    prediction = answered([[0.6, 0.2, 0.9]]).prediction
    assert prediction["labels"] == ["owl", "cat"]
    assert [(e["label"], e["index"]) for e in prediction["top"]] == [("owl", 2), ("cat", 0), ("dog", 1)]
    assert [e["probability"] for e in prediction["top"]] == pytest.approx([0.9, 0.6, 0.2])
    assert prediction.keys() == {"labels", "top"}


def test_there_may_be_no_label_or_all():
    assert answered([[0.1, 0.2, 0.3]]).prediction["labels"] == []
    assert answered([[0.1, 0.2, 0.3]], threshold=0.1).prediction["labels"] == ["owl", "dog", "cat"]


def test_labels_are_listed_beyond_the_top():
    prediction = answered([[0.6, 0.7, 0.9]], top_k=1).prediction
    assert len(prediction["top"]) == 1
    assert len(prediction["labels"]) == 3


def test_probabilities_come_in_the_order_of_the_labels():
    views = [[0.2, 0.7, 0.1], [0.4, 0.5, 0.1]]
    assert answered(views, include=["probabilities"]).prediction["probabilities"] == pytest.approx([0.3, 0.6, 0.1])


def test_agreement_is_the_share_of_views_on_the_merged_side_of_each_label():
    """Cat: merged 0.6, both above. Dog: 0.5, one above. Owl: 0.2, both below."""
    views = [[0.7, 0.9, 0.1], [0.5, 0.1, 0.3]]
    answer = answered(views, include=["agreement", "uncertainty"])
    assert answer.prediction["agreement"] == pytest.approx(5 / 6)
    unsure = answer.uncertainty
    assert unsure["agreement"] == pytest.approx(5 / 6, abs=1e-6)
    assert [unsure["by_label"][label]["agreement"] for label in LABELS] == [1, 0.5, 1]
    spread = [0.1 * 2**0.5, 0.4 * 2**0.5, 0.1 * 2**0.5]
    assert [unsure["by_label"][label]["std"] for label in LABELS] == pytest.approx(spread, abs=1e-6)


def test_each_view_has_its_own_labels():
    views = answered([[0.7, 0.9, 0.1], [0.5, 0.1, 0.3]], include=["views"]).views
    assert [view["labels"] for view in views] == [["cat", "dog"], ["cat"]]


def test_parts_are_there_only_if_included():
    assert answered([[0.2, 0.7, 0.1]]).uncertainty == {}
    assert not task().keeps_view_results(ResponseSpec(frozenset(["probabilities"])))
    for name in ("views", "agreement", "uncertainty"):
        assert task().keeps_view_results(ResponseSpec(frozenset([name])))


def test_an_answer_is_json():
    answer = answered([[1.0, 0.0, 1e-30]], include=["views", "agreement", "probabilities", "uncertainty"])
    json.dumps([answer.prediction, answer.views, answer.uncertainty], allow_nan=False)


def test_confidence_is_the_mean_probability_of_the_answered_labels():
    assert task().confidence(np.float32([0.9, 0.2, 0.5])) == pytest.approx((0.9 + 0.8 + 0.5) / 3)


@given(st.tuples(*[st.floats(0, 1, width=32)] * 3), thresholds)
def test_confidence_is_a_probability(p, threshold):
    assert 0 <= task(threshold=threshold).confidence(np.float32(p)) <= 1


# ---- what a model gives ----


def test_a_label_ruled_out_is_sound_and_nan_is_not():
    sound, *unsound = decoded([[0, -np.inf, 1], [0, np.nan, 1], [0, np.inf, 1]], task())
    assert task().is_sound(sound)
    assert not any(map(task().is_sound, unsound))


@pytest.mark.parametrize("labels", [("cat",), LABELS])
def test_all_labels_may_be_ruled_out(labels):
    """As logits of half precision that overflow."""
    (view,) = decoded([[-np.inf] * len(labels)], task(labels=labels))
    assert task(labels=labels).is_sound(view)


@pytest.mark.parametrize("shape", [(1, 4), (1, 2), (3,), (1, 3, 2, 1)])
def test_outputs_of_another_shape_are_refused_naming_both(shape):
    with pytest.raises(ConfigError, match=r"multilabel with 3 labels needs an output scores of shape \[N, 3\]; .* \["):
        task().check({"scores": np.zeros(shape, np.float32)}, Size(8, 8))


def test_logits_stated_as_probabilities_are_no_answer():
    (remark,) = task("probabilities").remarks(np.float32([0.2, -3, 4]))
    assert remark.check == "scores.probabilities"
    assert "gives -3 to 4" in remark.sentence


def test_probabilities_that_rounding_takes_over_1_are():
    assert task("probabilities").remarks(np.float32([0.2, -1e-4, 1 + 1e-4])) == ()


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 2])
def test_a_threshold_is_between_0_and_1(threshold):
    with pytest.raises(ValueError, match="threshold takes a probability over 0 and under 1"):
        LabelsOutput("logits", threshold=threshold)
