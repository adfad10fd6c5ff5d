"""Heads: what they fill in, what they refuse, and what their checks say of the wrong one."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.boxes import scene_of
from tests.support.detection import FREE, IMAGE, rows_of
from tests.support.examples import times
from tests.support.head_models import head_model
from tests.support.heads import HEADS as COMMON
from tests.support.heads import LABELS, RF_DETR, YOLOX_RAW
from tests.support.onnx_models import write_model
from tests.tasks.boxes.test_heads_served import CONFIG
from tta_server import load
from tta_server.errors import ConfigError
from tta_server.tasks.boxes.cells import cells, decode_cells
from tta_server.tasks.boxes.detection import Detection
from tta_server.tasks.boxes.heads import HEADS
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.boxes.reader import best_pairs
from tta_server.tasks.checks import CardRun
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view

Shape = tuple[int | None, ...]
SHAPES: dict[str, dict[str, Shape]] = {
    "yolox": {"output": (None, 8400, 7)},
    "yolov5": {"output": (1, 25200, 7)},
    "yolov8": {"output0": (1, 6, 8400)},
    "yolov10": {"output0": (1, 300, 6)},
    "detr": {"logits": (None, 100, 3), "pred_boxes": (None, 100, 4)},
    "rt_detr": {"logits": (None, 300, 2), "pred_boxes": (None, 300, 4)},
    "torchvision": {"boxes": (None, 4), "labels": (None,), "scores": (None,)},
    "mmdeploy": {"dets": (None, None, 5), "labels": (None, None)},
    "rf_detr": {"dets": (None, 300, 4), "labels": (None, 300, 3)},
    "d_fine": {"labels": (None, 300), "boxes": (None, 300, 4), "scores": (None, 300)},
    "paddle": {"bbox": (None, 6), "bbox_num": (None,)},
    "tensorflow": {
        "detection_boxes": (None, 100, 4),
        "detection_classes": (None, 100),
        "detection_scores": (None, 100),
        "num_detections": (None,),
    },
    "openvino_ssd": {"detection_out": (1, 1, None, 7)},
}
"""As files with two classes state them."""


def made(
    head: str, shapes: Mapping[str, Shape] | None = None, labels: Sequence[str] = ("a", "b"), **stated: Any
) -> Detection:
    return Detection(labels, BoxesOutput.of(head=head, **stated), shapes or SHAPES[head])


def decoded(detection: Detection, **outputs: Any) -> list[tuple[Any, ...]]:
    arrays = {name: np.asarray(values) for name, values in outputs.items()}
    detection.check(arrays, IMAGE)
    found = detection.decode(arrays, 0, FREE.place(read_view("identity"), IMAGE), scene_of(FREE, IMAGE))
    return rows_of(found.boxes)


# ---- decoding ----


@pytest.mark.parametrize("head", HEADS)
def test_a_head_alone_suffices_for_a_file_s_usual_names(head: str) -> None:
    assert set(made(head).reads) == set(SHAPES[head])


def test_yolox_by_hand() -> None:
    """Cell 1 of row 2 of 4x3 cells of 32 pixels: (1 + 0.5) 32, (2 - 0.25) 32; sides 2 and 1/2 of 32."""
    rows = np.zeros((1, 12, 7), np.float32)
    rows[0, 9] = [0.5, -0.25, np.log(2), np.log(0.5), 0.5, 0.1, 0.8]
    detection = made("yolox", {"output": (1, 12, 7)}, strides=(32,))
    assert decoded(detection, output=rows) == [(16, 48, 80, 64, 0.4, 1)]


@settings(max_examples=times(50))
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_cells_are_the_inverse_of_encoding(columns: int, rows: int, seed: int) -> None:
    size, strides = Size(columns * 32, rows * 32), (8, 16, 32)
    rng = np.random.default_rng(seed)
    middles, lengths = cells(size, strides)
    boxes = np.concatenate([middles + rng.normal(0, 20, middles.shape), rng.uniform(1, 600, middles.shape)], axis=1)
    corners, stride = middles - lengths[:, None] / 2, lengths[:, None]
    encoded = np.concatenate([(boxes[:, :2] - corners) / stride, np.log(boxes[:, 2:] / stride)], axis=1)
    np.testing.assert_allclose(decode_cells(encoded, size, strides), boxes, rtol=1e-9)


def test_a_query_of_rt_detr_may_give_two_classes_and_then_another_gives_none() -> None:
    """Two queries have four pairs, of which two count: of 0.8, 0.6; 0.5, 0.1 both are the first's."""
    chances = np.array([[[0.8, 0.6], [0.5, 0.1]]])
    logits = np.log(chances / (1 - chances)).astype(np.float32)
    boxes = np.float32([[[0.5, 0.5, 0.2, 0.5], [0.2, 0.2, 0.1, 0.1]]])
    assert decoded(made("rt_detr"), logits=logits, pred_boxes=boxes) == [
        (40, 20, 60, 60, 0.8, 0),
        (40, 20, 60, 60, 0.6, 1),
    ]


