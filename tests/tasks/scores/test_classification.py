import numpy as np
import pytest

from tests.support.rendered import rendered
from tta_server.errors import ConfigError
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.scores.classification import Classification
from tta_server.tasks.scores.kinds import ScoresOutput
from tta_server.tasks.scores.merging import MERGES
from tta_server.views.geometry import Size
from tta_server.views.view import View

LABELS = ("cat", "dog", "owl")
PLAIN = Preprocessing(Size(8, 8), Resize.EXACT).place(View(), Size(20, 10))
SCENE = ImageFrame(Size(20, 10), PLAIN)


def task(kind="logits", labels=LABELS):
    return Classification(labels, ScoresOutput(kind), {"scores": (None, len(labels))})


def decoded(scores, kind="logits"):
    scores = np.asarray(scores)
    return [task(kind).decode({"scores": scores}, row, PLAIN, SCENE) for row in range(len(scores))]


def answered(scores, kind="probabilities", **wanted):
    """The result of views' scores, merged by their mean."""
    spec = ResponseSpec(frozenset(wanted.get("include", ())), wanted.get("top_k", 5))
    views = decoded(scores, kind)
    accumulator = task(kind).accumulator("mean_probabilities", spec, SCENE)
    for view in views:
        accumulator.add(view, 1.0)
    kept = [task(kind).view_result(view) for view in views]
    return rendered(task(kind).result(accumulator.result(), kept, SCENE, spec), spec)


@pytest.mark.parametrize("merge", MERGES)
def test_rows_of_a_batch_are_merged_as_they_are(merge):
    accumulator = task().accumulator(merge, ResponseSpec(), SCENE)
    for view in decoded(np.array([[0, 2, 1], [0, 3, 1]], np.float32)):
        accumulator.add(view, 1.0)
    assert accumulator.result().argmax() == 1


def test_half_precision_is_widened():
    (view,) = decoded(np.array([[65504, -65504, 0]], np.float16))
    assert view.dtype == np.float32
    np.testing.assert_array_equal(view, [65504, -65504, 0])


def test_a_decoded_view_outlives_its_batch():
    batch = np.array([[0, 2, 1]], np.float32)
    (view,) = decoded(batch)
    batch[:] = 9
    np.testing.assert_array_equal(view, [0, 2, 1])


def test_nan_is_unsound():
    sound, unsound = decoded(np.array([[0, 1, 2], [0, np.nan, 2]], np.float32))
    assert task().is_sound(sound)
    assert not task().is_sound(unsound)


@pytest.mark.parametrize("merge", MERGES)
def test_an_infinite_logit_is_unsound_or_merges_into_numbers(merge):
    (view,) = decoded(np.array([[np.inf, 1, 2]], np.float16))
    if task().is_sound(view):
        accumulator = task().accumulator(merge, ResponseSpec(), SCENE)
        accumulator.add(view, 1.0)
        assert np.isfinite(accumulator.result()).all()


def test_the_top_is_sorted_and_cut():
    top = answered([[0.2, 0.7, 0.1]], top_k=2).prediction["top"]
    assert [(e["label"], e["index"]) for e in top] == [("dog", 1), ("cat", 0)]
    assert [e["probability"] for e in top] == pytest.approx([0.7, 0.2])


def test_more_than_all_classes_is_all_classes():
    assert len(answered([[0.2, 0.7, 0.1]], top_k=50).prediction["top"]) == 3


def test_ties_go_to_the_lower_class():
    top = answered([[0.4, 0.2, 0.4]]).prediction["top"]
    assert [e["label"] for e in top] == ["cat", "owl", "dog"]


def test_parts_are_there_only_if_included():
    assert answered([[0.2, 0.7, 0.1]]).prediction.keys() == {"top"}


def test_probabilities_come_in_the_order_of_the_labels():
    prediction = answered([[0.2, 0.7, 0.1], [0.4, 0.5, 0.1]], include=["probabilities"]).prediction
    assert prediction["probabilities"] == pytest.approx([0.3, 0.6, 0.1])


def test_agreement_is_the_share_of_views_with_the_merged_label():
    views = [[0.2, 0.7, 0.1], [0.2, 0.7, 0.1], [0.9, 0.1, 0.0], [0.1, 0.8, 0.1]]
    assert answered(views, include=["agreement"]).prediction["agreement"] == 0.75


def test_each_view_has_its_own_top_label():
    views = answered([[0.2, 0.7, 0.1], [0.9, 0.1, 0.0]]).views
    assert [(v["label"], v["index"]) for v in views] == [("dog", 1), ("cat", 0)]
    assert [v["probability"] for v in views] == pytest.approx([0.7, 0.9])


def test_view_results_of_logits_are_probabilities():
    (view,) = answered([[0.0, 0.0, 0.0]], kind="logits").views
    assert view["probability"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("shape", [(1, 4), (1, 2), (3,), (1, 3, 2, 1)])
def test_outputs_of_another_shape_are_refused_naming_both(shape):
    with pytest.raises(ConfigError, match=r"with 3 labels needs an output scores of shape \[N, 3\]; .* gives \["):
        task().check({"scores": np.zeros(shape, np.float32)}, Size(8, 8))


def test_outputs_of_its_shape_pass():
    task().check({"scores": np.zeros((2, 3), np.float32)}, Size(8, 8))
