"""No false alarm: right declarations of the heads that people export, as tiny graphs, pass every check."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.onnx_models import graph, write_model
from tests.support.references import MODELS
from tta_server import load
from tta_server.repository.loader import find_models, load_model
from tta_server.repository.model import Observed
from tta_server.serving.verification import verify

SIDE = 64
rng = np.random.default_rng(7)
Array = np.ndarray


def softmax(z: Array, axis: int = -1) -> Array:
    e = np.exp(z - z.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def net(**outputs: Array) -> onnx.ModelProto:
    """A model of fixed size whose outputs are these arrays for every image, integers as they are."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Shape", ["nothing"], ["batch"]),
    ]
    constants: dict[str, Array] = {"zero": np.float32(0)}
    infos = []
    for name, array in outputs.items():
        kind = TensorProto.INT64 if array.dtype == np.int64 else TensorProto.FLOAT
        constants |= {
            f"{name} values": array[None] if kind == TensorProto.INT64 else np.float32(array[None]),
            f"{name} rest": np.array(array.shape, np.int64),
        }
        nodes += [
            helper.make_node("Concat", ["batch", f"{name} rest"], [f"{name} size"], axis=0),
            helper.make_node("Expand", [f"{name} values", f"{name} size"], [name]),
        ]
        infos.append(helper.make_tensor_value_info(name, kind, ["n", *array.shape]))
    made = graph(nodes, ("n", 3, SIDE, SIDE), "float32", infos)
    for name, values in constants.items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return made


def corners(count: int) -> Array:
    """Boxes left, top, right, bottom in pixels, (count, 4)."""
    start = rng.uniform(0, SIDE - 20, (count, 2))
    return np.concatenate([start, start + rng.uniform(4, 20, (count, 2))], axis=1)


