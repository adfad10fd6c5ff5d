"""Roboflow's packages: model_config.json, inference_config.json, class_names.txt; and environment.json."""

import json
from typing import Any

import pytest

from tests.support.model_files import FLOAT, LOGITS, model_file, values
from tta_server.onboarding.conclusions import Conclusion, Given, conclude
from tta_server.onboarding.evidence import Document
from tta_server.onboarding.model_file import TensorInfo

NAMES = ["cat", "dog"]
NETWORK = {
    "training_input_size": {"height": 640, "width": 640},
    "dynamic_spatial_size_supported": True,
    "dynamic_spatial_size_mode": {"type": "pad-to-be-divisible", "value": 32},
    "color_mode": "rgb",
    "resize_mode": "letterbox",
    "padding_value": 127,
    "input_channels": 3,
    "scaling_factor": 255,
    "normalization": None,
}
NMS = {"type": "nms", "fused": False, "nms_parameters": None}
FREE = ("n", 3, "h", "w")
ROWS = TensorInfo("output0", FLOAT, ("n", 6, 8400))
KEPT = TensorInfo("output0", FLOAT, ("n", 300, 6))
V5 = TensorInfo("output0", FLOAT, (1, 25200, 7))
DETS = TensorInfo("dets", FLOAT, (1, 300, 4))
IMAGENET = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]


def of_queries(slots: int) -> TensorInfo:
    return TensorInfo("labels", FLOAT, (1, 300, slots))


def concluded(
    *outputs: TensorInfo,
    architecture="yolov8",
    task="object-detection",
    post: Any = NMS,
    before: Any = None,
    names: Any = NAMES,
    removes: Any = (),
    **network: Any,
) -> Conclusion:
    model = {"model_architecture": architecture, "task_type": task, "backend_type": "onnx", "model_module": None}
    operations = [{"type": "class_name_removal", "class_name": name} for name in removes]
    config = {"image_pre_processing": before, "network_input": NETWORK | network, "post_processing": post}
    config |= {"forward_pass": {"max_dynamic_batch_size": 8}, "class_names_operations": operations or None}
    documents = [Document("model_config.json", model), Document("inference_config.json", config)]
    documents += [Document("class_names.txt", names)] if names else []
    return conclude(model_file(*(outputs or (ROWS,)), shape=FREE), Given(), documents)


def test_a_detector() -> None:
    found = concluded()
    assert not found.refusals
    assert values(found, "input.") | {
        "size": [640, 640],
        "resize": "letterbox",
        "resize_like": "opencv",
        "interpolation": "bilinear",
        "rounding": "floor",
        "letterbox_fill": 127,
        "color": "RGB",
        "scale": 255,
        "mean": [0],
        "std": [1],
    } == values(found, "input.")
    assert (values(found)["task"], values(found)["labels"]) == ("detection", ["cat", "dog"])
    assert values(found)["output.head"] == "yolov8"


@pytest.mark.parametrize(
    ("architecture", "output", "post", "head"),
    [
        ("yolov9", ROWS, NMS, "yolov8"),
        ("yolov11", ROWS, NMS, "yolov8"),
        ("yolov12", ROWS, NMS, "yolov8"),
        ("yolov11", KEPT, NMS | {"fused": True}, "yolov10"),
        ("yolov10", KEPT, None, "yolov10"),
        ("yolo26", KEPT, None, "yolov10"),
        ("yolov5", V5, NMS, "yolov5"),
        ("yolov7", V5, NMS, "yolov5"),
    ],
)
def test_heads(architecture: str, output: TensorInfo, post: Any, head: str) -> None:
    assert values(concluded(output, architecture=architecture, post=post))["output.head"] == head


def test_thresholds() -> None:
    stated = {"max_detections": 300, "confidence_threshold": 0.25, "iou_threshold": 0.45, "class_agnostic": 0}
    found = values(concluded(post=NMS | {"nms_parameters": stated}), "output.")
    assert (found["min_score"], found["nms"]) == (0.25, 0.45)
    found = values(concluded(KEPT, post=NMS | {"fused": True, "nms_parameters": stated}), "output.")
    assert (found["min_score"], found.get("nms")) == (0.25, None)


