"""torchvision's models, exported by hand; weights' transforms and names are what their documentation states."""

from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.models import detection, segmentation
from torchvision.transforms import _presets as presets

from benchmarks.export_kinds.kinds import Boxes, Export, Mask, Pixels, Scores
from benchmarks.export_kinds.torch_export import LABELS, Images, enliven, export, spread, tensor

IMAGENET = {"input.mean": [0.485, 0.456, 0.406], "input.std": [0.229, 0.224, 0.225]}
COLOURS = {"input.color": "RGB", "input.scale": 255}


def weights(name: str) -> list[str]:
    """Options of `init` that name the weights whose transforms the model was trained with."""
    return ["--from", f"torchvision:{name}"]


def resnet(folder: Path) -> Export:
    """With the transforms of ResNet50_Weights.IMAGENET1K_V2."""
    model = enliven(torchvision.models.resnet18(num_classes=len(LABELS)), Images((224, 224), -2, 2.5))
    transforms = presets.ImageClassification(crop_size=224, resize_size=232)
    axes = {"input": {0: "batch"}, "output": {0: "batch"}}
    names = (["input"], ["output"])
    file = export(model, (torch.rand(1, 3, 224, 224),), folder / "resnet18.onnx", names, axes)

    def expected(image: Pixels) -> Scores:
        with torch.no_grad():
            scores = model(transforms(Image.fromarray(image))[None])[0].softmax(-1)
        return Scores(dict(zip(LABELS, map(float, scores), strict=True)))

    answers = {"task": "classification", "input.resize": 232, "output.kind": "logits", **COLOURS, **IMAGENET}
    return Export(file, expected, answers, LABELS, options=weights("ResNet50_Weights.IMAGENET1K_V2"))


def deeplab(folder: Path) -> Export:
    """With the transforms of its weights: the short side of 520, all of the image."""
    labels = ["__background__", *LABELS]
    model = segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=len(labels), aux_loss=True
    )
    enliven(model, Images((256, 320), -2, 2.5))
    transforms = presets.SemanticSegmentation(resize_size=520)
    free = {0: "batch", 2: "height", 3: "width"}
    axes = {"input": free, "out": free, "aux": free}
    file = export(model, (torch.rand(2, 3, 256, 320),), folder / "deeplab.onnx", (["input"], ["out", "aux"]), axes)

    def expected(image: Pixels) -> Mask:
        with torch.no_grad():
            logits = model(transforms(Image.fromarray(image))[None])["out"]
            whole = torch.nn.functional.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
        return Mask(np.asarray(whole[0].argmax(0)), labels)

    answers = {
        "task": "segmentation",
        "input.size": "free",
        "input.resize": 520,
        "output.name": "out",
        "output.kind": "logits",
        "output.multilabel": False,
        **COLOURS,
        **IMAGENET,
    }
    options = weights("DeepLabV3_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1")
    return Export(file, expected, answers, labels, options=options)


def faster_rcnn(folder: Path) -> Export:
    """Its export takes one image [3, H, W] from 0 to 1, and resizes and normalises in the graph."""
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=1 + len(LABELS), box_score_thresh=0.01
    )
    images = Images((480, 640))
    enliven(model, images)
    rpn, last = model.rpn.head, model.roi_heads.box_predictor
    for layer, deviation in ((rpn.cls_logits, 1), (rpn.bbox_pred, 0.2), (last.cls_score, 2), (last.bbox_pred, 0.5)):
        spread(model, [layer], images, 0, deviation)
    axes = {"image": {1: "height", 2: "width"}, "boxes": {0: "n"}, "labels": {0: "n"}, "scores": {0: "n"}}
    names = (["image"], ["boxes", "labels", "scores"])
    file = export(model, ([torch.rand(3, 480, 640)],), folder / "fasterrcnn.onnx", names, axes)

    def expected(image: Pixels) -> Boxes:
        with torch.no_grad():
            found = model([tensor(image)])[0]
        names = [LABELS[int(label) - 1] for label in found["labels"]]
        return Boxes(found["boxes"].double().numpy(), found["scores"].double().numpy(), names, 0.05)

    answers = {
        "task": "detection",
        "input.size": "free",
        "input.resize": "none",
        "input.mean": [0],
        "input.std": [1],
        "output.head": "torchvision",
        "output.format": "xyxy",
        "output.units": "pixels",
        "output.nms": None,
        "output.kind": "probabilities",
        **COLOURS,
    }
    options = weights("FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1")
    return Export(file, expected, answers, LABELS, options=options)
