"""Masks: a class of each pixel, or labels that are there or not."""

from typing import Any

import numpy as np

from tests.contracts.classifiers import ID2LABEL, PROCESSOR
from tests.contracts.contract import Contract, Entry
from tests.contracts.expected import Mask, Masks
from tests.contracts.graphs import HALF, IMAGENET, Input, export
from tests.contracts.pictures import CLASSES, REGIONS
from tests.support.exports import FREE
from tests.support.head_models import Nodes

SIZE = {"height": 64, "width": 96}
FIXED = (1, 3, 64, 96)
SEGFORMER = {"image_processor_type": "SegformerImageProcessor", "size": SIZE, "do_reduce_labels": False}
BARE = {"task": "segmentation", "labels": "[red, green, blue]", "output.kind": "logits", "input.color": "RGB"}
BARE |= {"input.scale": "255", "input.mean": "[0.485, 0.456, 0.406]", "input.std": "[0.229, 0.224, 0.225]"}
BARE |= {"input.resize": "exact", "output.multilabel": "false"}
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
    Contract("a text detector's map", lambda: export(Input(("n", 3, "h", "w"), "x", color="BGR", normal=HALF),
                                                     green("sigmoid_0.tmp_0")),
             REGIONS, Masks(CLASSES[None] == 1),
             typed=ONE | {"input.size": "free", "input.resize": "none", "input.multiple": "32", "input.color": "BGR",
                          "input.mean": "[0.5]", "input.std": "[0.5]"}),
    Contract("U2Net", lambda: export(Input(FIXED, "input.1", normal=IMAGENET), green("1959"), green("1960")),
             REGIONS, Masks(CLASSES[None] == 1), typed=ONE | {"output.name": "'1959'"}),
]  # fmt: skip
