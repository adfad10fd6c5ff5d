"""Exports that a tool describes in files of its own, or in metadata: mmdeploy, OpenVINO, Roboflow, Triton."""

from typing import Any

from onnx import TensorProto

from tests.contracts.classifiers import CROP, classifier, logits
from tests.contracts.contract import Entry
from tests.contracts.detectors import SHAPE, detector, padded, rf_detr
from tests.contracts.graphs import IMAGENET, Input, export, finder
from tests.contracts.masks import argmaxed, segmenter
from tests.support import head_models
from tests.support.exports import FREE
from tests.support.head_models import Nodes

NAMES = "red\ngreen\nblue\n"
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
PIXELS = (MEAN, STD)
SAMPLED = 7 / 20
"""Share of the left colour in 20 columns that OpenCV takes of 60 without antialiasing: of pixels 1, 4, ... 19, 22."""
NORMALIZE = {"type": "Normalize", "mean": MEAN, "std": STD, "to_rgb": True}


def pipeline(module: str, component: str, *transforms: dict[str, Any], **params: Any) -> dict[str, Any]:
    """pipeline.json of mmdeploy."""
    load = {"type": "LoadImageFromFile", "backend_args": None}
    end = [{"type": "DefaultFormatBundle"}, {"type": "Collect", "keys": ["img"], "meta_keys": ["img_shape"]}]
    tasks: list[dict[str, Any]] = [
        {"type": "Task", "module": "Transform", "name": "Preprocess", "transforms": [load, *transforms, *end]},
        {"type": "Task", "module": "Net", "name": "net", "input_map": {"img": "input"}, "is_batched": True},
        {"type": "Task", "module": module, "name": "postprocess", "component": component, "params": params},
    ]
    return {"pipeline": {"input": ["img"], "output": ["post_output"], "tasks": tasks}}


def mmdeploy(content: dict[str, Any]) -> dict[str, Any]:
    return {"pipeline_json": content, "labels_txt": NAMES}


def openvino(**changes: str) -> dict[str, str]:
    """Metadata as Training Extensions write it."""
    stated = {
        "labels": "red green blue",
        "label_info": '{"label_names": ["red", "green", "blue"]}',
        "mean_values": "123.675 116.28 103.53",
        "scale_values": "58.395 57.12 57.375",
        "resize_type": "standard",
        "reverse_input_channels": "False",
        "multilabel": "False",
        "hierarchical": "False",
    }
    return {f"model_info {key}": value for key, value in (stated | changes).items()}


def roboflow(architecture: str, post: dict[str, Any], **network: Any) -> dict[str, Any]:
    model = {"model_architecture": architecture, "task_type": "object-detection", "backend_type": "onnx"}
    taken = {
        "training_input_size": {"height": 64, "width": 96},
        "dynamic_spatial_size_supported": False,
        "dynamic_spatial_size_mode": None,
        "color_mode": "rgb",
        "resize_mode": "letterbox",
        "padding_value": 114,
        "input_channels": 3,
        "scaling_factor": 255,
        "normalization": None,
    }
    config = {"image_pre_processing": None, "network_input": taken | network, "post_processing": post}
    config |= {"forward_pass": {"static_batch_size": 1}, "class_names_operations": None}
    return {"model_config_json": model, "inference_config_json": config, "class_names_txt": NAMES}


def scored(n: Nodes) -> dict[str, Any]:
    """boxes [N, M, 5] and labels [N, M] of Training Extensions."""
    made = head_models.mmdeploy(n)
    n.rename("boxes", "all boxes")
    n.rename("dets", "boxes")
    return {"boxes": made["dets"], "labels": made["labels"]}


TRITON = """\
name: "mine"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "input" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 16, 16 ] } ]
output [ { name: "output" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
"""
PACKAGES: list[Entry] = [
    detector("RTMDet of mmdeploy, with its pipeline.json",
             lambda: finder(Input((1, 3, 80, 80), "input", scale=255, normal=PIXELS), head_models.mmdeploy),
             files=mmdeploy(pipeline("mmdet", "ResizeBBox", {"type": "Resize", "keep_ratio": True, "size": [80, 80]},
                                     {"type": "Pad", "size": [80, 80], "pad_val": {"img": [114, 114, 114]}},
                                     NORMALIZE, score_thr=0.05))),
    detector("RetinaNet of mmdeploy, free size",
             lambda: finder(Input(("batch", 3, "height", "width"), "input", scale=255, normal=PIXELS),
                            head_models.mmdeploy),
             files=mmdeploy(pipeline("mmdet", "ResizeBBox", {"type": "Resize", "keep_ratio": True, "size": [96, 64]},
                                     NORMALIZE, {"type": "Pad", "size_divisor": 32}, score_thr=0.05))),
    segmenter("mmseg with its argmax",
              lambda: export(Input(SHAPE, "input", scale=255, normal=PIXELS),
                             argmaxed("output", TensorProto.INT64, False), types={"output": TensorProto.INT64}),
              files=mmdeploy(pipeline("mmseg", "ResizeMask",
                                      {"type": "Resize", "keep_ratio": False, "size": [96, 64]}, NORMALIZE))),
    detector("boxes and labels of OpenVINO's Training Extensions",
             lambda: finder(Input(SHAPE, "image", scale=255, normal=PIXELS), scored),
             metadata=openvino(model_type="ssd", task_type="detection", resize_type="fit_to_window_letterbox",
                               pad_value="114", confidence_threshold="0.1")),
    detector("YOLOX of OpenVINO", lambda: finder(Input(SHAPE, "images", color="BGR", scale=255), head_models.yolox),
             metadata={"model_info model_type": "YOLOX", "model_info labels": "red green blue"},
             typed={"input.color": "BGR"}),
    classifier("a classifier of OpenVINO's Training Extensions",
               lambda: export(Input((1, 3, 20, 20), "image", scale=255, normal=PIXELS), logits()), SAMPLED,
               metadata=openvino(model_type="Classification", task_type="classification"),
               typed={"output.kind": "logits"}),
    detector("YOLOv8 of Roboflow", lambda: finder(Input(SHAPE), padded(126, 2)(head_models.yolov8)),
             files=roboflow("yolov8", {"type": "nms", "fused": False, "nms_parameters": None})),
    detector("RF-DETR of Roboflow", lambda: finder(Input(SHAPE, "input", normal=IMAGENET), rf_detr,
                                                   types={"labels": TensorProto.FLOAT}),
             files=roboflow("rfdetr", {"type": "sigmoid", "fused": False}, resize_mode="stretch",
                            normalization=[list(IMAGENET[0]), list(IMAGENET[1])])),
    classifier("a classifier in Triton's repository",
               lambda: export(Input(FREE, "input", normal=IMAGENET), logits("output")), CROP,
               files={"config_pbtxt": TRITON, "labels_txt": NAMES},
               typed={"task": "classification", "output.kind": "logits", "input.resize": "20", "input.color": "RGB",
                      "input.scale": "255", "input.mean": "[0.485, 0.456, 0.406]", "input.interpolation": "bicubic",
                      "input.std": "[0.229, 0.224, 0.225]"}),
]  # fmt: skip
