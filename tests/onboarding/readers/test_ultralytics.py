"""Metadata of Ultralytics' exports."""

from typing import Any

import pytest

from tests.support.exports import YOLO
from tests.support.model_files import FLOAT, model_file, values
from tta_server.onboarding.conclusions import Conclusion, Given, conclude
from tta_server.onboarding.model_file import TensorInfo


def concluded(output=(1, 7, 126), shape=(1, 3, 64, 96), **metadata: Any) -> Conclusion:
    stated = {key: value for key, value in (YOLO | metadata).items() if value is not None}
    return conclude(model_file(TensorInfo("output0", FLOAT, output), shape=shape, **stated), Given(), [])


@pytest.mark.parametrize(
    ("output", "metadata", "head"),
    [
        ((1, 7, 126), {}, "yolov8"),
        (("batch", 7, "anchors"), {}, "yolov8"),
        (("batch", "rows", "anchors"), {"args": None}, "yolov8"),
        ((1, 300, 6), {"args": "{'nms': True}"}, "yolov10"),
        ((1, 300, 6), {"end2end": "True"}, "yolov10"),
        ((1, 300, 6), {}, "yolov10"),
        ((1, 25, 8), {"task": None, "args": None}, "yolov5"),
    ],
)
def test_the_head_of_a_detector(output, metadata, head) -> None:
    found = concluded(output, **metadata)
    assert (found.refusals, found.choices) == ([], [])
    assert values(found, "output.") == {"head": head, "min_score": 0.25}
    assert values(found)["task"] == "detection"
    assert values(found, "input.") == {
        "color": "RGB",
        "scale": 255,
        "mean": [0],
        "std": [1],
        "interpolation": "bilinear",
        "size": [64, 96],
        "resize": "letterbox",
        "resize_like": "opencv",
        "letterbox_fill": 114,
        "layout": "NCHW",
    }


@pytest.mark.parametrize(
    ("size", "resize"), [("[224, 224]", 224), ("224", 224), ("(224, 256)", "exact"), ("nonsense", None)]
)
def test_a_classifier(size: str, resize: Any) -> None:
    found = concluded((1, 3), ("n", 3, "h", "w"), task="classify", imgsz=size)
    assert values(found).get("input.resize") == resize
    assert values(found)["output.kind"] == "probabilities"
    assert values(found)["task"] == "classification"


@pytest.mark.parametrize(
    ("output", "kind", "multilabel"),
    [((1, 64, 96), "classes", None), ((1, 3, 64, 96), "logits", False), ((1, 1, 64, 96), "logits", True)],
)
def test_a_map_of_classes(output, kind: str, multilabel: bool | None) -> None:
    found = concluded(output, task="semantic")
    assert (found.refusals, found.choices) == ([], [])
    assert values(found)["task"] == "segmentation"
    assert values(found)["output.kind"] == kind
    assert values(found).get("output.multilabel") == multilabel
    assert values(found)["input.resize"] == "letterbox"


def test_grey_images() -> None:
    assert values(concluded(channels="1", shape=(1, 1, 64, 96)))["input.color"] == "grey"


@pytest.mark.parametrize(
    ("output", "metadata", "sentence"),
    [
        ((1, 300, 7), {}, "is [1, 300, 7]; a YOLO detector of 3 classes gives [N, 7, M]"),
        ((1, 7, 126), {"end2end": "True"}, "of 3 classes with metadata end2end gives [N, M, 6]"),
        ((1, 9), {}, "is [1, 9]"),
        ((1, 39, 126), {"task": "segment"}, "'segment': Ultralytics models of that task (masks of single objects)"),
        ((1, 58, 126), {"task": "pose"}, "'pose'"),
        ((1, 8, 126), {"task": "obb"}, "'obb'"),
        ((1, 8, 126), {"task": "track"}, "'track'"),
        ((1, 7, 126), {"channels": "4"}, "metadata channels is 4; images have 1 (grey) or 3"),
        ((1, 25, 40), {"task": None, "args": None}, "YOLOv5 with 3 classes gives [N, M, 8] boxes; with more columns"),
    ],
)
def test_what_is_refused_by_name(output, metadata, sentence: str) -> None:
    (refusal,) = concluded(output, **metadata).refusals
    assert sentence in refusal


def test_a_classifier_of_yolov5_states_only_its_names() -> None:
    found = concluded((1, 3), task=None, args=None)
    assert values(found)["labels"] == ["red", "green", "blue"]
    assert {"task", "input.mean", "output.kind"} <= {choice.key for choice in found.choices}
