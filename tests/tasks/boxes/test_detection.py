import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.support.boxes import (
    FULL_VIEWS,
    PARTIAL_VIEWS,
    PREPARATIONS,
    RAW,
    TURNED_VIEWS,
    by_corners,
    by_ellipses,
    images,
    inside,
    moderate,
    part,
    parts,
    scene_of,
    spread_out,
    to_input,
)
from tests.support.rendered import paint, rendered
from tta_server.errors import ConfigError, InvalidInput
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.tasks import ResponseSpec
from tta_server.tasks.boxes.detection import BoxesOutput, Detection
from tta_server.tasks.boxes.fusion import MERGES
from tta_server.tasks.boxes.results import DetectionResult
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view

LABELS = ("bolt", "nut", "screw")
FREE = Preprocessing(normalization=RAW)
IMAGE = Size(100, 80)
THREE = {"boxes": "boxes", "scores": "scores", "labels": "labels"}
SHAPES = {"boxes": (None, None, 4), "scores": (None, None), "labels": (None, None)}
SIDES = ("left", "right", "top", "below")
FIELDS = ("xyxy", "score", "label", "votes", "voters", "spread")

half = settings(max_examples=50)
"""For laws of four preparations or merges."""
prepared = pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
merges = pytest.mark.parametrize("merge", MERGES)


def task(labels=LABELS, **form):
    return Detection(labels, BoxesOutput(**{**THREE, **form}), SHAPES)


def said(*rows):
    """What a model gives for one image: rows of left, top, right, below, score and perhaps a class."""
    table = np.array([(*row, 0)[:6] for row in rows], np.float32).reshape(1, -1, 6)
    return {"boxes": table[..., :4], "scores": table[..., 4], "labels": table[..., 5].astype(np.int64)}


def found(outputs, spec="identity", image=IMAGE, prep=FREE, detection=None):
    """One view's prediction."""
    return (detection or task()).decode(outputs, 0, prep.place(read_view(spec), image), scene_of(prep, image))


def merged(views, weights=None, merge="wbf", detection=None):
    accumulator = (detection or task()).accumulator(merge, ResponseSpec(), scene_of(FREE, IMAGE))
    for view, weight in zip(views, weights or [1.0] * len(views), strict=True):
        accumulator.add(view, weight)
    return accumulator.result().merged


def rows_of(boxes):
    """Boxes as (left, top, right, below, score, label), the surest first, in whole thousandths."""
    table = zip(boxes.xyxy.tolist(), boxes.score.tolist(), boxes.label.tolist(), strict=True)
    return [(*(round(value, 3) for value in (*xyxy, score)), label) for xyxy, score, label in table]


# ---- undo is the inverse ----


def comes_back(prep, spec, image, boxes, moved):
    """Boxes of the plain view's frame, told by a view that does not cut them, are those of the image."""
    scene, placement = scene_of(prep, image), prep.place(read_view(spec), image)
    seen = moved(boxes, to_input(placement))
    whole = inside(seen, placement) > 2.001
    prediction = found(said(*((*row, 0.5) for row in seen[whole])), spec, image, prep)
    expected = by_corners(boxes[whole], scene.to_image)
    np.testing.assert_allclose(prediction.boxes.xyxy, expected, atol=1e-3)


@prepared
@half
@given(st.sampled_from([*FULL_VIEWS, *PARTIAL_VIEWS]), images, parts)
def test_a_box_told_by_a_view_comes_back_to_the_image(prep, spec, image, parts):
    comes_back(prep, spec, image, spread_out(parts, scene_of(prep, image).plain.whole), by_corners)


@prepared
@half
@given(st.sampled_from(TURNED_VIEWS), images, parts)
def test_the_box_of_a_turned_ellipse_comes_back_to_the_image(prep, spec, image, parts):
    comes_back(prep, spec, image, moderate(spread_out(parts, scene_of(prep, image).plain.whole)), by_ellipses)


@prepared
@half
@given(st.sampled_from(FULL_VIEWS[:8]), images, parts, st.floats(0, 20))
def test_flips_and_turns_tell_what_plain_tells_at_the_image_s_edge_too(prep, spec, image, parts, beyond):
    """Clipped to the image, as models reach beyond it."""
    boxes = spread_out(parts, scene_of(prep, image).plain.whole) + beyond * np.array([-1, -1, 1, 1])
    views = []
    for each in ("identity", spec):
        seen = by_corners(boxes, to_input(prep.place(read_view(each), image)))
        views.append(found(said(*((*row, 0.5) for row in seen)), each, image, prep).boxes.xyxy)
    np.testing.assert_allclose(views[1], views[0], atol=1e-3)
    assert (views[0] >= 0).all()
    assert (views[0] <= np.tile(image, 2)).all()
    assert len(views[0]) == len(boxes)


