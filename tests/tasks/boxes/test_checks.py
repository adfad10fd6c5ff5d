"""Findings from the outputs for test images: wrong declarations are caught, right ones near them pass."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.boxes import scene_of
from tests.support.detection import FREE, IMAGE, LABELS, THREE, outputs_of, rows_task, task
from tests.support.heads import CARDS, CLASS_ROWS, HEADS, YOLOX_RAW, as_centres, as_sides, objects, sigmoid
from tests.tasks.boxes.test_detection import forms, junk
from tta_server.errors import ConfigError
from tta_server.tasks.boxes.detection import Detection
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.checks import CHECKS, CardRun
from tta_server.tasks.scores.checks import are_probabilities
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view

seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([Size(64, 64), Size(128, 96), Size(128, 128), Size(256, 192), Size(320, 320)])


def found(detection, *outputs, tensor=IMAGE):
    """Findings by check, of outputs for test images."""
    runs = [CardRun(f"card {i}", each, tensor) for i, each in enumerate(outputs)]
    return {finding.check: finding.sentence for finding in detection.findings(runs)}


def of_rows(*rows, **form):
    return found(task(**form), outputs_of(*rows))


# ---- right declarations ----


@pytest.mark.parametrize("head", HEADS)
@given(seeds, sizes, st.booleans())
def test_right_declarations_of_common_heads_give_no_finding(head, seed, size, trained):
    assert HEADS[head].found(HEADS[head].runs(size, trained, seed)) == {}


@pytest.mark.parametrize("head", HEADS)
@given(seeds)
def test_nor_do_images_of_one_colour_that_all_give_the_same(head, seed):
    """Nor one image alone, nor a score under min_score everywhere."""
    (run,) = HEADS[head].runs(seed=seed, cards=("black",))
    assert HEADS[head].found([replace(run, card=card) for card in CARDS]) == {}
    assert HEADS[head].found([run], min_score=0.99) == {}


@given(junk, forms)
def test_any_outputs_give_findings_of_known_checks_at_most_one_each(outputs, form):
    run = CardRun("any", dict(zip(THREE, outputs, strict=True)), IMAGE)
    checks = [finding.check for finding in task(**form).findings([run])]
    assert set(checks) <= CHECKS.keys()
    assert len(checks) == len(set(checks))


def test_without_test_images_there_are_no_findings():
    assert list(task().findings([])) == []


@pytest.mark.parametrize(
    ("form", "rows"),
    [
        ({}, []),
        ({}, [(0, 0, 0, 0, 0)] * 3),
        ({}, [(0, 0, 0, 0, 0.0, -1), (1, 2, 30, 40, 0.9, 1)]),
        ({}, [(-1, -1, -1, -1, 0.5, -1), (1, 2, 30, 40, 0.9, 1)]),
        ({}, [(-5, -5, 120, 90, 1.0, 2)]),
        ({}, [(0, 0, 1, 1, 0.9)]),
        ({}, [(np.nan, 1, 50, 50, 0.5)]),
        ({}, [(1, 1, 50, 50, np.inf)]),
        ({"units": "normalized"}, [(-0.1, 0, 1.2, 1, 0.5)]),
        ({"kind": "logits"}, [(1, 1, 50, 50, -9)]),
        ({"kind": "logits"}, [(1, 1, 50, 50, 0.9), (5, 5, 9, 9, 0.1)]),
    ],
)
def test_few_rows_and_padding_as_stated_pass(form, rows):
    assert of_rows(*rows, **form) == {}


# ---- scores ----


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int32])
def test_scores_that_are_no_floats_are_found(kind):
    outputs = {**outputs_of((1, 2, 30, 40, 0, 1)), "scores": np.array([[250]]).astype(kind)}
    assert found(task(), outputs) == {
        "scores.type": f"the model's scores are of type {np.dtype(kind)}, whose scale is not stated; export it with "
        "scores as float32 (dequantised)"
    }
    rows = {"rows": np.array([[[1, 2, 30, 40, 1, 1]]]).astype(kind)}
    assert found(rows_task(), rows).keys() == {"scores.type"}


def test_halves_as_scores_and_whole_numbers_as_labels_and_boxes_pass():
    outputs = outputs_of((1, 2, 30, 40, 0.5, 1))
    for boxes, label in ((np.int32, np.uint8), (np.float16, np.int32), (np.float32, np.float32)):
        typed = {"boxes": outputs["boxes"].astype(boxes), "labels": outputs["labels"].astype(label)}
        assert found(task(), {**outputs, **typed, "scores": outputs["scores"].astype(np.float16)}) == {}


@pytest.mark.parametrize(("score", "scores"), [(4.5, "4.5 to 4.5"), (-2, "-2 to -2"), (97, "97 to 97")])
def test_scores_outside_of_0_to_1_are_found(score, scores):
    assert of_rows((1, 1, 50, 50, score)) == {
        "boxes.scores": f"output.kind is probabilities, but scores come to {scores}, outside of [0, 1]; for scores "
        "before a sigmoid or softmax set output.kind: logits"
    }
    assert of_rows((1, 1, 50, 50, score), kind="logits") == {}


def test_scores_that_rounding_moves_out_of_0_to_1_pass():
    assert of_rows((1, 1, 50, 50, 1.005), (1, 1, 50, 50, -0.004)) == {}


@pytest.mark.parametrize("head", ["YOLOv8", "YOLOv5", "SSD"])
@given(seeds)
def test_probabilities_stated_as_logits_are_found(head, seed):
    runs = HEADS[head].runs(seed=seed)
    assert "set output.kind: probabilities" in HEADS[head].found(runs, kind="logits")["boxes.scores"]


@pytest.mark.parametrize("head", ["DETR", "RT-DETR"])
@given(seeds)
def test_logits_stated_as_probabilities_are_found(head, seed):
    runs = HEADS[head].runs(seed=seed)
    assert "set output.kind: logits" in HEADS[head].found(runs, kind="probabilities")["boxes.scores"]


@given(seeds, st.floats(0.1, 0.5))
def test_logits_of_random_weights_are_no_probabilities(seed, middle):
    """Not even if all are small and positive."""
    rng = np.random.default_rng(seed)
    assert not are_probabilities(rng.normal(middle, middle / 8, 1000))
    assert are_probabilities(sigmoid(rng.normal(-6, 2, 1000)))


# ---- classes ----


@pytest.mark.parametrize(
    ("form", "labels", "sentence"),
    [
        (
            {},
            (1, 2, 3),
            "3 labels with output.first_label 0 are numbered 0 to 2, but the model gives class numbers 1 to 3; set "
            "output.first_label: 1 if that is the first label's number",
        ),
        ({}, (3,), "gives class number 3; set output.first_label: 1 if"),
        ({}, (0, 3), "gives class numbers 0 to 3; labels takes a name for each number that the model may give"),
        ({}, (7, 1), "gives class numbers 1 to 7; labels takes a name for each number"),
        ({}, (1, -1), "gives class numbers -1 to 1; labels takes a name for each number"),
        ({"first_label": 1}, (0, 2), "gives class numbers 0 to 2; set output.first_label: 0 if"),
        ({"first_label": 1}, (1, 4), "gives class numbers 1 to 4; labels takes a name for each number"),
        ({"background": "last"}, (0, 4), "numbered 0 to 2, but the model gives class numbers 0 to 4; labels takes"),
        ({"background": "first"}, (4,), "numbered 1 to 3, but the model gives class number 4; labels takes"),
    ],
)
def test_class_numbers_beyond_the_labels_are_found(form, labels, sentence):
    (check, result), *others = of_rows(*((1, 1, 50, 50, 0.5, label) for label in labels), **form).items()
    assert (check, others) == ("boxes.classes", [])
    assert sentence in result


@pytest.mark.parametrize(
    ("form", "labels"),
    [
        ({}, (0, 1, 2)),
        ({}, (1, 2)),
        ({"first_label": 1}, (1, 2, 3)),
        ({"background": "last"}, (0, 1, 2, 3)),
        ({"background": "first"}, (0, 1, 2, 3)),
        ({"background": "first", "first_label": 0}, (-1, 0, 1, 2)),
    ],
)
def test_class_numbers_of_the_labels_and_the_background_pass(form, labels):
    assert of_rows(*((1, 1, 50, 50, 0.5, label) for label in labels), **form) == {}


def test_a_column_of_classes_that_holds_no_whole_numbers_is_found():
    """Score and class in another order: class 1 is a score, and the score no class."""
    swapped = {"rows": np.float32([[[10, 10, 50, 50, 1, 0.73], [10, 10, 50, 50, 0, 0.5]]])}
    assert found(rows_task(), swapped) == {
        "boxes.classes": "the sixth column of output.rows should have class numbers, but the model gives 0.73; are "
        "score and class in another order or place?"
    }
    labels = {**outputs_of((10, 10, 50, 50, 0.9)), "labels": np.float32([[0.73]])}
    assert found(task(), labels)["boxes.classes"].startswith("output.labels should have class numbers")


def test_class_numbers_with_rounding_errors_pass():
    assert found(rows_task(), {"rows": np.float32([[[10, 10, 50, 50, 0.9, 1.0004]]])}) == {}


# ---- the background ----

QUERIES = {"boxes": (None, None, 4), "scores": (None, None, 3)}
LOGITS = {
    "boxes": np.float32([[[30, 30, 70, 70], [20, 30, 40, 50]]]),
    "scores": np.float32([[[-4, 1, 5], [6, -3, -2]]]),
}


@pytest.mark.parametrize("name", ["no object", "no-object", "No_Object", "background", "__background__", "BG"])
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_label_that_names_no_object_is_found(name, place):
    labels = (name, "a", "b") if place == "first" else ("a", "b", name)
    detection = Detection(labels, BoxesOutput("boxes", "scores", kind="logits"), QUERIES)
    assert found(detection, LOGITS) == {
        "boxes.background": f"the {place} of labels, {name!r}, names no object; leave it out of labels and set "
        f"output.background: {place}, which never answers it and reads logits with a softmax"
    }


@pytest.mark.parametrize("labels", [("N/A", "a", "b"), ("a", "background", "b"), ("a", "b", "object")])
def test_other_labels_pass(labels):
    assert found(Detection(labels, BoxesOutput("boxes", "scores", kind="logits"), QUERIES), LOGITS) == {}


def test_a_numbered_background_is_found_once_the_model_answers_it():
    detection = task(labels=("__background__", "a", "b"))
    assert found(detection, outputs_of((10, 10, 50, 50, 0.9, 1))) == {}
    assert found(detection, outputs_of((10, 10, 50, 50, 0.9, 0))).keys() == {"boxes.background"}


# ---- grids ----


@given(seeds, sizes, st.booleans())
def test_offsets_in_a_grid_are_found_and_their_decoding_passes(seed, size, trained):
    (result,) = YOLOX_RAW.found(YOLOX_RAW.runs(size, trained, seed)).items()
    assert result == (
        "boxes.grid",
        "the model's boxes are offsets in grids of stride 8, 16, 32 and logarithms of sides, not boxes of the input; "
        "set output.head: yolox, which decodes them, or export the model with its decoding, as YOLOX does with "
        "--decode_in_inference",
    )
    decoded = HEADS["YOLOX, decoded"]
    assert decoded.found(decoded.runs(size, trained, seed)) == {}


@pytest.mark.parametrize("changes", [{"units": "normalized"}, {"format": "xyxy"}])
def test_offsets_in_a_grid_are_found_whatever_else_is_stated(changes):
    assert YOLOX_RAW.found(YOLOX_RAW.runs(), **changes).keys() == {"boxes.grid"}


def test_small_numbers_in_other_rows_are_no_grid():
    """One row more than there are cells."""
    runs = YOLOX_RAW.runs()
    more = [replace(run, outputs={"y": np.pad(run.outputs["y"], ((0, 0), (0, 1), (0, 0)))}) for run in runs]
    assert "boxes.grid" not in YOLOX_RAW.found(more)


# ---- units ----


def test_pixels_stated_as_normalized_are_found():
    assert of_rows((1, 1, 50, 60, 0.5), units="normalized") == {
        "boxes.units": "output.units is normalized, but the model gives boxes up to 60; for pixels of the input set "
        "output.units: pixels"
    }


def test_fractions_stated_as_pixels_are_found():
    assert of_rows((0.1, 0.1, 0.5, 0.75, 0.5)) == {
        "boxes.units": "output.units is pixels, but the model's boxes end at 0.75; for fractions of the input's size "
        "set output.units: normalized"
    }


@pytest.mark.parametrize("head", [name for name in HEADS if name not in ("nothing found",)])
@given(seeds, sizes, st.booleans())
def test_wrong_units_of_common_heads_are_found(head, seed, size, trained):
    stated = HEADS[head].form.get("units", "pixels")
    wrong = "normalized" if stated == "pixels" else "pixels"
    sentence = HEADS[head].found(HEADS[head].runs(size, trained, seed), units=wrong)["boxes.units"]
    assert f"output.units is {wrong}" in sentence
    assert f"set output.units: {stated}" in sentence


def test_one_huge_box_of_many_shows_nothing():
    assert of_rows((0.1, 0.1, 0.5, 0.75, 0.5), (0, 0, 0.5, 0.5, 0.5), (0, 0, 9, 9, 0.1), units="normalized") == {}


def test_boxes_of_an_input_of_few_pixels_may_end_near_its_corner():
    assert found(task(), outputs_of((0.1, 0.1, 0.5, 0.75, 0.5)), tensor=Size(5, 5)) == {}


# ---- formats ----


@pytest.mark.parametrize(
    ("boxes", "stated", "sentence"),
    [
        ([(60, 40, 10, 12), (50, 20, 9, 9)], "xyxy", "2 of 2 boxes end before they begin; set output.format: xywh or"),
        ([(90, 70, 18, 18), (50, 20, 9, 9)], "xyxy", "set output.format: cxcywh, which fits"),
        ([(10, 60, 30, 20), (40, 30, 60, 10)], "xyxy", "2 of 2 boxes end before they begin; set"),
        ([(50, 40, -20, -30)], "cxcywh", "1 of 1 boxes end before they begin; no other format fits either"),
        ([(5, 5, 5, 9)] * 4, "xyxy", "none of 4 boxes has an area; set output.format: xywh or cxcywh, which fits"),
    ],
)
def test_boxes_that_end_before_they_begin_are_found(boxes, stated, sentence):
    result = of_rows(*((*box, 0.9) for box in boxes), format=stated)
    assert result.keys() == {"boxes.format"}
    assert result["boxes.format"].startswith(f"output.format is {stated}, but ")
    assert sentence in result["boxes.format"]


def test_a_minority_of_boxes_inside_out_and_few_flat_boxes_pass():
    assert of_rows((10, 10, 50, 50, 0.9), (60, 40, 10, 12, 0.8)) == {}
    assert of_rows((10, 10, 10, 50, 0.9), (10, 10, 30, 10, 0.9)) == {}


def test_boxes_inside_out_by_rounding_pass():
    assert of_rows((10, 10, 9.9, 50, 0.9)) == {}


@pytest.mark.parametrize("stated", ["xyxy", "yxyx", "xywh"])
@pytest.mark.parametrize("head", ["YOLOv8", "YOLOX, decoded"])
@given(seeds)
def test_centres_stated_in_another_format_are_found(head, stated, seed):
    """Also as xywh, which Ultralytics calls them: rows are in the order of the cells."""
    runs = HEADS[head].runs(seed=seed)
    assert "cxcywh" in HEADS[head].found(runs, format=stated)["boxes.format"]


@pytest.mark.parametrize("stated", ["xyxy", "yxyx"])
@pytest.mark.parametrize("head", ["DETR", "RT-DETR", "YOLOv5"])
@given(seeds)
def test_centres_stated_as_corners_are_found_without_a_grid(head, stated, seed):
    runs = HEADS[head].runs(seed=seed)
    assert "cxcywh" in HEADS[head].found(runs, format=stated)["boxes.format"]


WAYS: dict[str, Any] = {"xyxy": np.asarray, "xywh": as_sides, "cxcywh": as_centres}


@pytest.mark.parametrize("true", WAYS)
@given(seeds)
def test_many_corners_stated_as_sides_are_found_and_sides_pass(true, seed):
    boxes = WAYS[true](objects(np.random.default_rng(seed), IMAGE, 200))
    for stated in ("xywh", "cxcywh"):
        result = of_rows(*((*box, 0.5) for box in boxes), format=stated)
        if true == "xyxy":
            assert "reach beyond the input; set output.format: xyxy, which fits" in result["boxes.format"]
        else:
            assert result == {}, "places and sides"


@given(seeds, st.booleans())
def test_axes_that_change_places_are_found_where_the_input_is_no_square(seed, is_wide):
    size = Size(200, 100) if is_wide else Size(100, 200)
    boxes = objects(np.random.default_rng(seed), size, 200)
    outputs = outputs_of(*((*box, 0.5) for box in boxes))
    assert "set output.format: xyxy, which fits" in found(task(format="yxyx"), outputs, tensor=size)["boxes.format"]
    assert found(task(), outputs, tensor=size) == {}


def test_what_is_wrong_in_one_declaration_is_found_together():
    result = of_rows((0.1, 0.2, 0.5, 0.7, 3.0, 5))
    assert result.keys() == {"boxes.scores", "boxes.classes", "boxes.units"}


# ---- from a file's shape ----


@pytest.mark.parametrize(
    ("form", "shapes"),
    [
        ({"boxes": "boxes", "scores": "scores"}, {"boxes": (None, None, 4), "scores": (None, None, 4)}),
        ({**CLASS_ROWS}, {"y": (None, None, 8)}),
        ({**CLASS_ROWS, "transposed": True}, {"y": (None, 8, None)}),
    ],
)
def test_a_file_with_a_class_more_than_labels_is_refused_naming_the_background(form, shapes):
    with pytest.raises(ConfigError, match=r"set output\.background: last"):
        Detection(LABELS, BoxesOutput(**form), shapes)
    Detection(LABELS, BoxesOutput(**form, background="last"), shapes)


def test_the_scene_of_the_examples():
    """The background is never answered: of [-4, 1, 5] it is the surest, of [6, -3, -2] a is, with 0.9995."""
    output = BoxesOutput("boxes", "scores", kind="logits", background="last")
    detection = Detection(("a", "b"), output, QUERIES)
    view = detection.decode(LOGITS, 0, FREE.place(read_view("identity"), IMAGE), scene_of(FREE, IMAGE))
    np.testing.assert_allclose(view.boxes.score, [0.99954], atol=1e-5)
    np.testing.assert_array_equal(view.boxes.label, [0])
    assert found(detection, LOGITS) == {}
