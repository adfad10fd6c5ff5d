"""Masks: a class of each pixel, or labels that are there or not."""

from typing import Any

import numpy as np
from onnx import TensorProto

from tests.contracts.classifiers import ID2LABEL, PROCESSOR
from tests.contracts.contract import Contract, Entry
from tests.contracts.expected import Mask, Masks
from tests.contracts.graphs import HALF, IMAGENET, Input, export
from tests.contracts.pictures import CLASSES, REGIONS
from tests.support.exports import FREE, YOLO
from tests.support.head_models import Nodes

SIZE = {"height": 64, "width": 96}
FIXED = (1, 3, 64, 96)
SEGFORMER = {"image_processor_type": "SegformerImageProcessor", "size": SIZE, "do_reduce_labels": False}
BARE = {"task": "segmentation", "labels": "[red, green, blue]", "output.kind": "logits", "input.color": "RGB"}
BARE |= {"input.scale": "255", "input.mean": "[0.485, 0.456, 0.406]", "input.std": "[0.229, 0.224, 0.225]"}
BARE |= {"input.resize": "exact", "output.multilabel": "false"}
UNSEEN = {key: value for key, value in BARE.items() if key not in ("task", "output.kind", "output.multilabel")}
ONE = BARE | {"labels": "[green]", "output.kind": "probabilities"}
del ONE["output.multilabel"]


def maps(name: str = "logits", stride: int = 4, times: float = 10.0) -> Any:
    """Logits (n, 3, h, w): the image, averaged over squares of `stride`."""

    def maker(n: Nodes) -> dict[str, Any]:
        small = n.op("AveragePool", "image", kernel_shape=[stride] * 2, strides=[stride] * 2)
        n.op("Mul", small, times, to=name)
        return {name: ["n", 3, "h", "w"]}

    return maker


def green(name: str) -> Any:
    """Probabilities (n, 1, H, W)."""

    def maker(n: Nodes) -> dict[str, Any]:
        n.op(
            "Sigmoid",
            n.op("Mul", n.op("Sub", n.op("Gather", "image", n.constant([1], np.int64), axis=1), 0.5), 9.0),
            to=name,
        )
        return {name: ["n", 1, *FIXED[2:]]}

    return maker  # fmt: skip


def argmaxed(name: str, kind: int, is_flat: bool) -> Any:
    """Class numbers (n, H, W), or (n, 1, H, W)."""

    def maker(n: Nodes) -> dict[str, Any]:
        n.cast(n.op("ArgMax", "image", axis=1, keepdims=int(not is_flat)), kind, to=name)
        return {name: ["n", *FIXED[2:]] if is_flat else ["n", 1, *FIXED[2:]]}

    return maker


def query_masks(n: Nodes) -> dict[str, Any]:
    """Five queries: one for each class in another order, one that is none, and a weak one."""
    order = n.constant([2, 0, 1, 0, 1], np.int64)
    small = n.op("AveragePool", "image", kernel_shape=[4, 4], strides=[4, 4])
    masks = n.op("Mul", n.op("Sub", n.op("Gather", small, order, axis=1), 0.5), 20.0)
    n.op("Identity", masks, to="masks_queries_logits")
    logits = np.zeros((1, 5, 4))
    for query, label in enumerate((2, 0, 1, 3, 3)):
        logits[0, query, label] = 9
    first = n.op("ReduceMean", "image", axes=[1, 2, 3], keepdims=1)
    nothing = n.op("Squeeze", n.op("Mul", first, 0.0), n.constant([3], np.int64))
    n.op("Add", nothing, logits, to="class_queries_logits")
    return {"class_queries_logits": ["n", 5, 4], "masks_queries_logits": ["n", 5, 16, 24]}


def channels_last(name: str) -> Any:
    """Probabilities (n, H, W, 3)."""

    def maker(n: Nodes) -> dict[str, Any]:
        n.op("Softmax", n.op("Transpose", n.op("Mul", "image", 9.0), perm=[0, 2, 3, 1]), axis=3, to=name)
        return {name: ["n", *FIXED[2:], 3]}

    return maker


def segmenter(name: str, model: Any, **given: Any) -> Contract:
    return Contract(name, model, REGIONS, Mask(CLASSES), **given)