@pytest.mark.parametrize(
    ("slots", "removes", "background", "labels"),
    [
        (3, (), "last", ["cat", "dog"]),
        (2, ("dog",), "last", ["cat"]),
        (2, ("cat",), "first", ["dog"]),
        (2, (), "none", ["cat", "dog"]),
        (2, ("cat", "dog"), "none", ["cat", "dog"]),
        (3, ("cat",), "last", ["cat", "dog"]),
    ],
)
def test_rf_detr(slots: int, removes, background: str, labels: list[str]) -> None:
    """One slot is no object: that behind the names, or the first or last name, if it is removed."""
    stated = {"architecture": "rfdetr", "post": None, "normalization": IMAGENET}
    found = concluded(DETS, of_queries(slots), removes=removes, **stated)
    assert not found.refusals
    expected = {"head": "rf_detr", "background": background}
    assert values(found, "output.") | expected == values(found, "output.")
    assert values(found)["labels"] == labels
    stays = [name for name in removes if name in labels]
    assert bool(stays) is any(f"boxes of {', '.join(stays)} mean no object" in note for note in found.notes if stays)


def test_preprocessing_of_rf_detr() -> None:
    """Pillow's stretch and its own division by 255, whatever resize_mode and scaling_factor say."""
    stated = {"architecture": "rfdetr", "post": None, "normalization": IMAGENET, "scaling_factor": None}
    found = values(concluded(DETS, of_queries(3), **stated), "input.")
    expected = {"resize": "exact", "resize_like": "pillow", "interpolation": "bilinear", "scale": 255}
    assert found | expected | {"mean": IMAGENET[0], "std": IMAGENET[1]} == found
    assert "letterbox_fill" not in found
    stated |= {"scaling_factor": 1}
    assert values(concluded(DETS, of_queries(3), **stated))["input.scale"] == 255
    stated |= {"normalization": None}
    assert values(concluded(DETS, of_queries(3), **stated))["input.scale"] == 1


@pytest.mark.parametrize(
    ("task", "post", "expected", "kind"),
    [
        ("classification", {"type": "softmax", "fused": False}, "classification", "logits"),
        ("classification", {"type": "softmax", "fused": True}, "classification", "probabilities"),
        ("multi-label-classification", {"type": "sigmoid", "fused": False}, "multilabel", "logits"),
    ],
)
def test_a_classifier(task: str, post: Any, expected: str, kind: str) -> None:
    found = values(concluded(LOGITS, architecture="vit", task=task, post=post, resize_mode="stretch"))
    assert (found["task"], found["output.kind"], found["input.resize"]) == (expected, kind, "exact")


def test_a_segmenter() -> None:
    output = TensorInfo("masks", FLOAT, (1, 2, 64, 64))
    stated = {"architecture": "deep-lab-v3-plus", "task": "semantic-segmentation"}
    found = concluded(output, post={"type": "softmax", "fused": False}, names=["background", "a"], **stated)
    assert (values(found)["task"], values(found)["output.kind"]) == ("segmentation", "logits")
    assert values(found)["output.multilabel"] is False


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"color_mode": "bgr"}, {"color": "BGR"}),
        ({"scaling_factor": None, "normalization": [[127.5], [127.5]]}, {"scale": 1, "mean": [127.5], "std": [127.5]}),
        ({"resize_mode": "stretch"}, {"resize": "exact"}),
        ({"padding_value": None}, {"letterbox_fill": 0}),
        ({"resize_mode": "letterbox-reflect-edges"}, {"resize": "letterbox", "letterbox_fill": 127}),
        ({"training_input_size": {"height": "412", "width": 640}}, {"size": [412, 640]}),
    ],
)
def test_an_input(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    found = concluded(**changes)
    assert not found.refusals
    assert values(found, "input.") | expected == values(found, "input.")
    assert bool(found.notes) is ("reflect" in str(changes))


ON = {"enabled": True}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"resize_mode": "center-crop"}, "resize_mode is center-crop, which tta.yaml can't state; stretch, letterbox"),
        ({"resize_mode": "fit-longer-edge"}, "resize_mode is fit-longer-edge, which tta.yaml can't state"),
        ({"input_channels": 1}, "input_channels is 1; Roboflow's own models have 3"),
        ({"before": {"static-crop": ON | {"x_min": 9}}}, "static-crop cuts images before they are resized"),
        ({"before": {"contrast": ON | {"type": "Contrast Stretching"}}}, "contrast is enabled"),
        ({"before": {"grayscale": ON}}, "grayscale gives grey images in 3 channels"),
        ({"normalization": [[0], [0]]}, "normalization divides by [0.0]; the numbers should be over 0"),
        ({"task": "instance-segmentation"}, "instance-segmentation by yolov8: models of that kind are not served yet"),
        ({"architecture": "yolonas"}, "object-detection by yolonas: models of that kind are not served yet"),
        ({"names": ["a"]}, "object-detection by yolov8 gives [N, 5, M], but the file's output is output0 [n, 6, 8400]"),
        ({"scaling_factor": "half"}, "inference_config.json: network_input.scaling_factor is 'half'"),
        ({"architecture": 8}, "model_config.json: model_architecture is 8; it should be text"),
        ({"post": {"type": "nms", "fused": "maybe"}}, "inference_config.json: post_processing.fused is 'maybe'"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], sentence: str) -> None:
    (refusal,) = concluded(**changes).refusals
    assert sentence in refusal


