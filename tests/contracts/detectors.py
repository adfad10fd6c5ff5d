"""Detectors: heads of heads.md, as their tools export them."""

from typing import Any

import numpy as np
from onnx import TensorProto

from tests.contracts.contract import Asked, Contract, Entry
from tests.contracts.graphs import IMAGENET, Input, finder
from tests.contracts.pictures import FOUND, LABELS, OBJECTS
from tests.support import head_models
from tests.support.exports import FREE, YOLO
from tests.support.head_models import Nodes
from tests.support.heads import cells

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
YOLOX |= {"input.resize_like": "opencv", "task": "detection"}
"""The head is measured."""
SQUASHED = BARE | {"input.resize": "exact"}


def beside(name: str, **others: int) -> Input:
    """An input with others of two numbers an image beside it."""
    return Input(("n", 3, 64, 96), name, others={each: (kind, ("n", 2)) for each, kind in others.items()})


MASKED = Input(
    FREE,
    "pixel_values",
    normal=IMAGENET,
    others={"pixel_mask": (TensorProto.INT64, ("batch", "height", "width"))},
)


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


def lists(n: Nodes) -> dict[str, Any]:
    """boxes [M, 4], labels [M] and scores [M] of one image."""
    made = head_models.torchvision(n)
    for name in ("boxes", "labels", "scores"):
        n.rename(name, f"all {name}")
        n.rename(f"found {name}", name)
    return {name: made[f"found {name}"] for name in ("boxes", "labels", "scores")}


def d_fine(n: Nodes) -> dict[str, Any]:
    made = head_models.d_fine(n)
    n.rename("boxes", "all boxes")
    n.rename("their boxes", "boxes")
    return {"labels": made["labels"], "boxes": made["their boxes"], "scores": made["scores"]}


def rf_detr(n: Nodes) -> dict[str, Any]:
    made = head_models.rf_detr(n)
    n.rename("labels", "all labels")
    n.rename("their labels", "labels")
    return {"dets": made["dets"], "labels": made["their labels"]}


def paddle_nms(n: Nodes) -> dict[str, Any]:
    """As PaddlePaddle's operator names what it gives."""
    made = head_models.paddle(n)
    names = {"bbox": "multiclass_nms3_0.tmp_0", "bbox_num": "multiclass_nms3_0.tmp_2"}
    for old, new in names.items():
        n.rename(old, new)
    return {new: made[old] for old, new in names.items()}


def object_masks(n: Nodes) -> dict[str, Any]:
    """masks [M, 1, H, W] of what is found."""
    n.op("Mul", n.op("Reshape", "scores", n.constant([-1, 1, 1, 1], np.int64)), np.ones((1, 1, 64, 96)), to="masks")
    return {"masks": ["m", 1, 64, 96]}


def named(n: Nodes) -> dict[str, Any]:
    """boxes [N, M, 4], scores [N, M] and labels [N, M]."""
    return {"boxes": ["n", 3, 4], "scores": ["n", 3], "labels": ["n", 3]}


def queries(head: Any, normal: Any = None, shape: Any = FREE) -> Any:
    """An export by Optimum; its head takes fractions of 96x64 or of any other size."""
    source = Input(shape, "pixel_values") if normal is None else Input(shape, "pixel_values", normal=normal)
    return finder(source, head)


def hugging_face(kind: str, architecture: str, processor: dict[str, Any]) -> dict[str, Any]:
    config = {"architectures": [architecture], "model_type": kind, "id2label": ID2LABEL}
    return {"config_json": config, "preprocessor_config_json": processor}


def detector(name: str, model: Any, **given: Any) -> Contract:
    return Contract(name, model, OBJECTS, FOUND, **given)


def yolox(head: Any) -> Any:
    return finder(Input(SHAPE, color="BGR", scale=255), head)


def decoded(n: Nodes) -> dict[str, Any]:
    """The rows of YOLOX with boxes in pixels."""
    made = head_models.yolox(n)
    n.rename("output", "raw")
    middles, strides = (values[None] for values in cells(head_models.INPUT))
    xy = n.op("Add", n.op("Mul", n.columns("raw", 0, 2), strides), middles - strides / 2)
    wh = n.op("Mul", n.op("Exp", n.columns("raw", 2, 4)), strides)
    n.op("Concat", xy, wh, n.columns("raw", 4, 8), axis=2, to="output")
    return made


