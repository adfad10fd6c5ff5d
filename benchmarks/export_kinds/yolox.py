"""YOLOX from its sdist on PYTHONPATH, exported as its tools/export_onnx.py does it, with and without decoding."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from yolox.data.data_augment import preproc
from yolox.models import YOLOPAFPN, YOLOX, YOLOXHead
from yolox.models.network_blocks import SiLU
from yolox.utils import postprocess, replace_module

from benchmarks.export_kinds.kinds import YOLOX_PIXELS, Boxes, Export, Pixels
from benchmarks.export_kinds.torch_export import LABELS, Images, enliven, export, spread

SIZE = (224, 320)
ANSWERS: dict[str, Any] = {
    **YOLOX_PIXELS,
    "output.rows": "output",
    "output.holds": "box_objectness_class_scores",
    "output.format": "cxcywh",
    "output.units": "pixels",
    "output.nms": 0.65,
    "output.kind": "probabilities",
}
"""What its documentation and demo state."""


OWN = {
    "input.resize_like": "opencv",
    "input.rounding": "floor",
    "input.letterbox_anchor": "top_left",
    "output.nms": 0.65,
}
"""What `init` knows of raw grids, but does not ask where it may be another detector."""


def raw(folder: Path) -> Export:
    return _export(folder, False, ANSWERS | {"output.head": "yolox"}, {})


def decoded(folder: Path) -> Export:
    return _export(folder, True, ANSWERS | {"output.head": "yolov5"}, OWN)


def _export(folder: Path, decodes: bool, answers: dict[str, Any], stated: dict[str, Any]) -> Export:
    model = _model()
    model.head.decode_in_inference = decodes
    file = export(model, (torch.rand(1, 3, *SIZE),), folder / "yolox_nano.onnx", (["images"], ["output"]), None)
    model.head.decode_in_inference = True

    def expected(image: Pixels) -> Boxes:
        """As `Predictor` of tools/demo.py, but for the ratio of sizes: it takes that before sides are floored, so that
        its boxes lie up to 0.3 % aside."""
        pixels, ratio = preproc(np.ascontiguousarray(image[..., ::-1]), SIZE)
        height, width = image.shape[:2]
        ratios = [int(width * ratio) / width, int(height * ratio) / height] * 2
        with torch.no_grad():
            rows = postprocess(model(torch.from_numpy(pixels)[None]), len(LABELS), 0.05, 0.65)[0]
        found = np.zeros((0, 7)) if rows is None else rows.double().numpy()
        names = [LABELS[int(index)] for index in found[:, 6]]
        return Boxes(found[:, :4] / ratios, found[:, 4] * found[:, 5], names, 0.05).within(width, height)

    return Export(file, expected, answers, LABELS, stated=stated)


def _model() -> Any:
    channels = [256, 512, 1024]
    head = YOLOXHead(len(LABELS), 0.125, in_channels=channels, depthwise=True)
    model = YOLOX(YOLOPAFPN(0.33, 0.125, in_channels=channels, depthwise=True), head)
    images = Images(SIZE, 0, 255)
    enliven(model, images)
    for branches, mean in ((head.cls_preds, 0), (head.obj_preds, -4), (head.reg_preds, 0.5)):
        spread(model, list(branches), images, mean, 1)
    return replace_module(model, torch.nn.SiLU, SiLU)