def test_a_box_under_letterbox_bars_by_hand():
    """80x40 pixels are 64x32 in rows 16 to 48; mirrored, columns 44 to 52 are 12 to 20, which are 15 to 25 of 80."""
    prediction = found(said((44, 24, 52, 40, 0.9, 1)), "hflip", Size(80, 40), PREPARATIONS["letterbox"])
    assert rows_of(prediction.boxes) == [(15, 10, 25, 30, 0.9, 1)]


def test_a_box_that_a_crop_cut_is_left_out_and_one_at_the_image_s_edge_is_kept():
    """The top left 50x40 pixels, enlarged twice."""
    outputs = said((0, 0, 40, 40, 0.9), (60, 10, 100, 40, 0.8), (10, 50, 40, 80, 0.7), (20, 20, 60, 60, 0.6))
    prediction = found(outputs, {"crop": {"fraction": 0.5, "anchor": "top_left"}})
    assert rows_of(prediction.boxes) == [(0, 0, 20, 20, 0.9, 0), (10, 10, 30, 30, 0.6, 0)]


# ---- one view alone ----

sides = st.integers(0, 20).map(lambda n: 4.0 * n)
some_rows = st.lists(
    st.tuples(sides, sides, st.integers(1, 20), st.integers(1, 20), st.integers(0, 64), st.integers(0, 2)), max_size=12
).map(lambda rows: [(x, y, min(x + w, 100), min(y + h, 80), s / 64, c) for x, y, w, h, s, c in rows if y < 80])
"""Boxes that overlap, lie on one another, and have scores that floats hold exactly."""


@merges
@half
@given(some_rows)
def test_one_view_is_answered_as_the_model_gave_it_however_its_boxes_overlap(merge, rows):
    alone = merged([found(said(*rows))], merge=merge)
    expected = sorted((row for row in rows if row[4] >= 0.05), key=lambda row: -row[4])
    assert rows_of(alone) == [(*xyxy, round(score, 3), label) for *xyxy, score, label in expected]
    assert (alone.votes == 1).all()
    assert (alone.voters == 1).all()
    assert (alone.spread == 0).all()


@given(some_rows, st.integers(1, 4), st.sampled_from([0, 0.25, 0.75]))
def test_only_the_surest_and_those_that_are_sure_enough_count(rows, most, least):
    prediction = found(said(*rows), detection=task(max_boxes=most, min_score=least))
    scores = sorted((row[4] for row in rows if row[4] >= least), reverse=True)[:most]
    np.testing.assert_allclose(prediction.boxes.score, scores)


@merges
def test_one_view_with_weights_by_class_is_answered_as_the_model_gave_it(merge):
    view = found(said((10, 10, 40, 40, 0.9, 0), (12, 10, 42, 40, 0.8, 0), (50, 10, 80, 40, 0.7, 2)))
    alone = merged([view], [(1.0, 0.0, 0.5)], merge)
    assert rows_of(alone) == rows_of(view.boxes)


# ---- what views that see a box, or can't, do to its score ----

ten_parts = st.lists(st.tuples(part, part, part, part), min_size=10, max_size=10)
"""For boxes of which the first that suits is taken."""