def test_two_resizes_of_rf_detr_are_refused() -> None:
    stated = {"architecture": "rfdetr", "dataset_version_resize_dimensions": {"height": 480, "width": 640}}
    (refusal,) = concluded(DETS, of_queries(3), **stated).refusals
    assert "two resizes can't be stated in tta.yaml" in refusal
    assert not concluded(DETS, of_queries(3), **stated, resize_mode="stretch").refusals
    (refusal,) = concluded(DETS, of_queries(9), architecture="rfdetr").refusals
    assert "with 2 names gives dets [N, Q, 4] and labels [N, Q, classes], but the file's output is labels" in refusal


ENVIRONMENT: dict[str, Any] = {
    "PREPROCESSING": json.dumps(
        {
            "auto-orient": {"enabled": True},
            "resize": {"width": 96, "height": 64, "format": "Fit (grey edges) in", "enabled": True},
        }
    ),
    "CLASS_MAP": {"0": "cat", "1": "dog"},
    "BATCH_SIZE": 8,
}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Stretch to", {"resize": "exact"}),
        ("Fit (black edges) in", {"resize": "letterbox", "letterbox_fill": 0}),
        ("Fit (white edges) in", {"letterbox_fill": 255}),
        ("Fit (grey edges) in", {"letterbox_fill": 114, "rounding": "floor"}),
        ("Fill (with center crop) in", {"resize": "exact"}),
    ],
)
def test_an_environment(words: str, expected: dict[str, Any]) -> None:
    stated = ENVIRONMENT | {"PREPROCESSING": ENVIRONMENT["PREPROCESSING"].replace("Fit (grey edges) in", words)}
    found = conclude(model_file(shape=FREE), Given(), [Document("environment.json", stated)])
    assert values(found)["labels"] == ["cat", "dog"]
    assert values(found, "input.") | expected | {"size": [64, 96], "color": "RGB"} == values(found, "input.")
    assert any("Roboflow's inference stretches" in note for note in found.notes) is words.startswith("Fill")
    assert {"task", "input.mean", "input.std"} <= {choice.key for choice in found.choices}
    fixed = conclude(model_file(), Given(), [Document("environment.json", stated)])
    assert values(fixed)["input.size"] == [8, 8]
    assert fixed.notes == found.notes


@pytest.mark.parametrize("stated", ["{", [], None, "[" * 100_000])
def test_an_environment_that_is_broken(stated: Any) -> None:
    document = Document("environment.json", {"PREPROCESSING": stated})
    (refusal,) = conclude(model_file(), Given(), [document]).refusals
    assert refusal == "environment.json: PREPROCESSING is no JSON object"


def test_files_of_something_else() -> None:
    others = [{"model_architecture": "llama", "kind": "text"}, {"PATH": "/bin"}, {"type": "x", "task_type": "y"}]
    for content in others:
        found = conclude(model_file(), Given(), [Document("model_config.json", content)])
        assert not found.refusals
        assert found.facts.keys() == {"input.layout", "input.size"}
