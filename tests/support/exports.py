"""Tiny models as exporters write them: heads, metadata and files beside, with outputs that follow from the image."""

import json
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto, helper, save

from tests.support.onnx_models import classifier, detector

YOLO = {
    "author": "Ultralytics",
    "description": "Ultralytics YOLO model",
    "task": "detect",
    "stride": "32",
    "batch": "1",
    "imgsz": "[64, 96]",
    "names": "{0: 'red', 1: 'green', 2: 'blue'}",
    "channels": "3",
    "args": "{'batch': 1, 'half': False, 'nms': False}",
}
"""Metadata of a detector."""
VIT_CONFIG = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "id2label": {"0": "red", "1": "green", "2": "blue"},
}
VIT_PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 8, "width": 8},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.25],
}
TIMM: dict[str, Any] = {
    "architecture": "resnet18",
    "num_classes": 3,
    "label_names": ["n1", "n2", "n3"],
    "label_descriptions": {"n1": "red", "n2": "green", "n3": "blue"},
    "pretrained_cfg": {
        "input_size": [3, 8, 8],
        "crop_pct": 0.8,
        "crop_mode": "center",
        "interpolation": "bilinear",
        "mean": [0.5, 0.25, 0.0],
        "std": [0.5, 0.5, 0.5],
    },
}
FREE = ("batch", "channels", "height", "width")
"""Axes of an export by Optimum."""


def write_export(folder: Path, model: ModelProto, name: str = "model.onnx", **files: Any) -> Path:
    """Write a model file and what lies beside it: JSON or text by name, with _ for the dot."""
    folder.mkdir(parents=True, exist_ok=True)
    save(model, folder / name)
    for key, content in files.items():
        stem, _, ending = key.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{stem}.{ending}").write_text(text)
    return folder / name


def with_metadata(model: ModelProto, values: dict[str, str]) -> ModelProto:
    helper.set_model_props(model, values)
    return model


def yolo(shape=(1, 3, 64, 96)) -> ModelProto:
    """[N, 4 + C, M] as YOLOv8 gives it: the part over 0.5 of each channel, with the channel's maximum as its score."""
    nodes = [
        *_sides(),
        helper.make_node("Concat", ["middle", "sides", "of class"], ["table"], axis=2),
        helper.make_node("Transpose", ["table"], ["output0"], perm=[0, 2, 1]),
    ]
    return _extended(detector(shape), nodes, {"output0": ["n", 7, 3]})


def yolov5(shape=(1, 3, 64, 96)) -> ModelProto:
    """[N, M, 5 + C] of YOLOv5, with an objectness of 0.5."""
    nodes = [
        *_sides(),
        helper.make_node("Mul", ["sides", "zero"], ["zeros"]),
        helper.make_node("Slice", ["zeros", "start of first", "end of one", "last axis"], ["zero column"]),
        helper.make_node("Add", ["zero column", "half"], ["objectness"]),
        helper.make_node("Concat", ["middle", "sides", "objectness", "of class"], ["output0"], axis=2),
    ]
    return _extended(detector(shape), nodes, {"output0": ["n", 3, 8]})


def yolo_with_nms(shape=(1, 3, 64, 96)) -> ModelProto:
    """[N, M, 6]: corners, score, class."""
    nodes = [
        helper.make_node("Unsqueeze", ["most", "last axis"], ["score"]),
        helper.make_node("Cast", ["labels"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "last axis"], ["number"]),
        helper.make_node("Concat", ["boxes", "score", "number"], ["output0"], axis=2),
    ]
    return _extended(detector(shape), nodes, {"output0": ["n", 3, 6]})


def yolo_segment() -> ModelProto:
    """As a YOLO with masks: rows with coefficients, and prototypes."""
    model = yolo()
    model.graph.node.append(helper.make_node("Identity", ["image"], ["output1"]))
    model.graph.output.append(helper.make_tensor_value_info("output1", TensorProto.FLOAT, [1, 3, 64, 96]))
    return with_metadata(model, YOLO | {"task": "segment"})