def grid(scores, label=0):
    """Boxes far from one another, one for each score; none where that is 0."""
    return [(8 + 30 * (i % 3), 8 + 36 * (i // 3), 30 + 30 * (i % 3), 32 + 36 * (i // 3), s, label)
            for i, s in enumerate(scores) if s]  # fmt: skip


@merges
@half
@given(st.sampled_from([*PARTIAL_VIEWS, {"rotate": 20}]), ten_parts)
def test_a_view_that_could_not_see_a_box_does_not_lower_its_score(merge, spec, parts):
    """As could not: the box reaches beyond the view by more than a pixel."""
    placement = FREE.place(read_view(spec), IMAGE)
    boxes = spread_out(parts, IMAGE)
    boxes = boxes[inside(by_corners(boxes, to_input(placement)), placement) < -1.001]
    assume(len(boxes))
    plain = found(said((*boxes[0], 0.75)))
    after = merged([plain, found(said(), spec)], merge=merge)
    assert after.score.tolist() == [0.75]
    assert (after.votes.tolist(), after.voters.tolist()) == ([1], [1])


@given(st.sampled_from([*FULL_VIEWS, *PARTIAL_VIEWS, {"rotate": 20}]), ten_parts)
def test_a_view_that_could_see_a_box_and_did_not_halves_the_score_of_one_other(spec, parts):
    placement = FREE.place(read_view(spec), IMAGE)
    boxes = spread_out(np.multiply(parts, [1, 1, 0.25, 0.25]), IMAGE)
    boxes = boxes[inside(by_corners(boxes, to_input(placement)), placement) > 3.001]
    assume(len(boxes))
    plain = found(said((*boxes[0], 0.75)))
    after = merged([plain, found(said(), spec)])
    assert after.score.tolist() == [0.375]
    assert (after.votes.tolist(), after.voters.tolist()) == ([1], [2])


@merges
@half
@given(st.sampled_from(PARTIAL_VIEWS), st.sampled_from(SIDES), st.integers(-17, 16), part)
def test_a_model_that_finds_the_same_in_every_view_loses_no_score(merge, spec, side, halves, along):
    """Around an edge of the view it tells all that is in the view: the box, a part that is left out as cut, nothing."""
    placement = FREE.place(read_view(spec), IMAGE)
    width, height = placement.frame
    spare = halves / 2 + 0.25
    left, top = along * (width - 24), along * (height - 24)
    left = {"left": spare, "right": width - spare - 24}.get(side, left)
    top = {"top": spare, "below": height - spare - 24}.get(side, top)
    asked = by_corners(np.array([[left, top, left + 24, top + 24]]), placement.to_plain)
    boxes = np.clip(asked, 0, np.tile(IMAGE, 2))
    shown = np.clip(by_corners(boxes, to_input(placement))[0], 0, np.tile(placement.frame, 2))
    told = [(*shown, 0.75)] if (shown[2:] > shown[:2] + 1).all() else []
    after = merged([found(said((*boxes[0], 0.75))), found(said(*told), spec)], merge=merge)
    assert after.score[0] == 0.75


def test_a_box_left_out_as_cut_does_not_count_against_itself():
    """The view shows what lies from 8 on; the box begins at 9, in the view but within 2 pixels of its edge."""
    views = [found(said((9, 10, 40, 40, 0.75))), found(said((1, 10, 32, 40, 0.75)), {"shift": [-8, 0]})]
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
    before = by_place(merged([found(said(*grid(scores))) for scores in views], merge=merge))
    views = [list(scores) for scores in views]
    views[which % len(views)][place] = 0
    after = by_place(merged([found(said(*grid(scores))) for scores in views], merge=merge))
    assert (after <= before + 1e-6).all()
    np.testing.assert_allclose(np.delete(after, place), np.delete(before, place), atol=1e-6)


@given(views_of_six, st.data())
def test_by_wbf_a_score_is_the_weighted_mean_over_all_views_that_could_see(views, data):
    weights = data.draw(st.lists(st.integers(1, 8), min_size=len(views), max_size=len(views)))
    scores = np.where(np.array(views) >= 0.05, views, 0)
    after = by_place(merged([found(said(*grid(view))) for view in views], [float(w) for w in weights]))
    np.testing.assert_allclose(after, np.array(weights) @ scores / sum(weights), atol=1e-6)


# ---- weights by class ----


@merges
@half
@given(views_of_six, views_of_six, st.data())
def test_weights_by_class_are_each_class_s_own_weights(merge, bolts, nuts, data):
    views = [found(said(*grid(a, 0), *grid(b, 1))) for a, b in zip(bolts, nuts, strict=False)]
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
        found(said((10, 10, 40, 40, 0.9, 0), (50, 10, 80, 40, 0.8, 1))),
        found(said((10, 10, 40, 40, 0.3, 0), (50, 40, 80, 70, 0.6, 1))),
    ]
    after = merged(views, [(3.0, 0.0, 1.0), (1.0, 1.0, 1.0)])
    assert rows_of(after) == [(10, 10, 40, 40, 0.75, 0), (50, 40, 80, 70, 0.6, 1)]
    assert after.votes.tolist() == [2, 1]
    assert after.voters.tolist() == [2, 1]


def test_a_class_without_weight_in_any_view_is_not_found():
    views = [found(said((10, 10, 40, 40, 0.9, 1)))] * 2
    assert len(merged(views, [(1.0, 0.0, 1.0)] * 2).score) == 0
    assert len(merged([found(said())] * 2, [(1.0, 0.0, 1.0)] * 2).score) == 0


# ---- whatever the model gives ----

any_float = st.floats(width=32, allow_subnormal=False)
absurd = st.one_of(any_float, st.floats(-200, 200, width=32), st.floats(0, 1, width=32))
junk = st.integers(0, 6).flatmap(
    lambda n: st.tuples(
        arrays(np.float32, (1, n, 4), elements=absurd),
        arrays(np.float32, (1, n), elements=st.one_of(st.floats(-1, 2, width=32), any_float)),
        arrays(np.int64, (1, n), elements=st.integers(-2, 5) | st.integers(-(2**62), 2**62)),
    )
)
forms = st.sampled_from([{}, {"nms": 0.5}, {"kind": "logits"}, {"units": "normalized", "format": "cxcywh"}])


some_views = st.lists(
    st.tuples(junk, st.sampled_from([*FULL_VIEWS, *PARTIAL_VIEWS, *TURNED_VIEWS])), min_size=1, max_size=4
)


@given(some_views, forms, st.sampled_from(list(MERGES)))
def test_whatever_comes_in_a_sound_answer_has_scores_and_boxes_within_bounds(views, form, merge):
    detection = task(min_score=0, **form)
    predictions = [found(dict(zip(THREE, outputs, strict=True)), spec, detection=detection) for outputs, spec in views]
    sound = [prediction for prediction in predictions if detection.is_sound(prediction)]
    after = merged(sound or [found(said())], merge=merge, detection=detection)
    assert ((after.score >= 0) & (after.score <= 1)).all()
    assert (np.diff(after.score) <= 0).all()
    assert ((after.xyxy >= 0) & (after.xyxy <= np.tile(IMAGE, 2))).all()
    assert (after.xyxy[:, 2:] >= after.xyxy[:, :2]).all()
    assert ((after.label >= 0) & (after.label < 3)).all()
    assert (after.votes <= after.voters).all()
    assert len(after.score) <= 300
    assert np.isfinite(after.spread).all()


BROKEN = {
    "a score": (10, 10, 40, 40, np.nan, 0),
    "a score without end": (10, 10, 40, 40, np.inf, 0),
    "a side": (10, np.nan, 40, 40, 0.5, 0),
    "a side without end": (10, 10, np.inf, 40, 0.5, 0),
    "both sides without end": (-np.inf, 10, np.inf, 40, 0.5, 0),
}


@pytest.mark.parametrize("nms", [None, 0.5])
@pytest.mark.parametrize("spec", ["identity", "hflip", {"rotate": 20}], ids=str)
@pytest.mark.parametrize("what", BROKEN)
def test_a_view_with_nan_in_a_box_that_counts_is_unsound(what, spec, nms):
    detection = task(nms=nms)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of which another test tells
        prediction = found(said((10, 10, 40, 40, 0.9, 0), BROKEN[what]), spec, detection=detection)
    assert not detection.is_sound(prediction)


@pytest.mark.parametrize("spec", ["identity", "hflip", {"rotate": 20}], ids=str)
@pytest.mark.parametrize("what", BROKEN)
def test_an_unsound_view_makes_no_noise(what, spec):
    found(said((10, 10, 40, 40, 0.9, 0), BROKEN[what]), spec)


def test_nan_in_boxes_that_do_not_count_is_no_matter():
    """Models fill up their rows with what they like."""
    outputs = said((10, 10, 40, 40, 0.9, 1), (np.nan, np.inf, np.nan, -np.inf, 0.01), (np.nan, 1, 2, 3, -np.inf))
    prediction = found(outputs)
    assert task().is_sound(prediction)
    assert rows_of(prediction.boxes) == [(10, 10, 40, 40, 0.9, 1)]


def test_boxes_of_classes_that_there_are_not_are_left_out():
    outputs = said(*((10, 10, 40, 40, 0.9, label) for label in (-1, 0, 2, 3, 2**40)))
    assert [row[5] for row in rows_of(found(outputs).boxes)] == [0, 2]


@pytest.mark.parametrize("label", [1e30, -1e30, 3e9])
def test_numbers_that_are_no_class_of_any_model_are_left_out_too(label):
    detection, outputs = rows_task(), {"rows": np.array([[[10, 10, 40, 40, 0.9, label]]], np.float32)}
    prediction = found(outputs, detection=detection)
    assert detection.is_sound(prediction)
    assert len(prediction.boxes.label) == 0


def test_a_class_that_is_nan_makes_a_box_that_counts_unsound():
    detection, outputs = rows_task(), {"rows": np.array([[[10, 10, 40, 40, 0.9, np.nan]]], np.float32)}
    assert not detection.is_sound(found(outputs, detection=detection))


def test_scores_over_1_are_1():
    assert found(said((10, 10, 40, 40, 1.005))).boxes.score.tolist() == [1]


@pytest.mark.parametrize("factor", [1e6, 1e20, 1e37])
@pytest.mark.parametrize("spec", ["identity", "transpose", {"rotate": 20}], ids=str)
def test_huge_boxes_end_at_the_image_s_edge(spec, factor):
    prediction = found(said((-factor, -factor, factor, factor, 0.9)), spec)
    assert rows_of(prediction.boxes) == [(0, 0, 100, 80, 0.9, 0)]


def test_what_lies_outside_the_image_is_no_box_of_it():
    outputs = said((-30, -30, -10, -10, 0.9), (20, 20, 10, 40, 0.8), (30, 30, 30, 40, 0.7), (10, 10, 40, 40, 0.6))
    assert rows_of(found(outputs).boxes) == [(10, 10, 40, 40, 0.6, 0)]


@merges
@pytest.mark.parametrize("views", [1, 2, 5])
def test_no_boxes_are_an_answer(merge, views):
    detection, scene = task(), scene_of(FREE, IMAGE)
    wanted = ResponseSpec(frozenset({"views", "uncertainty"}))
    accumulator = detection.accumulator(merge, wanted, scene)
    empty = found(said())
    for _ in range(views):
        accumulator.add(empty, 1.0)
    after = accumulator.result()
    answer = rendered(detection.result(after, [detection.view_result(empty)] * views, scene, wanted), wanted)
    assert answer.prediction == {"height": 80, "width": 100, "boxes": []}
    assert answer.views == [{"boxes": []}] * views
    assert answer.uncertainty == {"vote_share": 0, "mean_spread": 0, "count_std": 0}
    assert detection.confidence(after) is None
    assert answer.lines == ["no boxes"]


def test_one_class_is_enough():
    detection = task(labels=("cell",))
    assert rows_of(found(said((10, 10, 40, 40, 0.9)), detection=detection).boxes) == [(10, 10, 40, 40, 0.9, 0)]
    classes = Detection(("cell",), BoxesOutput("b", "s"), {"b": (None, None, 4), "s": (None, None, 1)})
    outputs = {"b": np.float32([[[10, 10, 40, 40]]]), "s": np.float32([[[0.9]]])}
    classes.check(outputs, IMAGE)
    assert rows_of(found(outputs, detection=classes).boxes) == [(10, 10, 40, 40, 0.9, 0)]


# ---- every form of output ----

TRUE = [(10, 8, 40, 28, 0.875, 2), (50, 30, 90, 70, 0.5, 0), (5, 40, 25, 78, 0.25, 1)]
XYXY = np.array([row[:4] for row in TRUE], np.float64)
SCORE = np.array([row[4] for row in TRUE])
LABEL = np.array([row[5] for row in TRUE])
CLASSES = np.eye(3)[LABEL] * SCORE[:, None] + (1 - np.eye(3)[LABEL]) * 0.0625
WRITTEN = {
    "xyxy": XYXY,
    "yxyx": XYXY[:, [1, 0, 3, 2]],
    "xywh": np.hstack([XYXY[:, :2], XYXY[:, 2:] - XYXY[:, :2]]),
    "cxcywh": np.hstack([(XYXY[:, :2] + XYXY[:, 2:]) / 2, XYXY[:, 2:] - XYXY[:, :2]]),
}


def logit(p):
    return np.log(p) - np.log1p(-p)


def columns(holds, boxes, score, label, classes):
    """Rows as each `holds` wants them; the objectness is what the best class's chance is multiplied with."""
    if holds == "box_score_label":
        return np.column_stack([boxes, score, label])
    return np.hstack([boxes, classes] if holds == "box_class_scores" else [boxes, np.full((3, 1), 0.9375), classes])


HOLDS = {"box_score_label": 6, "box_class_scores": 7, "box_objectness_class_scores": 8}


def rows_task(holds="box_score_label", transposed=False, **form):
    shape = (None, HOLDS[holds], None) if transposed else (None, None, HOLDS[holds])
    return Detection(LABELS, BoxesOutput(rows="rows", holds=holds, transposed=transposed, **form), {"rows": shape})


def three_tensors(boxes=XYXY, score=SCORE, label=LABEL, **form):
    return task(**form), {"boxes": boxes[None], "scores": score[None], "labels": label[None]}


def class_scores(classes=CLASSES, **form):
    output = BoxesOutput("boxes", "scores", **form)
    detection = Detection(LABELS, output, {"boxes": (None, None, 4), "scores": (None, None, 3)})
    return detection, {"boxes": XYXY[None], "scores": classes[None]}


def as_rows(holds, transposed=False, **form):
    boxes = WRITTEN[form.get("format", "xyxy")] / (100 if form.get("units") == "normalized" else 1)
    objectness = 0.9375 if holds == "box_objectness_class_scores" else 1
    rows = columns(holds, boxes, SCORE, LABEL, CLASSES / objectness)
    if form.get("kind") == "logits":
        last = 5 if holds == "box_score_label" else rows.shape[1]
        rows[:, 4:last] = logit(rows[:, 4:last])
    return rows_task(holds, transposed, **form), {"rows": (rows.T if transposed else rows)[None]}


def repeated():
    """Each box twice more, less sure and a little aside; and once as another class, which is another object's."""
    aside = [(x1 + 1, y1 + d, x2 + 1, y2 + d, s / 2, c) for x1, y1, x2, y2, s, c in TRUE for d in (0, 1)]
    table = np.array([*aside[:3], *TRUE, *aside[3:]])
    return three_tensors(table[:, :4], table[:, 4], table[:, 5].astype(int), nms=0.5)


FORMS = {
    "boxes, scores, labels": three_tensors(),
    "in another order": three_tensors(XYXY[::-1], SCORE[::-1], LABEL[::-1]),
    "labels as floats": three_tensors(label=LABEL + 1e-4),
    "labels from 1": three_tensors(label=LABEL + 1, first_label=1),
    "scores as logits": three_tensors(score=logit(SCORE), kind="logits"),
    "in halves": three_tensors(XYXY.astype(np.float16), SCORE.astype(np.float16)),
    "class scores": class_scores(),
    "class scores as logits": class_scores(logit(CLASSES), kind="logits"),
    "repeated": repeated(),
    **{form: three_tensors(WRITTEN[form], format=form) for form in WRITTEN},
    **{
        f"{form} in parts": three_tensors(WRITTEN[form] / 100, format=form, units="normalized") for form in WRITTEN
    },
    **{
        f"rows of {holds}{' transposed' * transposed}{''.join(f', {v}' for v in more.values())}": as_rows(
            holds, transposed, **more
        )
        for holds in HOLDS
        for transposed in (False, True)
        for more in ({}, {"kind": "logits"}, {"format": "cxcywh", "units": "normalized"})
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_output_says_the_same(form):
    detection, outputs = FORMS[form]
    outputs = {name: np.asarray(v, v.dtype if v.dtype != np.float64 else np.float32) for name, v in outputs.items()}
    detection.check(outputs, Size(100, 100))
    for row in (0, 1):
        both = {name: np.concatenate([np.zeros_like(v), v][:: 1 if row else -1]) for name, v in outputs.items()}
        prediction = detection.decode(
            both, row, FREE.place(read_view("identity"), Size(100, 100)), scene_of(FREE, Size(100, 100))
        )
        np.testing.assert_allclose(prediction.boxes.xyxy, XYXY, atol=1e-4)
        np.testing.assert_allclose(prediction.boxes.score, SCORE, atol=1e-6)
        np.testing.assert_array_equal(prediction.boxes.label, LABEL)


def test_parts_of_the_input_s_width_and_height_are_not_the_same():
    """Of an input of 112x80, which is 100x80 and its padding to a multiple of 16."""
    detection, outputs = three_tensors(np.array([[0.25, 0.5, 0.5, 0.75]]), SCORE[:1], LABEL[:1], units="normalized")
    assert rows_of(found(outputs, prep=PREPARATIONS["free"], detection=detection).boxes) == [(28, 40, 56, 60, 0.875, 2)]


def test_objectness_by_hand():
    """centre 0.3 0.5, sides 0.2 0.5 of 100x80 -> 20 to 40 by 20 to 60; objectness 0.5 times 0.8 of the second class."""
    row = np.float32([[[0.3, 0.5, 0.2, 0.5, 0.5, 0.1, 0.8, 0.3]]])
    detection = rows_task("box_objectness_class_scores", format="cxcywh", units="normalized")
    assert rows_of(found({"rows": row}, detection=detection).boxes) == [(20, 20, 40, 60, 0.4, 1)]


# ---- suppression within one view ----


def overlap(a, b):
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(width, 0) * max(height, 0)
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def greedily(xyxy, score, label, iou):
    """As everybody writes it: the surest first, each if it overlaps none that stays."""
    kept = []
    for i in np.argsort(-score, kind="stable"):
        if all(label[i] != label[k] or overlap(xyxy[i], xyxy[k]) <= iou for k in kept):
            kept.append(int(i))
    return kept


def test_rows_that_pad_may_have_any_class():
    """As many exported networks give: class -1 and score 0 behind the last box."""
    task().check(said((1, 2, 30, 40, 0.9, 1), (0, 0, 0, 0, 0.0, -1)), Size(64, 64))


@given(parts, st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.3503, 0.7003]))
def test_suppression_keeps_what_going_box_by_box_keeps(parts, seed, iou):
    rng = np.random.default_rng(seed)
    xyxy = np.repeat(spread_out(parts, (80, 60)), 3, axis=0)
    xyxy = np.float32(xyxy + 10 + np.tile(rng.uniform(-5, 5, (len(xyxy), 2)), 2))
    score, label = np.float32(rng.permutation(len(xyxy)) / len(xyxy) / 2 + 0.25), rng.integers(0, 3, len(xyxy))
    prediction = found(said(*np.column_stack([xyxy, score, label])), detection=task(nms=iou))
    kept = greedily(xyxy, score, label, iou)
    np.testing.assert_allclose(prediction.boxes.xyxy, xyxy[kept], atol=1e-5)
    np.testing.assert_array_equal(prediction.boxes.score, score[kept])
    np.testing.assert_array_equal(prediction.boxes.label, label[kept])


def test_boxes_of_other_classes_suppress_nothing_wherever_they_lie():
    """Not even where libraries would have set classes apart by a multiple of the largest coordinate."""
    outputs = said((0, 0, 60, 60, 0.9, 0), (-40, -40, 20, 20, 0.8, 1), (0, 0, 60, 60, 0.7, 2))
    assert [row[5] for row in rows_of(found(outputs, detection=task(nms=0.25)).boxes)] == [0, 1, 2]


def test_one_box_of_absurd_size_suppresses_no_others():
    outputs = said((1, 1, 9, 9, 0.9, 1), (30, 30, 39, 39, 0.8, 1), (0, 0, 3e38, 3e38, 0.7, 0))
    assert [row[4] for row in rows_of(found(outputs, detection=task(nms=0.5)).boxes)] == [0.9, 0.8, 0.7]


def test_suppression_by_hand():
    """The second shares 30 x 20 of 1000 with the first, 3/5; the third is of another class, the fourth far away."""
    outputs = said(
        (0, 0, 40, 20, 0.9), (10, 0, 50, 20, 0.8), (10, 0, 50, 20, 0.7, 1), (60, 0, 99, 20, 0.6), (0, 5, 40, 25, 0.5)
    )
    kept = {nms: [row[4] for row in rows_of(found(outputs, detection=task(nms=nms)).boxes)] for nms in (None, 0.5, 0.7)}
    assert kept == {None: [0.9, 0.8, 0.7, 0.6, 0.5], 0.5: [0.9, 0.7, 0.6], 0.7: [0.9, 0.8, 0.7, 0.6, 0.5]}


# ---- answers ----


def test_an_answer_by_hand():
    """Two views tell of a bolt 2 pixels apart, one of a nut besides; the second counts as much as the first."""
    detection, scene = task(), scene_of(FREE, IMAGE)
    wanted = ResponseSpec(frozenset({"views", "uncertainty"}))
    views = [
        found(said((10, 10, 40, 40, 0.5, 0), (60, 20, 90, 50, 0.8, 1))),
        found(said((62, 10, 92, 40, 0.5, 0)), "hflip"),
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


def test_an_answer_tells_no_more_of_uncertainty_than_was_asked_for():
    detection, scene = task(), scene_of(FREE, IMAGE)
    accumulator = detection.accumulator("wbf", ResponseSpec(), scene)
    accumulator.add(found(said((10, 10, 40, 40, 0.5))), 1.0)
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


def test_a_painting_shows_boxes_of_some_score_in_their_class_s_colour():
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
    accumulator.add(found(said((10, 10, 40, 40, 0.5))), 1.0)
    assert (accumulator.margin(), accumulator.undecided([])) == (0, 1)
    assert accumulator.standard_error() == np.inf
    with pytest.raises(InvalidInput, match="merge wbf has no bound"):
        detection.check_bounded("wbf", [1.0])
    with pytest.raises(InvalidInput, match="merge nms is no mean"):
        detection.check_mean("nms")


# ---- refusals ----


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({}, "names either rows, or boxes and scores"),
        ({"boxes": "b"}, "names either rows, or boxes and scores"),
        ({"scores": "s", "labels": "l"}, "names either rows, or boxes and scores"),
        ({"rows": "r", "boxes": "b", "scores": "s"}, "names either rows, or boxes and scores"),
        ({"rows": "r", "labels": "l"}, "boxes, scores and labels have no place beside it"),
        ({"rows": "r", "min_score": 1}, "min_score is a number from 0 and under 1, not 1"),
        ({"rows": "r", "iou": -0.1}, "iou is a number from 0 and under 1, not -0.1"),
        ({"rows": "r", "nms": 1.5}, "nms is a number from 0 and under 1, not 1.5"),
        ({"rows": "r", "max_boxes": 0}, "max_boxes is at least 1, not 0"),
    ],
)
def test_an_output_that_makes_no_sense_is_refused(form, sentence):
    with pytest.raises(ValueError, match=sentence):
        BoxesOutput(**form)


