"""Ultralytics' models (AGPL-3.0, at development only) from their architectures, exported and run by their own code."""

import contextlib
import io
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

os.environ.setdefault("YOLO_OFFLINE", "1")
from ultralytics import YOLO

from benchmarks.export_kinds.kinds import Boxes, Export, Pixels, Scores
from benchmarks.export_kinds.torch_export import Images, enliven, spread

logging.getLogger("ultralytics").setLevel(logging.ERROR)
SIDE = 320


def exported(folder: Path, architecture: str, mean: float = 0.0, **options: Any) -> Path:
    """Random weights; logits of classes have this mean."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        model = YOLO(f"{architecture}.yaml", verbose=False)
        _enliven(model.model, mean)
        return folder / Path(model.export(format="onnx", imgsz=SIDE, simplify=False, **options)).name


def _enliven(model: Any, mean: float) -> None:
    """Scores of classes spread around `mean`; sides of boxes are a few strides."""
    head, images = model.model[-1], Images((SIDE, SIDE))
    enliven(model, images)
    spread(model, _last(head, "cv3") or [head.linear], images, mean, 2)
    for layer in _last(head, "cv2"):
        bins = len(layer.bias) // 4
        spread(model, [layer], images, 0, 1 if bins > 1 else 0.3)
        with torch.no_grad():
            layer.bias.copy_(torch.arange(bins).repeat(4) * -0.6 if bins > 1 else torch.full((4,), 3.0))


def _last(head: Any, name: str) -> list[Any]:
    """The last layers of a detector's branches."""
    return [branch[-1] for each in (name, f"one2one_{name}") for branch in getattr(head, each, None) or ()]


def detections(file: Path) -> Any:
    """By Ultralytics' own predictor on the exported file."""
    predictor = YOLO(file, task="detect", verbose=False)

    def expected(image: Pixels) -> Boxes:
        bgr = np.ascontiguousarray(image[..., ::-1])
        found = predictor.predict(bgr, conf=0.25, iou=0.7, imgsz=SIDE, verbose=False, device="cpu")[0]
        names = [found.names[int(index)] for index in found.boxes.cls]
        return Boxes(found.boxes.xyxy.double().numpy(), found.boxes.conf.double().numpy(), names, 0.25)

    return expected


def detect(folder: Path) -> Export:
    file = exported(folder, "yolov8n", -8)
    return Export(file, detections(file))


def detect_nms(folder: Path) -> Export:
    file = exported(folder, "yolo11n", -4, nms=True)
    return Export(file, detections(file))


def detect_end2end(folder: Path) -> Export:
    file = exported(folder, "yolo26n", -3, end2end=True)
    return Export(file, detections(file))


def classify(folder: Path) -> Export:
    file = exported(folder, "yolo11n-cls")
    predictor = YOLO(file, task="classify", verbose=False)

    def expected(image: Pixels) -> Scores:
        bgr = np.ascontiguousarray(image[..., ::-1])
        found = predictor.predict(bgr, imgsz=SIDE, verbose=False, device="cpu")[0]
        return Scores({found.names[index]: float(value) for index, value in enumerate(found.probs.data)})

    return Export(file, expected)


def segment(folder: Path) -> Export:
    return Export(exported(folder, "yolo11n-seg"), refused="masks of single objects")


def pose(folder: Path) -> Export:
    return Export(exported(folder, "yolo11n-pose"), refused="points that belong to boxes")
