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

logging.getLogger("ultralytics").setLevel(logging.ERROR)
SIDE = 320


def exported(folder: Path, architecture: str, bias: float = 0.0, **options: Any) -> Path:
    """Random weights; scores of classes are made to differ by `bias`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(17)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        model = YOLO(f"{architecture}.yaml", verbose=False)
        _enliven(model.model, bias)
        return folder / Path(model.export(format="onnx", imgsz=SIDE, simplify=False, **options)).name


def _enliven(model: Any, bias: float) -> None:
    """Batch normalisation that amplifies, and class scores that spread around a half."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight *= 2
        head = model.model[-1]
        for name in ("cv3", "one2one_cv3"):
            for branch in getattr(head, name, None) or ():
                branch[-1].weight *= 6
                branch[-1].bias.fill_(bias)


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
    file = exported(folder, "yolov8n", -6)
    return Export(file, detections(file))


def detect_nms(folder: Path) -> Export:
    file = exported(folder, "yolo11n", -6, nms=True)
    return Export(file, detections(file))


def detect_end2end(folder: Path) -> Export:
    file = exported(folder, "yolo26n", -6, end2end=True)
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
