import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.support.boxes import (
    FULL_VIEWS,
    PARTIAL_VIEWS,
    PREPARATIONS,
    TURNED_VIEWS,
    by_corners,
    by_ellipses,
    images,
    inside,
    moderate,
    parts,
    scene_of,
    spread_out,
    to_input,
)
from tests.support.detection import FREE, IMAGE, THREE, decoded, merged, outputs_of, rows_of, rows_task, task
from tests.support.examples import times
from tests.support.rendered import rendered
from tta_server.tasks import ResponseSpec
from tta_server.tasks.boxes.detection import Detection
from tta_server.tasks.boxes.fusion import MERGES
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view

half = settings(max_examples=times(50))
"""For laws of four preparations or merges."""
prepared = pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
merges = pytest.mark.parametrize("merge", MERGES)


# ---- undo is the inverse ----


def comes_back(prep, spec, image, boxes, moved):
    """Boxes of the plain view's frame, decoded from a view that does not cut them, are those of the image."""
    scene, placement = scene_of(prep, image), prep.place(read_view(spec), image)
    seen = moved(boxes, to_input(placement))
    whole = inside(seen, placement) > 2.001
    prediction = decoded(outputs_of(*((*row, 0.5) for row in seen[whole])), spec, image, prep)
    expected = by_corners(boxes[whole], scene.to_image)
    np.testing.assert_allclose(prediction.boxes.xyxy, expected, atol=1e-3)


@prepared
@half
@given(st.sampled_from([*FULL_VIEWS, *PARTIAL_VIEWS]), images, parts)
def test_a_box_of_a_view_comes_back_to_the_image(prep, spec, image, parts):
    comes_back(prep, spec, image, spread_out(parts, scene_of(prep, image).plain.whole), by_corners)


@prepared
@half
@given(st.sampled_from(TURNED_VIEWS), images, parts)
def test_the_box_of_a_turned_ellipse_comes_back_to_the_image(prep, spec, image, parts):
    comes_back(prep, spec, image, moderate(spread_out(parts, scene_of(prep, image).plain.whole)), by_ellipses)


@prepared
@half
@given(st.sampled_from(FULL_VIEWS[:8]), images, parts, st.floats(0, 20))
def test_flips_and_turns_give_the_plain_view_s_boxes_at_the_image_s_edge_too(prep, spec, image, parts, beyond):
    """Clipped to the image, as models reach beyond it."""
    boxes = spread_out(parts, scene_of(prep, image).plain.whole) + beyond * np.array([-1, -1, 1, 1])
    views = []
    for each in ("identity", spec):
        seen = by_corners(boxes, to_input(prep.place(read_view(each), image)))
        views.append(decoded(outputs_of(*((*row, 0.5) for row in seen)), each, image, prep).boxes.xyxy)
    np.testing.assert_allclose(views[1], views[0], atol=1e-3)
    assert (views[0] >= 0).all()
    assert (views[0] <= np.tile(image, 2)).all()
    assert len(views[0]) == len(boxes)


def test_a_box_under_letterbox_bars_by_hand():
    """80x40 pixels are 64x32 in rows 16 to 48; mirrored, columns 44 to 52 are 12 to 20, which are 15 to 25 of 80."""
    prediction = decoded(outputs_of((44, 24, 52, 40, 0.9, 1)), "hflip", Size(80, 40), PREPARATIONS["letterbox"])
    assert rows_of(prediction.boxes) == [(15, 10, 25, 30, 0.9, 1)]


def test_a_box_that_a_crop_cuts_is_left_out_and_one_at_the_image_s_edge_is_kept():
    """The top left 50x40 pixels, enlarged twice."""
    outputs = outputs_of((0, 0, 40, 40, 0.9), (60, 10, 100, 40, 0.8), (10, 50, 40, 80, 0.7), (20, 20, 60, 60, 0.6))
    prediction = decoded(outputs, {"crop": {"fraction": 0.5, "anchor": "top_left"}})
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
def test_the_boxes_of_one_view_are_the_model_s_however_they_overlap(merge, rows):
    alone = merged([decoded(outputs_of(*rows))], merge=merge)
    expected = sorted((row for row in rows if row[4] >= 0.05), key=lambda row: -row[4])
    assert rows_of(alone) == [(*xyxy, round(score, 3), label) for *xyxy, score, label in expected]
    assert (alone.found_by == 1).all()
    assert (alone.visible_in == 1).all()
    assert (alone.spread == 0).all()


@given(some_rows, st.integers(1, 4), st.sampled_from([0, 0.25, 0.75]))
def test_the_best_boxes_of_at_least_min_score_are_kept(rows, most, least):
    prediction = decoded(outputs_of(*rows), detection=task(max_boxes=most, min_score=least))
    scores = sorted((row[4] for row in rows if row[4] >= least), reverse=True)[:most]
    np.testing.assert_allclose(prediction.boxes.score, scores)