def centres(count: int) -> Array:
    xyxy = corners(count)
    return np.concatenate([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def end_to_end(found: int) -> Array:
    """[300, 6]: a few boxes with score and class, then rows of zeros."""
    rows = np.zeros((300, 6))
    rows[:found] = np.column_stack([corners(found), rng.uniform(0.3, 0.9, found), rng.integers(0, 3, found)])
    return rows


def columns(*parts: Array) -> Array:
    return np.concatenate(parts, axis=1)


LOGITS = rng.normal(size=3) * 3
MAPS = rng.normal(size=(3, 16, 16)) * 3
QUERIES = rng.normal(size=(20, 3)) - 3
BOXES = {"boxes": "boxes", "scores": "scores"}
HEADS: dict[str, Callable[[], tuple[str, onnx.ModelProto, dict[str, Any]]]] = {
    "classifier": lambda: ("classification", net(y=LOGITS), {"kind": "logits"}),
    "classifier with softmax": lambda: ("classification", net(y=softmax(LOGITS)), {"kind": "probabilities"}),
    "a sure softmax": lambda: ("classification", net(y=np.array([0.0, 1, 0])), {"kind": "probabilities"}),
    "labels": lambda: ("multilabel", net(y=LOGITS), {"kind": "logits"}),
    "labels with sigmoid": lambda: ("multilabel", net(y=sigmoid(LOGITS)), {"kind": "probabilities"}),
    "values": lambda: ("regression", net(y=np.array([0.2, 0.3, 0.5])), {}),
    "embedding": lambda: ("embedding", net(y=LOGITS / np.linalg.norm(LOGITS)), {}),
    "SegFormer": lambda: ("segmentation", net(logits=MAPS), {"kind": "logits"}),
    "DeepLab": lambda: ("segmentation", net(out=rng.normal(size=(3, SIDE, SIDE))), {"kind": "logits"}),
    "masks with softmax": lambda: ("segmentation", net(y=softmax(MAPS, 0)), {"kind": "probabilities"}),
    "masks with sigmoid": lambda: (
        "segmentation", net(y=sigmoid(MAPS)), {"kind": "probabilities", "multilabel": True}
    ),
    "masks with channels last": lambda: (
        "segmentation", net(y=MAPS.transpose(1, 2, 0)), {"kind": "logits", "layout": "NHWC"}
    ),
    "YOLO26-sem": lambda: ("segmentation", net(y=rng.integers(0, 3, (SIDE, SIDE))), {"kind": "classes"}),
    "mmseg with_argmax": lambda: ("segmentation", net(y=rng.integers(0, 3, (1, SIDE, SIDE))), {"kind": "classes"}),
    "class numbers as floats, with 255": lambda: (
        "segmentation", net(y=rng.choice([0.0, 1, 2, 255], (16, 16))), {"kind": "classes"}
    ),
    "one class alone": lambda: ("segmentation", net(y=np.full((16, 16), 2)), {"kind": "classes"}),
    "MaskFormer": lambda: (
        "segmentation",
        net(class_queries_logits=rng.normal(size=(9, 4)) * 3, masks_queries_logits=rng.normal(size=(9, 16, 16)) * 9),
        {"kind": "queries"},
    ),
    "scores with the axes of pooling": lambda: ("classification", net(y=LOGITS[:, None, None]), {"kind": "logits"}),
    "a token for each patch": lambda: ("embedding", net(y=rng.normal(size=(5, 8))), {"token": "first"}),
    "YOLOv8": lambda: (
        "detection",
        net(output0=columns(centres(84), sigmoid(rng.normal(size=(84, 3)) - 2)).T),
        {"rows": "output0", "holds": "box_class_scores", "transposed": True, "format": "cxcywh", "nms": 0.7},
    ),
    "YOLOv8, untrained": lambda: (
        "detection",
        net(output0=columns(centres(84) + rng.normal(size=(84, 4)) * 3, np.full((84, 3), 1e-4)).T),
        {"rows": "output0", "holds": "box_class_scores", "transposed": True, "format": "cxcywh", "nms": 0.7},
    ),
    "YOLOv5": lambda: (
        "detection",
        net(output=columns(centres(252), sigmoid(rng.normal(size=(252, 4)) - 2))),
        {"rows": "output", "holds": "box_objectness_class_scores", "format": "cxcywh", "nms": 0.6},
    ),
    "YOLOv10": lambda: ("detection", net(output0=end_to_end(5)), {"rows": "output0"}),
    "YOLOv10 that finds nothing": lambda: ("detection", net(output0=end_to_end(0)), {"rows": "output0"}),
    "DETR": lambda: (
        "detection",
        net(logits=np.column_stack([QUERIES, np.full(20, 2.0)]), pred_boxes=centres(20) / SIDE),
        {"boxes": "pred_boxes", "scores": "logits", "kind": "logits", "format": "cxcywh", "units": "normalized",
         "background": "last"},
    ),
    "RT-DETR": lambda: (
        "detection",
        net(logits=QUERIES, pred_boxes=centres(20) / SIDE),
        {"boxes": "pred_boxes", "scores": "logits", "kind": "logits", "format": "cxcywh", "units": "normalized"},
    ),
    "torchvision": lambda: (
        "detection",
        net(boxes=corners(6), scores=rng.uniform(0.1, 0.9, 6), labels=rng.integers(1, 4, 6)),
        {**BOXES, "labels": "labels", "first_label": 1},
    ),
    "TensorFlow": lambda: (
        "detection",
        net(boxes=corners(6)[:, [1, 0, 3, 2]] / SIDE, scores=rng.uniform(0.1, 0.9, 6), labels=np.arange(6.0) % 3 + 1),
        {**BOXES, "labels": "labels", "first_label": 1, "format": "yxyx", "units": "normalized"},
    ),
    "NMS inside that finds nothing": lambda: (
        "detection",
        net(boxes=np.zeros((1, 4)), scores=np.zeros(1), labels=np.zeros(1, np.int64)),
        {**BOXES, "labels": "labels"},
    ),
    "heat maps": lambda: ("keypoints", net(heatmaps=sigmoid(MAPS - 6)), {"kind": "heatmaps", "stride": 4}),
    "heat maps of logits": lambda: (
        "keypoints", net(heatmaps=MAPS - 6), {"kind": "heatmaps", "stride": 4, "scores": "logits"}
    ),
    "heat maps that go under 0": lambda: (
        "keypoints", net(heatmaps=sigmoid(MAPS - 6) * 1.1 - 0.05), {"kind": "heatmaps", "stride": 4, "scores": "raw"}
    ),
    "heat maps of random weights": lambda: (
        "keypoints", net(heatmaps=MAPS / 3), {"kind": "heatmaps", "stride": 4, "scores": "raw"}
    ),
    "heat maps, points last": lambda: (
        "keypoints", net(heatmaps=sigmoid(MAPS - 6).transpose(1, 2, 0)), {"kind": "heatmaps", "layout": "NHWC"}
    ),
    "RTMPose": lambda: (
        "keypoints",
        net(simcc_x=rng.normal(0.1, 0.2, (3, 2 * SIDE)), simcc_y=rng.normal(0.1, 0.2, (3, 2 * SIDE))),
        {"kind": "simcc"},
    ),
    "flat points": lambda: ("keypoints", net(y=rng.uniform(5, 60, 6)), {"kind": "coordinates"}),
    "points from -1 to 1": lambda: (
        "keypoints", net(y=np.array([-0.6, -0.3, 0.5, -0.4, 0.1, 0.7])), {"kind": "coordinates", "units": "signed"}
    ),
    "points in pixels": lambda: ("keypoints", net(y=rng.uniform(5, 60, (3, 2))), {"kind": "coordinates"}),
    "points of the size, with confidence": lambda: (
        "keypoints", net(y=rng.uniform(0.1, 0.9, (3, 3))), {"kind": "coordinates", "units": "normalized"}
    ),
}  # fmt: skip


@pytest.fixture(params=HEADS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    task, model, output = HEADS[request.param]()
    config: dict[str, Any] = {"task": task, "input": {"size": [SIDE, SIDE]}, "output": output}
    if task != "embedding":
        config["labels"] = ["a", "b", "c"]
    return write_model(tmp_path / "head", model, config)


def test_a_right_declaration_passes_every_check(folder: Path) -> None:
    assert verify(load_model(folder)) == Observed()


@pytest.mark.parametrize("color", [0, 128, 255, (200, 30, 30)], ids=str)
def test_images_of_one_colour_are_answered_without_a_warning(folder: Path, color: Any) -> None:
    with load(folder, slots=1) as model:
        answer = model.predict(np.full((SIDE, SIDE, 3), color, np.uint8), budget_ms=5000)
    assert answer.receipt.warnings == ()


@pytest.mark.parametrize("folder", find_models(MODELS), ids=lambda path: path.name)
def test_the_bundled_models_pass_every_check(folder: Path) -> None:
    assert verify(load_model(folder)) == Observed()


@pytest.mark.parametrize("path", find_models(MODELS), ids=lambda path: path.name)
@pytest.mark.parametrize("color", [0, 255, (200, 30, 30)], ids=str)
def test_bundled_models_answer_images_of_one_colour_without_a_warning(path: Path, color: Any) -> None:
    with load(path, slots=1) as model:
        answer = model.predict(np.full((96, 96, 3), color, np.uint8), budget_ms=5000, max_views=2)
    assert answer.receipt.warnings == ()