@given(st.integers(0, 20), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_best_pairs_are_the_first_of_all_sorted(queries: int, classes: int, seed: int) -> None:
    """Also of many equal ones."""
    score = np.random.default_rng(seed).integers(0, 6, (queries, classes)) / 8
    query, label = best_pairs(score.astype(np.float32))
    pairs = [(-score[q, c], q, c) for q in range(queries) for c in range(classes)]
    assert list(zip(query.tolist(), label.tolist(), strict=True)) == [pair[1:] for pair in sorted(pairs)[:queries]]


def test_nan_in_a_pair_that_would_not_count_is_not_lost() -> None:
    logits = np.float32([[[5, np.nan], [4, 3]]])
    outputs = {"logits": logits, "pred_boxes": np.full((1, 2, 4), 0.5, np.float32)}
    place = FREE.place(read_view("identity"), IMAGE)
    detection = made("rt_detr")
    assert not detection.is_sound(detection.decode(outputs, 0, place, scene_of(FREE, IMAGE)))


def test_detr_takes_the_best_class_beside_no_object() -> None:
    """Softmax of the logarithms of 1, 3, 4 is 1/8, 3/8, 1/2, the last for no object."""
    boxes = np.float32([[[0.5, 0.5, 0.2, 0.5]]])
    logits = np.log(np.float32([[[1, 3, 4]]]))
    assert decoded(made("detr"), logits=logits, pred_boxes=boxes) == [(40, 20, 60, 60, 0.375, 1)]


@pytest.mark.parametrize("has_batch", [False, True])
@pytest.mark.parametrize("found", [0, 1, 2, 4])
def test_lists_of_torchvision_may_have_any_length_and_a_batch_axis_of_one(found: int, has_batch: bool) -> None:
    """Class 0 is the background, which is never answered."""
    boxes = np.float32([[10, 20, 30, 40], [0, 0, 5, 5], [50, 50, 60, 70], [1, 2, 3, 4]])[:found]
    scores, labels = np.float32([0.75, 0.625, 0.5, 0.25])[:found], np.array([2, 0, 1, 1])[:found]
    outputs = {"boxes": boxes, "labels": labels, "scores": scores}
    if has_batch:
        outputs = {name: values[None] for name, values in outputs.items()}
    expected = [(10, 20, 30, 40, 0.75, 1), None, (50, 50, 60, 70, 0.5, 0), (1, 2, 3, 4, 0.25, 0)]
    assert decoded(made("torchvision"), **outputs) == [row for row in expected[:found] if row]


def test_only_lists_of_one_image_are_run_one_by_one() -> None:
    assert [head for head in HEADS if not made(head).can_batch] == ["torchvision"]


def test_scores_of_mmdeploy_are_the_fifth_column_and_no_object_pads() -> None:
    dets = np.float32([[[10, 20, 30, 40, 0.75], [0, 0, 0, 0, 0]]])
    assert decoded(made("mmdeploy"), dets=dets, labels=np.array([[1, -1]])) == [(10, 20, 30, 40, 0.75, 1)]


@pytest.mark.parametrize("head", ["yolox", "yolov5", "yolov8"])
def test_heads_without_suppression_suppress(head: str) -> None:
    assert BoxesOutput.of(head=head).nms is not None
    assert BoxesOutput.of(head=head, nms=None).nms is None
    assert BoxesOutput.of(head=head, nms=0.5).nms == 0.5


# ---- refusals ----


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        ({"head": "yolov8", "format": "xyxy"}, "head yolov8 means format: cxcywh, not xyxy; remove output.format, or"),
        ({"head": "yolov8", "transposed": False}, "means transposed: true, not false; remove output.transposed"),
        ({"head": "detr", "background": "none"}, "head detr means background: last, not none"),
        ({"head": "yolov10", "boxes": "b"}, "head yolov10 has no output.boxes; remove it"),
        ({"head": "rt_detr", "rows": "b"}, "head rt_detr has no output.rows; remove it"),
        ({"head": "mmdeploy", "scores": "b"}, "head mmdeploy has no output.scores; remove it"),
        ({"head": "yolov5", "strides": (8,)}, "strides are those of head yolox; remove output.strides from head"),
        ({"rows": "y", "strides": (8,)}, "strides are those of head yolox; set output.head: yolox, or remove"),
        ({"head": "yolox", "strides": ()}, r"strides takes pixels in rising order, like \[8, 16, 32\], not \[\]"),
        ({"head": "yolox", "strides": (16, 8)}, r"strides takes pixels in rising order, like .*, not \[16, 8\]"),
        ({"head": "yolox", "strides": (0, 8)}, r"in rising order, like \[8, 16, 32\], not \[0, 8\]"),
        ({"head": "detr", "scores": None}, "head detr needs output.scores"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_a_head_are_refused(stated: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        BoxesOutput.of(**stated)


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (
            {"head": "yolov99"},
            "output.head is 'yolov99'; it should be 'yolox', 'yolov5', 'yolov8', 'yolov10', 'detr', ",
        ),
        ({"head": ["yolox"]}, "output.head is"),
        ({"head": "yolov8", "format": "xyxy"}, "output: head yolov8 means format: cxcywh, not xyxy"),
        ({"head": "yolov8", "anchors": 3}, "unknown key output.anchors; known: boxes, scores, labels, rows, "),
    ],
)
def test_a_tta_yaml_with_them_is_refused(tmp_path: Path, output: dict[str, Any], sentence: str) -> None:
    model = write_model(tmp_path / "m", head_model("yolov8"), {**CONFIG, "output": output})
    with pytest.raises(ConfigError, match=sentence) as caught:
        load(model, slots=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "shapes", "sentence"),
    [
        (
            "yolov8",
            SHAPES["yolov5"],
            r"output.head yolov8 with 2 labels needs an output output of shape \[N, 6, M\]; the model gives "
            r"\[1, 25200, 7\]; output.head yolox or yolov5 takes this shape, if there are 2 classes",
        ),
        ("yolov5", SHAPES["yolov8"], r"needs an output output0 of .*; output.head yolov8 takes this shape"),
        ("yolov5", SHAPES["yolov10"], r"gives \[1, 300, 6\]; output.head yolov10 takes this shape"),
        ("detr", SHAPES["rt_detr"], r"output logits of shape \[N, M, 3\]; .*; output.head rt_detr takes this shape"),
        ("rt_detr", SHAPES["detr"], r"output logits of shape \[N, M, 2\]; .*; output.head detr takes this shape"),
        ("yolov8", {"output0": (1, 84, 8400)}, "; check the number of labels, and which head the model was exported"),
        (
            "yolov8",
            {"output0": (1, 38, 8400), "output1": (1, 32, 160, 160)},
            "output.head yolov8 reads an output for rows; the model file has output0, output1: set output.rows to one "
            "of them; its masks, as of YOLO's segmentation models, are not read",
        ),
        (
            "yolov8",
            {"output0": (1, 57, 8400)},
            "labels lack 51 classes, or these columns are 17 keypoints, as of YOLO's pose",
        ),
        (
            "yolov10",
            {"output0": (1, 300, 57)},
            r"output0 of shape \[N, M, 6\]; .*; these columns are 17 keypoints, as of YOLO's pose models: export a",
        ),
        (
            "yolov10",
            {"output0": (1, 300, 7)},
            "; output.head yolox or yolov5 takes this shape, if there are 2 classes; or the last column is an angle",
        ),
        ("yolov10", {"output0": (1, 300, 38)}, "; the model gives masks too, as YOLO's segmentation models: export a"),
        (
            "yolov10",
            {"output0": (1, 300, 10)},
            "; 4 further columns, of masks or points, are not read: export a detection model",
        ),
        (
            "yolov8",
            {"output0": (1, 7, 8400)},
            "labels lack a class, or this is an angle, as of YOLO's rotated boxes",
        ),
        ("detr", SHAPES["torchvision"], "reads an output named pred_boxes for boxes; the model file has boxes, labels"),
    ],
)
def test_a_file_of_another_head_is_refused_naming_it(head: str, shapes: dict[str, Shape], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        made(head, shapes)


def test_an_angle_behind_rows_that_have_class_numbers() -> None:
    with pytest.raises(ConfigError, match="; this is an angle, as of YOLO's rotated boxes: export a detection model"):
        made("yolov10", {"output0": (1, 300, 7)}, ("a", "b", "c"))


@pytest.mark.parametrize(("head", "shape"), [("yolov8", (1, 38, 8400)), ("yolov10", (1, 300, 38))])
def test_a_segmentation_model_is_refused_by_name(head: str, shape: Shape) -> None:
    with pytest.raises(ConfigError, match="the model gives masks too, as YOLO's segmentation models: export a"):
        made(head, {"output0": shape, "output1": (1, 32, 160, 160)}, rows="output0")


@pytest.mark.parametrize(
    ("head", "length", "sentence"),
    [
        (
            "torchvision",
            300,
            r"torchvision does not fit boxes \[1, 300, 4\]: the model gives a fixed number of rows, not a list of what "
            "it found; output.head d_fine takes this shape, if there are 2 classes",
        ),
        (
            "d_fine",
            None,
            r"d_fine does not fit boxes \[1, any, 4\]: the model gives a list of what it found; output.head "
            "torchvision takes this shape, if there are 2 classes",
        ),
    ],
)
def test_queries_of_one_image_are_no_lists(head: str, length: int | None, sentence: str) -> None:
    """Lists of torchvision count classes from 1, queries from 0."""
    shapes = {"boxes": (1, length, 4), "labels": (1, length), "scores": (1, length)}
    with pytest.raises(ConfigError, match=sentence):
        made(head, shapes)
    made({"torchvision": "d_fine", "d_fine": "torchvision"}[head], shapes)


@pytest.mark.parametrize(
    ("head", "shapes", "names", "other"),
    [
        ("detr", SHAPES["rf_detr"], {"boxes": "dets", "scores": "labels"}, "rf_detr"),
        ("rf_detr", SHAPES["detr"], {"boxes": "pred_boxes", "scores": "logits"}, "detr"),
        (
            "d_fine",
            SHAPES["tensorflow"],
            {"boxes": "detection_boxes", "scores": "detection_scores", "labels": "detection_classes"},
            "tensorflow",
        ),
    ],
)
def test_usual_names_of_another_head(head: str, shapes: dict[str, Shape], names: dict[str, str], other: str) -> None:
    with pytest.raises(ConfigError, match=f"which are the outputs of output.head {other}: set that, or state the"):
        Detection(("a", "b"), BoxesOutput.of(head=head, **names), shapes)


@pytest.mark.parametrize(("head", "other"), [*permutations(["d_fine", "paddle", "tensorflow", "openvino_ssd"], 2)])
def test_a_new_head_is_named_where_its_file_has_other_names(head: str, other: str) -> None:
    with pytest.raises(ConfigError, match=f"output.head {other} takes"):
        made(head, SHAPES[other])


def test_lists_stated_without_a_head_are_refused_naming_it() -> None:
    output = BoxesOutput("boxes", "scores", "labels")
    with pytest.raises(ConfigError, match=r"gives \[any, 4\]; .*set output.head: torchvision"):
        Detection(("a", "b"), output, SHAPES["torchvision"])


def test_rows_that_are_no_cells_are_refused() -> None:
    """13x10, 7x5 and 4x3 cells."""
    outputs = {"output": np.zeros((1, 100, 7), np.float32)}
    sentence = r"with output.strides \[8, 16, 32\] has 177 rows for an input of 100x80, but the model gives 100; set"
    with pytest.raises(ConfigError, match=sentence):
        made("yolox", {"output": (None, None, 7)}).check(outputs, IMAGE)


# ---- what test images show ----


def found(head: str, runs: Sequence[CardRun], labels: Sequence[str] = LABELS, **stated: Any) -> dict[str, str]:
    lists = SHAPES[head] if head == "torchvision" else {}
    shapes = lists or {name: values.shape for name, values in runs[0].outputs.items()}
    detection = made(head, shapes, labels, **stated)
    for run in runs:
        detection.check(run.outputs, run.tensor)
    return {finding.check: finding.sentence for finding in detection.findings(runs)}


RIGHT = {
    "yolox": (YOLOX_RAW, {}),
    "yolov5": (COMMON["YOLOv5"], {}),
    "yolov8": (COMMON["YOLOv8"], {}),
    "yolov10": (COMMON["YOLOv10"], {}),
    "detr": (COMMON["DETR"], {"boxes": "boxes", "scores": "scores"}),
    "rt_detr": (COMMON["RT-DETR"], {"boxes": "boxes", "scores": "scores"}),
    "rf_detr": (RF_DETR, {"boxes": "boxes", "scores": "scores"}),
    "torchvision": (COMMON["torchvision"], {}),
}


def as_head(head: str, runs: Sequence[CardRun]) -> Sequence[CardRun]:
    """The rows of YOLOv10 in the form of another head."""
    found = []
    for run in runs:
        rows = run.outputs["y"][0]
        boxes, score, label = rows[:, :4], rows[:, 4], rows[:, 5]
        parts = boxes / np.tile(run.tensor, 2)
        real = score > 0
        outputs: dict[str, Any] = {
            "d_fine": {"boxes": boxes[None], "scores": score[None], "labels": label[None].astype(np.int64)},
            "paddle": {"bbox": np.column_stack([label, score, boxes])[real], "bbox_num": np.array([real.sum()])},
            "tensorflow": {
                "detection_boxes": parts[None][..., [1, 0, 3, 2]],
                "detection_scores": score[None],
                "detection_classes": label[None] + 1,
                "num_detections": np.float32([real.sum()]),
            },
            "openvino_ssd": {
                "y": np.column_stack([real - 1.0, label + 1, score, parts]).astype(np.float32)[None, None]
            },
        }[head]
        found.append(CardRun(run.card, outputs, run.tensor))
    return found


@pytest.mark.parametrize("head", ["d_fine", "paddle", "tensorflow", "openvino_ssd"])
@given(st.integers(0, 2**32 - 1), st.sampled_from([Size(64, 64), Size(128, 96), Size(320, 320)]), st.booleans())
def test_right_heads_of_rows_give_no_finding(head: str, seed: int, size: Size, trained: bool) -> None:
    assert found(head, as_head(head, COMMON["YOLOv10"].runs(size, trained, seed))) == {}


def test_classes_of_openvino_may_be_numbered_from_0() -> None:
    runs = as_head("openvino_ssd", COMMON["YOLOv10"].runs())
    for run in runs:
        run.outputs["y"][..., 1] -= 1
    sentence = found("openvino_ssd", runs)["boxes.classes"]
    assert sentence.endswith("set output.first_label: 0 if that is the first label's number")
    assert found("openvino_ssd", runs, first_label=0) == {}


QUERY_NAMES = {"boxes": "boxes", "scores": "scores"}


def test_a_softmax_with_no_object_is_told_from_sigmoids() -> None:
    """Shapes and names are the same."""
    sentence = found("rf_detr", COMMON["DETR"].runs(), **QUERY_NAMES)["boxes.background"]
    assert "never answers the last class, but that is the likeliest of 400 of 400 boxes" in sentence
    assert sentence.endswith("set output.head: detr")
    sentence = found("detr", RF_DETR.runs(), **QUERY_NAMES)["boxes.background"]
    assert "none of 400 boxes for test images is likely to be no object" in sentence
    assert "set output.head: rf_detr" in sentence


@pytest.mark.parametrize("head", RIGHT)
@given(st.integers(0, 2**32 - 1), st.sampled_from([Size(64, 64), Size(128, 96), Size(320, 320)]), st.booleans())
def test_right_heads_give_no_finding(head: str, seed: int, size: Size, trained: bool) -> None:
    common, names = RIGHT[head]
    assert found(head, common.runs(size, trained, seed), **names) == {}


@given(st.integers(0, 2**32 - 1), st.sampled_from([Size(64, 64), Size(128, 96), Size(320, 320)]), st.booleans())
def test_yolox_is_told_from_its_decoding(seed: int, size: Size, trained: bool) -> None:
    decoding = COMMON["YOLOX, decoded"]
    sentence = found("yolox", decoding.runs(size, trained, seed))["boxes.grid"]
    assert "output.head yolox means offsets in grids and logarithms of sides, but the model gives" in sentence
    assert "set output.head: yolov5" in sentence
    assert found("yolov5", decoding.runs(size, trained, seed)) == {}
    assert "set output.head: yolox" in found("yolov5", YOLOX_RAW.runs(size, trained, seed))["boxes.grid"]


def test_what_a_head_fixes_is_named_with_it() -> None:
    rows = np.float32([[[0.1, 0.1, 0.5, 0.75, 0.5, 1]]])
    assert found("yolov10", [CardRun("photo", {"y": rows}, IMAGE)])["boxes.units"].endswith(
        "set output.units: normalized; output.head yolov10 fixes that key: name the head that the model was exported "
        "with, or state the output's keys without a head"
    )


def test_labels_of_torchvision_leave_the_background_out() -> None:
    sentence = found("torchvision", COMMON["torchvision"].runs(), ("__background__", *LABELS))["boxes.background"]
    assert "the first of labels, '__background__', names no object; leave it out of labels" in sentence


def test_score_and_class_of_one_label_are_no_objectness() -> None:
    """Both heads then have six columns."""
    runs = [
        CardRun(run.card, {"y": run.outputs["y"] * np.float32([1, 1, 1, 1, 1, 0])}, run.tensor)
        for run in COMMON["YOLOv10"].runs()
    ]
    assert found("yolov5", runs, ("a",))["boxes.classes"] == (
        "the model gives objectness, but every score of a class is 0, so that no box is ever found; if its last two "
        "columns are score and class number, set output.head: yolov10"
    )
    assert found("yolov10", runs, ("a",)) == {}