@merges
def test_the_boxes_of_one_view_with_weights_by_class_are_the_model_s(merge):
    view = decoded(outputs_of((10, 10, 40, 40, 0.9, 0), (12, 10, 42, 40, 0.8, 0), (50, 10, 80, 40, 0.7, 2)))
    alone = merged([view], [(1.0, 0.0, 0.5)], merge)
    assert rows_of(alone) == rows_of(view.boxes)


# ---- any output ----

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
def test_any_outputs_give_scores_and_boxes_within_bounds(views, form, merge):
    detection = task(min_score=0, **form)
    predictions = [
        decoded(dict(zip(THREE, outputs, strict=True)), spec, detection=detection) for outputs, spec in views
    ]
    sound = [prediction for prediction in predictions if detection.is_sound(prediction)]
    after = merged(sound or [decoded(outputs_of())], merge=merge, detection=detection)
    assert ((after.score >= 0) & (after.score <= 1)).all()
    assert (np.diff(after.score) <= 0).all()
    assert ((after.xyxy >= 0) & (after.xyxy <= np.tile(IMAGE, 2))).all()
    assert (after.xyxy[:, 2:] >= after.xyxy[:, :2]).all()
    assert ((after.label >= 0) & (after.label < 3)).all()
    assert (after.found_by <= after.visible_in).all()
    assert len(after.score) <= 300
    assert np.isfinite(after.spread).all()


BROKEN = {
    "a score": (10, 10, 40, 40, np.nan, 0),
    "an infinite score": (10, 10, 40, 40, np.inf, 0),
    "a side": (10, np.nan, 40, 40, 0.5, 0),
    "an infinite side": (10, 10, np.inf, 40, 0.5, 0),
    "two infinite sides": (-np.inf, 10, np.inf, 40, 0.5, 0),
}


@pytest.mark.parametrize("nms", [None, 0.5])
@pytest.mark.parametrize("spec", ["identity", "hflip", {"rotate": 20}], ids=str)
@pytest.mark.parametrize("what", BROKEN)
def test_a_view_with_nan_in_a_box_that_counts_is_unsound(what, spec, nms):
    detection = task(nms=nms)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the next test is about warnings
        prediction = decoded(outputs_of((10, 10, 40, 40, 0.9, 0), BROKEN[what]), spec, detection=detection)
    assert not detection.is_sound(prediction)


@pytest.mark.parametrize("spec", ["identity", "hflip", {"rotate": 20}], ids=str)
@pytest.mark.parametrize("what", BROKEN)
def test_an_unsound_view_causes_no_warning(what, spec):
    decoded(outputs_of((10, 10, 40, 40, 0.9, 0), BROKEN[what]), spec)


def test_nan_in_boxes_under_min_score_does_not_matter():
    """Models pad their rows with any values."""
    outputs = outputs_of((10, 10, 40, 40, 0.9, 1), (np.nan, np.inf, np.nan, -np.inf, 0.01), (np.nan, 1, 2, 3, -np.inf))
    prediction = decoded(outputs)
    assert task().is_sound(prediction)
    assert rows_of(prediction.boxes) == [(10, 10, 40, 40, 0.9, 1)]


def test_boxes_of_unknown_classes_are_left_out():
    outputs = outputs_of(*((10, 10, 40, 40, 0.9, label) for label in (-1, 0, 2, 3, 2**40)))
    assert [row[5] for row in rows_of(decoded(outputs).boxes)] == [0, 2]


@pytest.mark.parametrize("label", [1e30, -1e30, 3e9])
def test_huge_class_numbers_are_left_out_too(label):
    detection, outputs = rows_task(), {"rows": np.array([[[10, 10, 40, 40, 0.9, label]]], np.float32)}
    prediction = decoded(outputs, detection=detection)
    assert detection.is_sound(prediction)
    assert len(prediction.boxes.label) == 0


def test_nan_as_a_class_makes_a_view_unsound():
    detection, outputs = rows_task(), {"rows": np.array([[[10, 10, 40, 40, 0.9, np.nan]]], np.float32)}
    assert not detection.is_sound(decoded(outputs, detection=detection))


def test_scores_over_1_are_1():
    assert decoded(outputs_of((10, 10, 40, 40, 1.005))).boxes.score.tolist() == [1]


@pytest.mark.parametrize("factor", [1e6, 1e20, 1e37])
@pytest.mark.parametrize("spec", ["identity", "transpose", {"rotate": 20}], ids=str)
def test_huge_boxes_end_at_the_image_s_edge(spec, factor):
    prediction = decoded(outputs_of((-factor, -factor, factor, factor, 0.9)), spec)
    assert rows_of(prediction.boxes) == [(0, 0, 100, 80, 0.9, 0)]