def rt_detr(shape=(1, 3, 64, 64)) -> ModelProto:
    """`logits` [N, Q, C] before a sigmoid, and `pred_boxes` [N, Q, 4], centres and sides as fractions of the input."""
    nodes = [
        *_sides(),
        helper.make_node("Concat", ["middle", "sides"], ["pixels"], axis=2),
        helper.make_node("Div", ["pixels", "side"], ["pred_boxes"]),
        helper.make_node("Sub", ["of class", "half"], ["centred"]),
        helper.make_node("Mul", ["centred", "ten"], ["logits"]),
    ]
    return _extended(detector(shape), nodes, {"logits": ["n", 3, 3], "pred_boxes": ["n", 3, 4]})


def detr(shape=(1, 3, 64, 64)) -> ModelProto:
    """As `rt_detr`, with logits (N, Q, C + 1) before a softmax, of which the last is no object."""
    model = rt_detr(shape)
    model.graph.node.extend(
        [
            helper.make_node("Slice", ["logits", "start of first", "end of one", "last axis"], ["one column"]),
            helper.make_node("Mul", ["one column", "zero"], ["no object"]),
            helper.make_node("Concat", ["logits", "no object"], ["with no object"], axis=2),
        ]
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("with no object", TensorProto.FLOAT, ["n", 3, 4]))
    return renamed(model, {"logits": "of classes", "with no object": "logits"})


def renamed(model: ModelProto, names: dict[str, str]) -> ModelProto:
    """Other names of values, of inputs and outputs too."""
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    return model


def classifier_of(shape=(1, 3, 8, 8), outputs=("logits",)) -> ModelProto:
    """The means of the channels as logits."""
    return classifier(shape, outputs=outputs)


def softmax_classifier(shape=(1, 3, 8, 8)) -> ModelProto:
    """The softmax of the means of the channels."""
    model = classifier(shape, outputs=("means",))
    model.graph.node.append(helper.make_node("Softmax", ["means"], ["output0"], axis=1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["n", 3]))
    return model


FLOATS = {"zero": 0.0, "side": 64.0, "ten": 10.0}
LISTS = {"start of first": [0], "start of last": [2], "end of one": [1], "end of first": [2], "end of last": [4]}
LISTS |= {"last axis": [2]}


def _sides() -> list[Any]:
    """`middle` and `sides` (n, 3, 2) of `boxes`, and `of class` (n, 3, 3), a row's score for its own class."""
    return [
        helper.make_node("EyeLike", ["of channels"], ["eye"]),
        helper.make_node("Slice", ["boxes", "start of first", "end of first", "last axis"], ["left top"]),
        helper.make_node("Slice", ["boxes", "start of last", "end of last", "last axis"], ["right below"]),
        helper.make_node("Add", ["left top", "right below"], ["twice"]),
        helper.make_node("Mul", ["twice", "half"], ["middle"]),
        helper.make_node("Sub", ["right below", "left top"], ["sides"]),
        helper.make_node("Unsqueeze", ["most", "last axis"], ["score column"]),
        helper.make_node("Mul", ["score column", "eye"], ["of class"]),
    ]


def _extended(model: ModelProto, nodes: list[Any], outputs: dict[str, list[Any]]) -> ModelProto:
    """A detector with more nodes, and other outputs: name -> shape."""
    square = helper.make_tensor("square", TensorProto.FLOAT, [3, 3], [0.0] * 9)
    model.graph.node.extend(
        [
            helper.make_node("Constant", [], ["of channels"], value=square),
            *(helper.make_node("Constant", [], [name], value_float=value) for name, value in FLOATS.items()),
            *(helper.make_node("Constant", [], [name], value_ints=value) for name, value in LISTS.items()),
            *nodes,
        ]
    )
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()
    )
    return model