ROWS = {"rows": "boxes"}


@pytest.mark.parametrize(
    ("form", "shapes", "sentence"),
    [
        (THREE, {"boxes": (None, 100, 5)}, r"an output boxes of shape \[N, M, 4\]; the model gives \[any, 100, 5\]"),
        (THREE, {"boxes": (None, 4)}, r"an output boxes of shape \[N, M, 4\]; the model gives \[any, 4\]"),
        (THREE, {"scores": (1, 100, 3)}, r"an output scores of shape \[N, M\]; the model gives \[1, 100, 3\]"),
        (THREE, {"labels": (None,)}, r"an output labels of shape \[N, M\]; the model gives \[any\]"),
        (
            {"boxes": "boxes", "scores": "scores"},
            {"scores": (None, None, 80)},
            r"an output scores of shape \[N, M, 3\]; the model gives \[any, any, 80\]",
        ),
        (
            {"boxes": "boxes", "scores": "scores"},
            {"scores": (None, None)},
            r"an output scores of shape \[N, M, 3\]; the model gives \[any, any\]",
        ),
        (ROWS, {"boxes": (1, 100, 7)}, r"an output boxes of shape \[N, M, 6\]; the model gives \[1, 100, 7\]"),
        (
            {**ROWS, "holds": "box_class_scores"},
            {"boxes": (1, 100, 84)},
            r"an output boxes of shape \[N, M, 7\]; the model gives \[1, 100, 84\]",
        ),
        (
            {**ROWS, "holds": "box_class_scores", "transposed": True},
            {"boxes": (1, 8400, 7)},
            r"an output boxes of shape \[N, 7, M\]; the model gives \[1, 8400, 7\]",
        ),
        (
            {**ROWS, "holds": "box_objectness_class_scores"},
            {"boxes": (1, 100, 7)},
            r"an output boxes of shape \[N, M, 8\]; the model gives \[1, 100, 7\]",
        ),
    ],
)
def test_a_file_of_another_shape_is_refused_saying_both(form, shapes, sentence):
    with pytest.raises(ConfigError, match=f"detection with 3 labels needs {sentence}"):
        Detection(LABELS, BoxesOutput(**form), {**SHAPES, **shapes})


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({**THREE, "boxes": "bbox"}, "output.boxes is 'bbox'; the model file has boxes, scores, labels"),
        ({**THREE, "scores": "conf"}, "output.scores is 'conf'; the model file has boxes, scores, labels"),
        ({**THREE, "labels": "cls"}, "output.labels is 'cls'; the model file has boxes, scores, labels"),
        ({"rows": "output0"}, "output.rows is 'output0'; the model file has boxes, scores, labels"),
    ],
)
def test_an_output_that_the_file_has_not_is_refused_naming_those_it_has(form, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Detection(LABELS, BoxesOutput(**form), SHAPES)


@pytest.mark.parametrize(
    ("form", "rows", "sentence"),
    [
        ({}, [(1, 1, 50, 50, 0.5, 3)], "detection with 3 labels needs classes 0 to 2; the model gives 3 to 3"),
        ({"first_label": 1}, [(1, 1, 50, 50, 0.5, 0)], "needs classes 1 to 3; the model gives 0 to 0"),
        ({}, [(1, 1, 50, 50, 0.5, 1), (1, 1, 50, 50, 0.5, -1)], "needs classes 0 to 2; the model gives -1 to 1"),
        ({}, [(1, 1, 50, 50, 4.5)], "output.kind is probabilities, but scores come to 4.5 to 4.5"),
        ({}, [(1, 1, 50, 50, -2, 0)], "output.kind is probabilities, but scores come to -2 to -2"),
        (
            {"units": "normalized"},
            [(1, 1, 50, 60, 0.5)],
            "output.units is normalized, but the model gives boxes up to 60; are they pixels?",
        ),
        (
            {},
            [(0.1, 0.1, 0.5, 0.75, 0.5)],
            "output.units is pixels, but the model's boxes end at 0.75; are they normalized?",
        ),
    ],
)
def test_what_a_run_gives_is_held_against_what_was_stated(form, rows, sentence):
    with pytest.raises(ConfigError, match=sentence):
        task(**form).check(said(*rows), IMAGE)


def test_a_run_s_shapes_are_held_against_what_was_stated():
    outputs = {**said((1, 1, 50, 50, 0.5)), "boxes": np.zeros((1, 1, 5), np.float32)}
    with pytest.raises(ConfigError, match=r"output boxes of shape \[N, M, 4\]; the model gives \[1, 1, 5\]"):
        task().check(outputs, IMAGE)


@pytest.mark.parametrize(
    ("form", "rows", "tensor"),
    [
        ({}, [], IMAGE),
        ({}, [(0, 0, 0, 0, 0)] * 3, IMAGE),
        ({}, [(-5, -5, 120, 90, 1.0, 2)], IMAGE),
        ({"units": "normalized"}, [(-0.1, 0, 1.2, 1, 0.5)], IMAGE),
        ({"kind": "logits"}, [(1, 1, 50, 50, -9)], IMAGE),
        ({}, [(0, 0, 1, 1, 0.9)], Size(1, 1)),
        ({}, [(np.nan, 1, 50, 50, 0.5)], IMAGE),
    ],
)
def test_what_fits_passes(form, rows, tensor):
    task(**form).check(said(*rows), tensor)
