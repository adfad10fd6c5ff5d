"""Stand-ins for the files of README's "Your own model": small graphs under the names that its steps use."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.contracts.graphs import HALF, Input, export, finder
from tests.support import head_models
from tests.support.exports import FREE, YOLO, with_metadata, write_export
from tests.support.head_models import Nodes

NAMES = {0: "person", 1: "bicycle", 2: "car"}
METADATA = YOLO | {"imgsz": "[640, 640]", "names": str(NAMES), "args": "{'batch': 1, 'dynamic': True, 'nms': False}"}
CONFIG = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "id2label": {"0": "tabby", "1": "tiger cat", "2": "Egyptian cat"},
}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": list(HALF[0]),
    "image_std": list(HALF[1]),
}


def write_files(folder: Path) -> None:
    """yolo11n.onnx, vit-base/ and photo.jpg."""
    write_export(folder, with_metadata(finder(Input(("batch", 3, "height", "width")), _rows), METADATA), "yolo11n.onnx")
    files = {"config_json": CONFIG, "preprocessor_config_json": PROCESSOR}
    write_export(folder / "vit-base", export(Input(FREE, "pixel_values", normal=HALF), _logits), **files)
    photo = np.zeros((480, 640, 3), np.uint8)
    photo[80:400, 64:224, 0], photo[48:176, 320:480, 1], photo[240:400, 304:592, 2] = 224, 232, 240
    Image.fromarray(photo).save(folder / "photo.jpg", quality=95, subsampling=0)


def _rows(n: Nodes) -> dict[str, Any]:
    """[N, 4 + C, A] with names of axes as Ultralytics gives them."""
    head_models.yolov8(n)
    return {"output0": ["batch", 7, "anchors"]}


def _logits(n: Nodes) -> dict[str, Any]:
    n.op("Mul", n.op("ReduceMean", "image", axes=[2, 3], keepdims=0), 10.0, to="logits")
    return {"logits": ["batch", 3]}
