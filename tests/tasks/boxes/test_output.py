import numpy as np
import pytest

from tests.support.boxes import (
    PREPARATIONS,
    scene_of,
)
from tests.support.detection import (
    FREE,
    HOLDS,
    IMAGE,
    LABELS,
    SHAPES,
    THREE,
    decoded,
    merged,
    outputs_of,
    rows_of,
    rows_task,
    task,
)
from tta_server.errors import ConfigError
from tta_server.tasks.boxes.detection import Detection
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view

# ---- every format of output ----

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
    """Rows as each `holds` names their columns; class scores are multiplied by the objectness, 0.9375."""
    if holds == "box_score_label":
        return np.column_stack([boxes, score, label])
    return np.hstack([boxes, classes] if holds == "box_class_scores" else [boxes, np.full((3, 1), 0.9375), classes])


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
    """Each box twice more, with half the score and moved by a pixel."""
    moved = [(x1 + 1, y1 + d, x2 + 1, y2 + d, s / 2, c) for x1, y1, x2, y2, s, c in TRUE for d in (0, 1)]
    table = np.array([*moved[:3], *TRUE, *moved[3:]])
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
        f"{form} normalized": three_tensors(WRITTEN[form] / 100, format=form, units="normalized") for form in WRITTEN
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
def test_every_format_gives_the_same_boxes(form):
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


def test_normalized_boxes_are_fractions_of_the_input_s_own_width_and_height():
    """Of an input of 112x80, which is 100x80 and its padding to a multiple of 16."""
    detection, outputs = three_tensors(np.array([[0.25, 0.5, 0.5, 0.75]]), SCORE[:1], LABEL[:1], units="normalized")
    assert rows_of(decoded(outputs, prep=PREPARATIONS["free"], detection=detection).boxes) == [
        (28, 40, 56, 60, 0.875, 2)
    ]


def test_objectness_by_hand():
    """centre 0.3 0.5, sides 0.2 0.5 of 100x80 -> 20 to 40 by 20 to 60; objectness 0.5 times 0.8 of the second class."""
    row = np.float32([[[0.3, 0.5, 0.2, 0.5, 0.5, 0.1, 0.8, 0.3]]])
    detection = rows_task("box_objectness_class_scores", format="cxcywh", units="normalized")
    assert rows_of(decoded({"rows": row}, detection=detection).boxes) == [(20, 20, 40, 60, 0.4, 1)]


# ---- refusals ----


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({}, "names either rows, or boxes and scores"),
        ({"boxes": "b"}, "names either rows, or boxes and scores"),
        ({"scores": "s", "labels": "l"}, "names either rows, or boxes and scores"),
        ({"rows": "r", "boxes": "b", "scores": "s"}, "names either rows, or boxes and scores"),
        ({"rows": "r", "labels": "l"}, "leave out boxes, scores and labels"),
        ({"rows": "r", "min_score": 1}, "min_score takes a number of at least 0 and under 1, not 1"),
        ({"rows": "r", "iou": -0.1}, "iou takes a number of at least 0 and under 1, not -0.1"),
        ({"rows": "r", "nms": 1.5}, "nms takes a number of at least 0 and under 1, not 1.5"),
        ({"rows": "r", "max_boxes": 0}, "max_boxes takes a whole number of at least 1, not 0"),
    ],
)
def test_an_inconsistent_output_is_refused(form, sentence):
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
def test_a_file_of_another_shape_is_refused_naming_both_shapes(form, shapes, sentence):
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
def test_an_unknown_output_is_refused_naming_the_known_ones(form, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Detection(LABELS, BoxesOutput(**form), SHAPES)


def test_a_run_s_shapes_are_checked_against_what_is_stated():
    outputs = {**outputs_of((1, 1, 50, 50, 0.5)), "boxes": np.zeros((1, 1, 5), np.float32)}
    with pytest.raises(ConfigError, match=r"output boxes of shape \[N, M, 4\]; the model gives \[1, 1, 5\]"):
        task().check(outputs, IMAGE)


def test_a_run_s_values_are_not_checked():
    """They are what findings are about."""
    task().check(outputs_of((0.1, 0.1, 0.5, 0.75, 4.5, 7)), IMAGE)


# ---- the background ----


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("holds", ["box_class_scores", "box_objectness_class_scores", None])
def test_a_background_takes_its_share_of_the_softmax_and_is_never_answered(holds, place, kind):
    """Logits 0, ln 2, ln 5 of two classes and the background are 1/8, 2/8, 5/8; an objectness of 0 is 1/2."""
    logits = np.log([5, 1, 2] if place == "first" else [1, 2, 5])
    scores = logits if kind == "logits" else np.exp(logits) / 8
    objectness = 0.0 if kind == "logits" else 0.5
    form = {"background": place, "kind": kind, "min_score": 0.01}
    if holds is None:
        detection = Detection(("a", "b"), BoxesOutput("boxes", "scores", **form), {**SHAPES, "scores": (None, None, 3)})
        outputs = {"boxes": np.float32([[[10, 10, 40, 40]]]), "scores": np.float32([[scores]])}
    else:
        columns = [10, 10, 40, 40, *([objectness] if "objectness" in holds else []), *scores]
        detection = Detection(("a", "b"), BoxesOutput(rows="r", holds=holds, **form), {"r": (None, None, len(columns))})
        outputs = {"r": np.float32([[columns]])}
    share = 0.125 if holds == "box_objectness_class_scores" else 0.25
    assert rows_of(decoded(outputs, detection=detection).boxes) == [(10, 10, 40, 40, share, 1)]


@pytest.mark.parametrize(
    ("form", "numbers"),
    [
        ({"background": "first"}, (0, 1, 3)),
        ({"background": "last"}, (3, 0, 2)),
        ({"background": "first", "first_label": 5}, (4, 5, 7)),
    ],
)
def test_boxes_of_a_numbered_background_are_left_out(form, numbers):
    outputs = outputs_of(*((10, 10, 40, 40, 0.9, number) for number in numbers))
    prediction = decoded(outputs, detection=task(**form))
    assert [row[5] for row in rows_of(prediction.boxes)] == [0, 2]
    assert not prediction.remarks


def test_infinite_logits_beside_a_background_are_unsound():
    output = BoxesOutput("boxes", "scores", kind="logits", background="last")
    detection = Detection(LABELS, output, {**SHAPES, "scores": (None, None, 4)})
    outputs = {"boxes": np.float32([[[10, 10, 40, 40]]]), "scores": np.float32([[[0, np.inf, 1, 2]]])}
    assert not detection.is_sound(decoded(outputs, detection=detection))


# ---- the overlap of boxes of one object ----


@pytest.mark.parametrize(
    ("form", "iou"),
    [({}, 0.55), ({"nms": 0.5}, 0.55), ({"nms": 0.65}, 0.65), ({"nms": 0.65, "iou": 0.4}, 0.4), ({"iou": 0}, 0)],
)
def test_boxes_that_the_model_s_suppression_keeps_apart_are_not_fused_unless_stated(form, iou):
    assert BoxesOutput(rows="r", **form).fusion_iou == iou


def test_neighbours_under_the_model_s_own_overlap_stay_two():
    """Two boxes that overlap by 3/5 are one object to the fusion, but two to a suppression from 0.65 on."""
    outputs = outputs_of((0, 0, 40, 20, 0.9), (10, 0, 50, 20, 0.8))
    counts = {}
    for nms in (None, 0.65):
        detection = task(nms=nms)
        counts[nms] = len(merged([decoded(outputs, detection=detection)] * 2, detection=detection).score)
    assert counts == {None: 1, 0.65: 2}