def hugging_face(architecture: str, processor: dict[str, Any], normal: Any) -> dict[str, Any]:
    config = {"architectures": [architecture], "model_type": "x", "id2label": ID2LABEL}
    values = {"image_mean": normal[0], "image_std": normal[1], "resample": 2}
    return {"config_json": config, "preprocessor_config_json": PROCESSOR | values | processor}


MASKS: list[Entry] = [
    segmenter("SegFormer", lambda: export(Input(FREE, "pixel_values", normal=IMAGENET), maps()),
              files=hugging_face("SegformerForSemanticSegmentation", SEGFORMER, IMAGENET)),
    segmenter("UperNet", lambda: export(Input(FREE, "pixel_values", normal=IMAGENET), maps(stride=1)),
              files=hugging_face("UperNetForSemanticSegmentation", SEGFORMER, IMAGENET)),
    segmenter("BEiT", lambda: export(Input(FREE, "pixel_values", normal=HALF), maps()),
              files=hugging_face("BeitForSemanticSegmentation",
                                 {"image_processor_type": "BeitImageProcessor", "do_center_crop": False, "size": SIZE},
                                 HALF)),
    segmenter("DeepLab of torchvision", lambda: export(Input(FIXED, "input", normal=IMAGENET), maps("out", 1),
                                                       maps("aux", 1, -1.0)),
              typed=BARE | {"output.name": "out"}),
    segmenter("U-Net of free size",
              lambda: export(Input(("n", 3, "h", "w"), "input", normal=IMAGENET), maps("output", 1)),
              typed=BARE | {"input.size": "free", "input.resize": "none", "input.multiple": "32"}),
    segmenter("Mask2Former", lambda: export(Input(FREE, "pixel_values", normal=IMAGENET), query_masks),
              files=hugging_face("Mask2FormerForUniversalSegmentation",
                                 {"image_processor_type": "Mask2FormerImageProcessor", "size": SIZE,
                                  "size_divisor": 32}, IMAGENET)),
    segmenter("MaskFormer", lambda: export(Input(FREE, "pixel_values", normal=IMAGENET), query_masks),
              files=hugging_face("MaskFormerForInstanceSegmentation",
                                 {"image_processor_type": "MaskFormerImageProcessor", "size": SIZE}, IMAGENET)),
    segmenter("OneFormer by hand", lambda: export(Input(FIXED, "pixel_values", normal=IMAGENET), query_masks),
              typed=UNSEEN),
    segmenter("YOLO26-sem, argmax in the graph",
              lambda: export(Input(FIXED), argmaxed("output0", TensorProto.UINT8, True),
                             types={"output0": TensorProto.UINT8}),
              metadata=YOLO | {"task": "semantic"}),
    segmenter("YOLO26-sem, logits", lambda: export(Input(FIXED), maps("output0")),
              metadata=YOLO | {"task": "semantic"}),
    segmenter("PaddleSeg, int32 maps",
              lambda: export(Input(FIXED, "x", normal=HALF), argmaxed("argmax_0.tmp_0", TensorProto.INT32, True),
                             types={"argmax_0.tmp_0": TensorProto.INT32}),
              typed=UNSEEN | {"input.mean": "[0.5]", "input.std": "[0.5]"}),
    segmenter("DeepLab of TensorFlow, channels last",
              lambda: export(Input(("n", 64, 96, 3), "input", "NHWC", scale=2, normal=((1, 1, 1), (1, 1, 1))),
                             channels_last("probabilities")),
              typed=BARE | {"output.kind": "probabilities", "input.scale": "127.5", "input.mean": "[1]",
                            "input.std": "[1]"}),
    Contract("a text detector's map", lambda: export(Input(("n", 3, "h", "w"), "x", color="BGR", normal=HALF),
                                                     green("sigmoid_0.tmp_0")),
             REGIONS, Masks(CLASSES[None] == 1),
             typed=ONE | {"input.size": "free", "input.resize": "none", "input.multiple": "32", "input.color": "BGR",
                          "input.mean": "[0.5]", "input.std": "[0.5]"}),
    Contract("U2Net", lambda: export(Input(FIXED, "input.1", normal=IMAGENET), green("1959"), green("1960")),
             REGIONS, Masks(CLASSES[None] == 1), typed=ONE | {"output.name": "'1959'"}),
]  # fmt: skip
