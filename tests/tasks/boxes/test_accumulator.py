import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.support.boxes import (
    FULL_VIEWS,
    PARTIAL_VIEWS,
    by_corners,
    inside,
    part,
    scene_of,
    spread_out,
    to_input,
)
from tests.support.detection import FREE, IMAGE, LABELS, decoded, merged, outputs_of, rows_of, task
from tests.support.examples import times
from tests.support.rendered import paint, rendered
from tta_server.errors import InvalidInput
from tta_server.tasks import ResponseSpec
from tta_server.tasks.boxes.fusion import MERGES
from tta_server.tasks.boxes.results import DetectionResult
from tta_server.views.spec import read_view

SIDES = ("left", "right", "top", "bottom")
FIELDS = ("xyxy", "score", "label", "found_by", "visible_in", "spread")

half = settings(max_examples=times(50))
"""For laws of four preparations or merges."""
merges = pytest.mark.parametrize("merge", MERGES)


# ---- scores and visibility ----

ten_parts = st.lists(st.tuples(part, part, part, part), min_size=10, max_size=10)
"""The first box that fits is taken."""


def grid(scores, label=0):
    """Boxes far from one another, one for each score; none where that is 0."""
    return [(8 + 30 * (i % 3), 8 + 36 * (i // 3), 30 + 30 * (i % 3), 32 + 36 * (i // 3), s, label)
            for i, s in enumerate(scores) if s]  # fmt: skip


@merges
@half
@given(st.sampled_from([*PARTIAL_VIEWS, {"rotate": 20}]), ten_parts)
def test_a_view_that_does_not_show_a_box_does_not_lower_its_score(merge, spec, parts):
    """The box reaches beyond the view by more than a pixel."""
    placement = FREE.place(read_view(spec), IMAGE)
    boxes = spread_out(parts, IMAGE)
    boxes = boxes[inside(by_corners(boxes, to_input(placement)), placement) < -1.001]
    assume(len(boxes))
    plain = decoded(outputs_of((*boxes[0], 0.75)))
    after = merged([plain, decoded(outputs_of(), spec)], merge=merge)
    assert after.score.tolist() == [0.75]
    assert (after.found_by.tolist(), after.visible_in.tolist()) == ([1], [1])


@given(st.sampled_from([*FULL_VIEWS, *PARTIAL_VIEWS, {"rotate": 20}]), ten_parts)
def test_a_view_that_shows_a_box_and_does_not_find_it_halves_the_score_of_one_other(spec, parts):
    placement = FREE.place(read_view(spec), IMAGE)
    boxes = spread_out(np.multiply(parts, [1, 1, 0.25, 0.25]), IMAGE)
    boxes = boxes[inside(by_corners(boxes, to_input(placement)), placement) > 3.001]
    assume(len(boxes))
    plain = decoded(outputs_of((*boxes[0], 0.75)))
    after = merged([plain, decoded(outputs_of(), spec)])
    assert after.score.tolist() == [0.375]
    assert (after.found_by.tolist(), after.visible_in.tolist()) == ([1], [2])


@merges
@half
@given(st.sampled_from(PARTIAL_VIEWS), st.sampled_from(SIDES), st.integers(-17, 16), part)
def test_a_model_that_finds_the_same_in_every_view_loses_no_score(merge, spec, side, halves, along):
    """Around an edge of the view it finds what it shows of the box: all, a part that is left out as cut, or nothing."""
    placement = FREE.place(read_view(spec), IMAGE)
    width, height = placement.frame
    spare = halves / 2 + 0.25
    left, top = along * (width - 24), along * (height - 24)
    left = {"left": spare, "right": width - spare - 24}.get(side, left)
    top = {"top": spare, "bottom": height - spare - 24}.get(side, top)
    asked = by_corners(np.array([[left, top, left + 24, top + 24]]), placement.to_plain)
    boxes = np.clip(asked, 0, np.tile(IMAGE, 2))
    shown = np.clip(by_corners(boxes, to_input(placement))[0], 0, np.tile(placement.frame, 2))
    visible = [(*shown, 0.75)] if (shown[2:] > shown[:2] + 1).all() else []
    after = merged([decoded(outputs_of((*boxes[0], 0.75))), decoded(outputs_of(*visible), spec)], merge=merge)
    assert after.score[0] == 0.75


def test_a_box_left_out_as_cut_does_not_lower_its_own_score():
    """The view shows what lies from 8 on; the box begins at 9, in the view but within 2 pixels of its edge."""
    views = [decoded(outputs_of((9, 10, 40, 40, 0.75))), decoded(outputs_of((1, 10, 32, 40, 0.75)), {"shift": [-8, 0]})]
    assert len(views[1].boxes.score) == 0
    assert rows_of(merged(views)) == [(9, 10, 40, 40, 0.75, 0)]


six_scores = st.lists(st.integers(0, 64).map(lambda n: n / 64), min_size=6, max_size=6)
views_of_six = st.lists(six_scores, min_size=2, max_size=5)


def by_place(boxes):
    """Each grid place's highest merged score; 0 where there is none."""
    places = (boxes.xyxy[:, :2] // [30, 36]).astype(int) @ [1, 3]
    scores = np.zeros(6)
    np.maximum.at(scores, places, boxes.score)
    return scores


@merges
@half
@given(views_of_six, st.integers(0, 4), st.integers(0, 5))
def test_fewer_votes_never_raise_a_score(merge, views, which, place):
    before = by_place(merged([decoded(outputs_of(*grid(scores))) for scores in views], merge=merge))
    views = [list(scores) for scores in views]
    views[which % len(views)][place] = 0
    after = by_place(merged([decoded(outputs_of(*grid(scores))) for scores in views], merge=merge))
    assert (after <= before + 1e-6).all()
    np.testing.assert_allclose(np.delete(after, place), np.delete(before, place), atol=1e-6)


@given(views_of_six, st.data())
def test_by_wbf_a_score_is_the_weighted_mean_over_all_views_that_show_the_box(views, data):
    weights = data.draw(st.lists(st.integers(1, 8), min_size=len(views), max_size=len(views)))
    scores = np.where(np.array(views) >= 0.05, views, 0)
    after = by_place(merged([decoded(outputs_of(*grid(view))) for view in views], [float(w) for w in weights]))
    np.testing.assert_allclose(after, np.array(weights) @ scores / sum(weights), atol=1e-6)


# ---- weights by class ----


@merges
@half
@given(views_of_six, views_of_six, st.data())
def test_weights_by_class_are_each_class_s_own_weights(merge, bolts, nuts, data):
    views = [decoded(outputs_of(*grid(a, 0), *grid(b, 1))) for a, b in zip(bolts, nuts, strict=False)]
    weight = st.tuples(*[st.integers(1, 8).map(float)] * 3)
    weights = data.draw(st.lists(weight, min_size=len(views), max_size=len(views)))
    after = merged(views, weights, merge)
    for label in (0, 1):
        alone = merged(views, [weight[label] for weight in weights], merge)
        for field in FIELDS:
            mine, own = getattr(after, field)[after.label == label], getattr(alone, field)[alone.label == label]
            np.testing.assert_allclose(np.sort(mine, axis=0), np.sort(own, axis=0), atol=1e-5, err_msg=field)
    assert (np.diff(after.score) <= 0).all()


def test_weights_by_class_by_hand():
    """Bolts: (3 * 0.9 + 1 * 0.3) / 4. Nuts are of the second view only, of which one score is left out of two."""
    views = [
        decoded(outputs_of((10, 10, 40, 40, 0.9, 0), (50, 10, 80, 40, 0.8, 1))),
        decoded(outputs_of((10, 10, 40, 40, 0.3, 0), (50, 40, 80, 70, 0.6, 1))),
    ]
    after = merged(views, [(3.0, 0.0, 1.0), (1.0, 1.0, 1.0)])
    assert rows_of(after) == [(10, 10, 40, 40, 0.75, 0), (50, 40, 80, 70, 0.6, 1)]
    assert after.found_by.tolist() == [2, 1]
    assert after.visible_in.tolist() == [2, 1]


def test_a_class_without_weight_in_any_view_is_not_found():
    views = [decoded(outputs_of((10, 10, 40, 40, 0.9, 1)))] * 2
    assert len(merged(views, [(1.0, 0.0, 1.0)] * 2).score) == 0
    assert len(merged([decoded(outputs_of())] * 2, [(1.0, 0.0, 1.0)] * 2).score) == 0


# ---- answers ----


def test_an_answer_by_hand():
    """Two views find a bolt, 2 pixels apart; the first also finds a nut. Both views have the same weight."""
    detection, scene = task(), scene_of(FREE, IMAGE)
    wanted = ResponseSpec(frozenset({"views", "uncertainty"}))
    views = [
        decoded(outputs_of((10, 10, 40, 40, 0.5, 0), (60, 20, 90, 50, 0.8, 1))),
        decoded(outputs_of((62, 10, 92, 40, 0.5, 0)), "hflip"),
    ]
    accumulator = detection.accumulator("wbf", wanted, scene)
    for view in views:
        accumulator.add(view, 1.0)
    after = accumulator.result()
    answer = rendered(detection.result(after, [detection.view_result(view) for view in views], scene, wanted), wanted)
    assert answer.prediction == {
        "height": 80,
        "width": 100,
        "boxes": [
            {"label": "bolt", "index": 0, "score": 0.5, "box": [9, 10, 39, 40], "views": 2, "of": 2, "spread": 1},
            {
                "label": "nut",
                "index": 1,
                "score": pytest.approx(0.4),
                "box": [60, 20, 90, 50],
                "views": 1,
                "of": 2,
                "spread": 0,
            },
        ],
    }
    assert answer.views == [
        {
            "boxes": [
                {"label": "nut", "index": 1, "score": pytest.approx(0.8), "box": [60, 20, 90, 50]},
                {"label": "bolt", "index": 0, "score": 0.5, "box": [10, 10, 40, 40]},
            ]
        },
        {"boxes": [{"label": "bolt", "index": 0, "score": 0.5, "box": [8, 10, 38, 40]}]},
    ]
    shares = (0.5 * 1 + 0.4 * 0.5) / 0.9
    assert answer.uncertainty == {
        "vote_share": pytest.approx(shares, abs=1e-5),
        "mean_spread": pytest.approx(0.5 / 0.9, abs=1e-5),
        "count_std": pytest.approx(2**-0.5, abs=1e-5),
    }
    assert detection.confidence(after) == pytest.approx((0.25 + 0.16) / 0.9)
    assert answer.lines == ["1 bolt", "1 nut"]
    assert answer.picture is None


def test_uncertainty_is_there_only_if_included():
    detection, scene = task(), scene_of(FREE, IMAGE)
    accumulator = detection.accumulator("wbf", ResponseSpec(), scene)
    accumulator.add(decoded(outputs_of((10, 10, 40, 40, 0.5))), 1.0)
    answer = rendered(detection.result(accumulator.result(), [], scene, ResponseSpec()))
    assert not answer.uncertainty
    assert not answer.views
    assert not detection.keeps_view_results(ResponseSpec())


def result_of(rows):
    """Merged boxes: left, top, right, bottom, score, class."""
    rows = np.array(rows, np.float32)
    ones = np.ones(len(rows), np.intp)
    return DetectionResult(
        labels=LABELS,
        size=IMAGE,
        boxes=rows[:, :4],
        scores=rows[:, 4],
        class_ids=rows[:, 5].astype(np.intp),
        found_by=ones,
        visible_in=ones,
        spread=np.zeros(len(rows), np.float32),
        view_boxes=[],
    )


def test_a_painting_shows_clear_boxes_in_their_class_s_colour():
    pixels = np.full((80, 100, 3), 128, np.uint8)
    painted = paint(result_of([(20, 30, 60, 70, 0.9, 1), (70, 30, 95, 70, 0.1, 0)]), pixels)
    assert painted.shape == pixels.shape
    assert (pixels == 128).all()
    assert (painted[30:70, 20] == painted[69, 59]).all()
    assert (painted[30:70, 59] == painted[69, 59]).all()
    assert (painted[69, 59] != 128).any()
    assert (painted[50:69, 21:59] == 128).all()
    assert (painted[:, 75:] == 128).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_the_smallest_images_can_be_painted_on(size):
    pixels = np.zeros((*size, 3), np.uint8)
    result = result_of([(0, 0, size[1], size[0], 0.9, 2), (0, 0, 0, 0, 0.9, 2)])
    assert paint(result, pixels).shape == pixels.shape


def test_no_stop_rule_but_all_has_evidence():
    detection = task()
    accumulator = detection.accumulator("wbf", ResponseSpec(), scene_of(FREE, IMAGE))
    accumulator.add(decoded(outputs_of((10, 10, 40, 40, 0.5))), 1.0)
    assert (accumulator.margin(), accumulator.undecided([])) == (0, 1)
    assert accumulator.standard_error() == np.inf
    with pytest.raises(InvalidInput, match="merge wbf has no bound"):
        detection.check_bounded("wbf", [1.0])
    with pytest.raises(InvalidInput, match="merge nms is no mean"):
        detection.check_mean("nms")
