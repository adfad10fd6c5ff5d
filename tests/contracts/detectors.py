"""Detectors: heads of heads.md, as their tools export them."""

from typing import Any

import numpy as np

from tests.contracts.contract import Asked, Contract, Entry
from tests.contracts.graphs import IMAGENET, Input, finder
from tests.contracts.pictures import FOUND, LABELS, OBJECTS
from tests.support import head_models
from tests.support.exports import FREE, YOLO
from tests.support.head_models import Nodes

ID2LABEL = {str(i): name for i, name in enumerate(LABELS)}
SHAPE = (1, 3, 64, 96)
CELLS = 126
"""Of strides 8, 16 and 32 over SHAPE."""
YOLO_V5 = {"stride": "32", "names": YOLO["names"]}
DETR = {
    "image_processor_type": "DetrImageProcessor",
    "format": "coco_detection",
    "do_resize": True,
    "size": {"shortest_edge": 64, "longest_edge": 96},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "do_pad": True,
}
RT_DETR = {
    "image_processor_type": "RTDetrImageProcessor",
    "do_resize": True,
    "size": {"height": 64, "width": 96},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": False,
    "do_pad": False,
}
BARE = {"labels": "[red, green, blue]", "input.resize": "letterbox", "input.color": "RGB", "input.std": "[1]"}
BARE |= {"input.mean": "[0]", "input.scale": "255"}
"""What a file without any description leaves to its user."""
YOLOX = BARE | {"input.color": "BGR", "input.scale": "1", "input.letterbox_anchor": "top_left"}
YOLOX |= {"input.resize_like": "opencv"}


def padded(rows: int, axis: int, output: str = "output0"):
    """A head's rows, of which there are as many as the export has: zeros follow."""

    def make(head: Any) -> Any:
        def maker(n: Nodes) -> dict[str, Any]:
            ((name, shape),) = head(n).items()
            n.rename(name, f"few {name}")
            width = [0, 0, 0, 0, 0, 0]
            width[3 + axis] = rows - shape[axis]
            n.op("Pad", f"few {name}", n.constant(width, np.int64), to=output)
            return {output: [shape[0], *(rows if i == axis else shape[i] for i in (1, 2))]}

        return maker

    return make


def yolo(shape: Any = SHAPE) -> Any:
    return finder(Input(shape), padded(CELLS, 2)(head_models.yolov8))


def yolo_with_nms(shape: Any = SHAPE) -> Any:
    return finder(Input(shape), padded(300, 1)(head_models.yolov10))


def yolov5() -> Any:
    return finder(Input(SHAPE), padded(3 * CELLS, 1)(head_models.yolov5))


def queries(head: Any, normal: Any = None, shape: Any = FREE) -> Any:
    """An export by Optimum; its head takes fractions of 96x64 or of any other size."""
    source = Input(shape, "pixel_values") if normal is None else Input(shape, "pixel_values", normal=normal)
    return finder(source, head)


def hugging_face(kind: str, architecture: str, processor: dict[str, Any]) -> dict[str, Any]:
    config = {"architectures": [architecture], "model_type": kind, "id2label": ID2LABEL}
    return {"config_json": config, "preprocessor_config_json": processor}


def detector(name: str, model: Any, **given: Any) -> Contract:
    return Contract(name, model, OBJECTS, FOUND, **given)


def yolox(decoded: bool) -> Any:
    source = Input(SHAPE, color="BGR", scale=255)
    head = padded(3 * CELLS, 1, "output")(head_models.yolov5) if decoded else head_models.yolox
    return finder(source, head)


DETECTORS: list[Entry] = [
    detector("YOLOv8 of Ultralytics", yolo, metadata=YOLO),
    detector("YOLO11, dynamic", lambda: yolo(("batch", 3, "height", "width")), metadata=YOLO),
    detector("YOLO11, nms=True", yolo_with_nms, metadata=YOLO | {"args": "{'nms': True}"}),
    detector("YOLO26, end2end", yolo_with_nms, metadata=YOLO | {"end2end": "True"}),
    detector("YOLOv10, no word of end2end", yolo_with_nms, metadata=YOLO),
    detector("YOLOv5 and v7 of their own", yolov5, metadata=YOLO_V5),
    detector("DETR of Hugging Face", lambda: queries(head_models.detr, IMAGENET),
             files=hugging_face("detr", "DetrForObjectDetection", DETR)),
    detector("Table Transformer", lambda: queries(head_models.detr, IMAGENET),
             files=hugging_face("table-transformer", "TableTransformerForObjectDetection", DETR)),
    detector("RT-DETR of Hugging Face", lambda: queries(head_models.rt_detr),
             files=hugging_face("rt_detr", "RTDetrForObjectDetection", RT_DETR)),
    detector("RT-DETRv2 of Hugging Face", lambda: queries(head_models.rt_detr),
             files=hugging_face("rt_detr_v2", "RTDetrV2ForObjectDetection", RT_DETR)),
    detector("D-FINE of Hugging Face", lambda: queries(head_models.rt_detr),
             files=hugging_face("d_fine", "DFineForObjectDetection", RT_DETR)),
    detector("Conditional DETR", lambda: queries(head_models.rt_detr, IMAGENET),
             files=hugging_face("conditional_detr", "ConditionalDetrForObjectDetection",
                                DETR | {"image_processor_type": "ConditionalDetrImageProcessor"})),
    detector("Deformable DETR", lambda: queries(head_models.rt_detr, IMAGENET),
             files=hugging_face("deformable_detr", "DeformableDetrForObjectDetection",
                                DETR | {"image_processor_type": "DeformableDetrImageProcessor"})),
    detector("YOLOX, its default export", lambda: yolox(decoded=False), typed=YOLOX | {"output.head": "yolox"}),
    detector("YOLOX, decoded", lambda: yolox(decoded=True), typed=YOLOX | {"output.head": "yolov5"}),
    Asked("YOLOX or YOLOv5", lambda: yolox(decoded=False),
          "output.head: yolox, if boxes are offsets in cells, as YOLOX exports them by default | yolov5",
          typed=YOLOX | {"task": "detection"}),
]  # fmt: skip