def test_boxes_outside_the_image_are_left_out():
    outputs = outputs_of((-30, -30, -10, -10, 0.9), (20, 20, 10, 40, 0.8), (30, 30, 30, 40, 0.7), (10, 10, 40, 40, 0.6))
    assert rows_of(decoded(outputs).boxes) == [(10, 10, 40, 40, 0.6, 0)]


@merges
@pytest.mark.parametrize("views", [1, 2, 5])
def test_no_boxes_are_a_result(merge, views):
    detection, scene = task(), scene_of(FREE, IMAGE)
    wanted = ResponseSpec(frozenset({"views", "uncertainty"}))
    accumulator = detection.accumulator(merge, wanted, scene)
    empty = decoded(outputs_of())
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
    assert rows_of(decoded(outputs_of((10, 10, 40, 40, 0.9)), detection=detection).boxes) == [(10, 10, 40, 40, 0.9, 0)]
    classes = Detection(("cell",), BoxesOutput("b", "s"), {"b": (None, None, 4), "s": (None, None, 1)})
    outputs = {"b": np.float32([[[10, 10, 40, 40]]]), "s": np.float32([[[0.9]]])}
    classes.check(outputs, IMAGE)
    assert rows_of(decoded(outputs, detection=classes).boxes) == [(10, 10, 40, 40, 0.9, 0)]


# ---- suppression within one view ----


def overlap(a, b):
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(width, 0) * max(height, 0)
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def greedily(xyxy, score, label, iou):
    """The textbook loop: by falling score, each if it overlaps none that is kept."""
    kept = []
    for i in np.argsort(-score, kind="stable"):
        if all(label[i] != label[k] or overlap(xyxy[i], xyxy[k]) <= iou for k in kept):
            kept.append(int(i))
    return kept


@given(parts, st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.3503, 0.7003]))
def test_suppression_keeps_what_going_box_by_box_keeps(parts, seed, iou):
    rng = np.random.default_rng(seed)
    xyxy = np.repeat(spread_out(parts, (80, 60)), 3, axis=0)
    xyxy = (xyxy + 10 + np.tile(rng.uniform(-5, 5, (len(xyxy), 2)), 2)).astype(np.float32)
    score, label = np.float32(rng.permutation(len(xyxy)) / len(xyxy) / 2 + 0.25), rng.integers(0, 3, len(xyxy))
    prediction = decoded(outputs_of(*np.column_stack([xyxy, score, label])), detection=task(nms=iou))
    kept = greedily(xyxy, score, label, iou)
    np.testing.assert_allclose(prediction.boxes.xyxy, xyxy[kept], atol=1e-5)
    np.testing.assert_array_equal(prediction.boxes.score, score[kept])
    np.testing.assert_array_equal(prediction.boxes.label, label[kept])


def test_boxes_of_other_classes_suppress_nothing_wherever_they_lie():
    """Not even where libraries offset classes by a multiple of the largest coordinate."""
    outputs = outputs_of((0, 0, 60, 60, 0.9, 0), (-40, -40, 20, 20, 0.8, 1), (0, 0, 60, 60, 0.7, 2))
    assert [row[5] for row in rows_of(decoded(outputs, detection=task(nms=0.25)).boxes)] == [0, 1, 2]


def test_a_huge_box_suppresses_no_others():
    outputs = outputs_of((1, 1, 9, 9, 0.9, 1), (30, 30, 39, 39, 0.8, 1), (0, 0, 3e38, 3e38, 0.7, 0))
    assert [row[4] for row in rows_of(decoded(outputs, detection=task(nms=0.5)).boxes)] == [0.9, 0.8, 0.7]


def test_boxes_that_are_the_same_only_where_the_image_cuts_them_are_both_kept():
    """The image is 100x80: the first reaches far to the left and up, the second to the right and down."""
    outputs = outputs_of((-300, -300, 100, 80, 0.9), (0, 0, 400, 380, 0.8))
    found = decoded(outputs, detection=task(nms=0.5)).boxes
    assert found.xyxy.tolist() == [[0, 0, 100, 80]] * 2


def test_suppression_by_hand():
    """The second shares 30 x 20 of 1000 with the first, 3/5; the third is of another class, the fourth far away."""
    outputs = outputs_of(
        (0, 0, 40, 20, 0.9), (10, 0, 50, 20, 0.8), (10, 0, 50, 20, 0.7, 1), (60, 0, 99, 20, 0.6), (0, 5, 40, 25, 0.5)
    )
    kept = {
        nms: [row[4] for row in rows_of(decoded(outputs, detection=task(nms=nms)).boxes)] for nms in (None, 0.5, 0.7)
    }
    assert kept == {None: [0.9, 0.8, 0.7, 0.6, 0.5], 0.5: [0.9, 0.7, 0.6], 0.7: [0.9, 0.8, 0.7, 0.6, 0.5]}