DETECTORS: list[Entry] = [
    detector("YOLOv8 of Ultralytics", yolo, metadata=YOLO),
    detector("YOLO11, dynamic", lambda: yolo(("batch", 3, "height", "width")), metadata=YOLO),
    detector("YOLO11, nms=True", yolo_with_nms, metadata=YOLO | {"args": "{'nms': True}"}),
    detector("YOLO26, end2end", yolo_with_nms, metadata=YOLO | {"end2end": "True"}),
    detector("YOLOv10, no word of end2end", yolo_with_nms, metadata=YOLO),
    detector("YOLOv5 and v7 of their own", yolov5, metadata=YOLO_V5),
    detector("DETR of Hugging Face", lambda: queries(head_models.detr, IMAGENET),
             files=hugging_face("detr", "DetrForObjectDetection", DETR)),
    detector("DETR with its mask", lambda: finder(MASKED, head_models.detr),
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
    detector("YOLOX, its default export", lambda: yolox(head_models.yolox), typed=YOLOX),
    detector("YOLOX with --decode_in_inference", lambda: yolox(decoded), typed=YOLOX),
    detector("Faster R-CNN of torchvision, one image", lambda: finder(Input((3, 64, 96), "input"), lists),
             typed=BARE, says="without a batch axis are taken for those of torchvision: class 0 is the background"),
    detector("Mask R-CNN of torchvision, its boxes",
             lambda: finder(Input((3, 64, 96), "input"), lists, object_masks), typed=BARE,
             says="the file also gives masks of each object, which are not answered: boxes are"),
    detector("RetinaNet of torchvision, free size", lambda: finder(Input((1, 3, "h", "w"), "input"), lists),
             typed=BARE | {"input.size": "free", "input.resize": "64", "input.max_long_side": "96"}),
    detector("RTMDet of mmdeploy", lambda: finder(Input(SHAPE, "input", color="BGR", scale=255), head_models.mmdeploy),
             typed=BARE | {"input.color": "BGR", "input.scale": "1", "input.letterbox_anchor": "top_left"}),
    detector("D-FINE of its own", lambda: finder(beside("images", orig_target_sizes=TensorProto.INT64), d_fine),
             typed=SQUASHED),
    detector("RT-DETR of PaddleDetection",
             lambda: finder(beside("image", im_shape=TensorProto.FLOAT, scale_factor=TensorProto.FLOAT),
                            head_models.paddle, types={"bbox_num": TensorProto.INT32}),
             typed=SQUASHED),
    detector("PaddleDetection under other names",
             lambda: finder(beside("image", im_shape=TensorProto.FLOAT, scale_factor=TensorProto.FLOAT),
                            paddle_nms, types={"multiclass_nms3_0.tmp_2": TensorProto.INT32}),
             typed=SQUASHED),
    detector("RF-DETR of its own", lambda: finder(Input(SHAPE, "input", normal=IMAGENET), rf_detr,
                                                  types={"labels": TensorProto.FLOAT}),
             typed=SQUASHED | {"input.mean": "[0.485, 0.456, 0.406]", "input.std": "[0.229, 0.224, 0.225]",
                               "input.resize_like": "torch"}),
    detector("TensorFlow's detection API", lambda: finder(Input((1, 64, 96, 3), "input_tensor", "NHWC", "uint8",
                                                                scale=255), head_models.tensorflow),
             typed={"labels": "[red, green, blue]", "input.color": "RGB", "input.resize": "exact"}),
    detector("SSD of OpenVINO",
             lambda: finder(Input(SHAPE, "image", color="BGR", scale=255), head_models.openvino_ssd),
             typed=SQUASHED | {"input.color": "BGR", "input.scale": "1"}),
    detector("boxes, scores and labels of a batch", lambda: finder(Input(SHAPE, "input"), named),
             typed=BARE | {"output.kind": "probabilities", "output.format": "xyxy", "output.units": "pixels",
                           "output.nms": "null"}),
    Asked("rows of a grid without metadata", yolo, "output.head: yolov8; others: docs/tasks.md",
          typed=BARE | {"task": "detection"}),
]  # fmt: skip
