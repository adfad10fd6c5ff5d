"""What is said of an answer's boxes while serving."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.detection import IMAGE, LABELS, THREE, decoded, outputs_of, rows_of, task
from tests.support.heads import HEADS, batch
from tests.tasks.boxes.test_detection import forms, junk
from tta_server.tasks.boxes.detection import Detection
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.checks import CHECKS


def remarks(*rows, **form):
    """Check -> sentence."""
    detection = task(**form)
    return {r.check: r.sentence for r in detection.remarks(decoded(outputs_of(*rows), detection=detection))}


# ---- class numbers ----


def test_a_class_number_beyond_the_labels_is_remarked():
    """The scene of a model that finds nothing in test images and numbers its classes from 1."""
    assert remarks((10, 10, 30, 30, 0.9, 3)) == {
        "boxes.classes": "3 labels with output.first_label 0 are numbered 0 to 2, but the model gives class number 3; "
        "set output.first_label: 1 if that is the first label's number"
    }
    assert remarks((10, 10, 30, 30, 0.9, 3), first_label=1) == {}


@pytest.mark.parametrize(
    "row",
    [
        (10, 10, 30, 30, 0.04, 3),
        (0, 0, 0, 0, 0.9, -1),
        (-1, -1, -1, -1, 0.9, -1),
    ],
    ids=["under min_score", "padding", "padding with -1"],
)
def test_class_numbers_of_rows_that_are_no_boxes_are_not(row):
    assert remarks((10, 10, 30, 30, 0.9, 2), row) == {}


def test_rows_without_a_score_are_none_even_if_min_score_is_0():
    assert remarks((10, 10, 30, 30, 0, -1), (0, 0, 0, 0, 0, -1), min_score=0) == {}


@pytest.mark.parametrize(("place", "number"), [("first", 0), ("last", 3)])
def test_the_background_s_number_is_no_class_beyond_the_labels(place, number):
    assert remarks((10, 10, 30, 30, 0.9, number), background=place) == {}
    assert remarks((10, 10, 30, 30, 0.9, 5), background=place).keys() == {"boxes.classes"}


# ---- units ----


def test_pixels_in_boxes_that_are_stated_as_normalized_are_remarked():
    assert remarks((10, 20, 30, 40, 0.9), units="normalized") == {
        "boxes.units": "output.units is normalized, but the model gives boxes up to 40; for pixels of the input set "
        "output.units: pixels"
    }
    assert remarks((-0.2, 0.1, 1.3, 0.9, 0.9), units="normalized") == {}


def test_fractions_in_boxes_that_are_stated_as_pixels_are_remarked():
    assert remarks((0.1, 0.2, 0.4, 0.5, 0.9)) == {
        "boxes.units": "output.units is pixels, but the model's boxes end at 0.5; for fractions of the input's size "
        "set output.units: normalized"
    }
    assert remarks((0.1, 0.2, 0.4, 0.5, 0.9), (10, 20, 30, 40, 0.9)) == {}
    assert remarks((0, 0, 1, 1, 0.9)) == {}


# ---- format ----


def test_boxes_inside_out_are_remarked():
    assert remarks((60, 40, 10, 12, 0.9), (50, 30, 9, 9, 0.8)) == {
        "boxes.format": "output.format is xyxy, but 2 of 2 boxes end before they begin; set output.format: xywh or "
        "cxcywh, which fits"
    }
    assert remarks((60, 40, 10, 12, 0.9), (50, 30, 9, 9, 0.8), format="xywh") == {}


@pytest.mark.parametrize(
    "rows",
    [
        [(60, 40, 10, 12, 0.9), (10, 10, 50, 50, 0.9)],
        [(60, 40, 10, 12, 0.01)],
        [(60, 40, 60, 50, 0.9)],
        [(60, 40, 59.9, 50, 0.9)],
    ],
    ids=["one of two", "under min_score", "flat", "by rounding"],
)
def test_few_boxes_without_an_area_are_not(rows):
    assert remarks(*rows) == {}


def test_only_boxes_without_an_area_are_remarked():
    assert "none of 5 boxes has an area" in remarks(*[(60, 40, 60, 50, 0.9)] * 5)["boxes.format"]


# ---- all ----


@pytest.mark.parametrize("head", HEADS)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_answers_of_right_declarations_cause_no_remark(head, seed, trained):
    own = HEADS[head]
    outputs = batch(own.outputs(np.random.default_rng(seed), IMAGE, trained))
    shapes = {name: (None, *values.shape[1:]) for name, values in outputs.items()}
    detection = Detection(own.labels, BoxesOutput(**own.form), shapes)
    assert list(detection.remarks(decoded(outputs, detection=detection))) == []


@given(junk, forms)
def test_any_outputs_cause_remarks_of_known_checks_at_most_one_each(outputs, form):
    detection = task(**form)
    found = detection.remarks(decoded(dict(zip(THREE, outputs, strict=True)), detection=detection))
    checks = [remark.check for remark in found]
    assert set(checks) <= CHECKS.keys()
    assert len(checks) == len(set(checks))


def test_an_unsound_view_has_no_remarks():
    assert remarks((10, 10, 30, np.nan, 0.9, 7)) == {}


def test_boxes_are_read_all_the_same_where_the_check_is_off():
    prediction = decoded(outputs_of((10, 10, 30, 30, 0.9, 3), (10, 10, 30, 30, 0.8, 1)))
    assert rows_of(prediction.boxes) == [(10, 10, 30, 30, 0.8, 1)]
    assert len(LABELS) == 3
