"""Classifiers, several labels, numbers and vectors: where their preprocessing is stated, and what their outputs are.

An answer shows which part of STRIPES the model saw, and with which colours and normalisation.
"""

from typing import Any

import numpy as np
from onnx import TensorProto

from tests.contracts.contract import Contract, Entry
from tests.contracts.expected import Scores, Values
from tests.contracts.graphs import HALF, IMAGENET, PLAIN, Input, export
from tests.contracts.pictures import LABELS, STRIPES, mean_of_stripes
from tests.support.exports import FREE, YOLO
from tests.support.head_models import Nodes

ID2LABEL = {str(i): name for i, name in enumerate(LABELS)}
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
PROCESSOR: dict[str, Any] = {
    "do_resize": True,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
}
CROPS = {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}}
SQUASH, CROP = 1 / 3, 3 / 16
"""Share of the left colour in all of the image, and in the middle 16 of 30 columns."""
TIMM: dict[str, Any] = {
    "architecture": "resnet18",
    "num_classes": 3,
    "num_features": 512,
    "label_names": list(LABELS),
    "pretrained_cfg": {
        "input_size": [3, 16, 16],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.8,
        "crop_mode": "center",
        "mean": IMAGENET[0],
        "std": IMAGENET[1],
    },
}


def means(n: Nodes) -> str:
    """The mean colour, from 0 to 1, times 4."""
    return n.op("Mul", n.op("ReduceMean", "image", axes=[2, 3], keepdims=0), 4.0)


def logits(name: str = "logits") -> Any:
    def maker(n: Nodes) -> dict[str, Any]:
        n.op("Identity", means(n), to=name)
        return {name: ["n", 3]}

    return maker


def softmaxed(n: Nodes) -> dict[str, Any]:
    n.op("Softmax", means(n), axis=1, to="output0")
    return {"output0": ["n", 3]}


def softmax(share: float) -> tuple[float, ...]:
    e = np.exp(4 * mean_of_stripes(share))
    return tuple(e / e.sum())


def sigmoid(share: float) -> tuple[float, ...]:
    return tuple(1 / (1 + np.exp(-4 * mean_of_stripes(share))))


def seen(share: float) -> Scores:
    probabilities = softmax(share)
    return Scores(probabilities, LABELS[int(np.argmax(probabilities))])


def hugging_face(architecture: str, processor: dict[str, Any], normal: Any, **config: Any) -> dict[str, Any]:
    kind = architecture.partition("For")[0].lower()
    preprocessing = PROCESSOR | {"image_mean": normal[0], "image_std": normal[1]} | processor
    described = {"architectures": [architecture], "model_type": kind, "id2label": ID2LABEL, **config}
    return {"config_json": described, "preprocessor_config_json": preprocessing}


def optimum(normal: Any, maker: Any = None, **source: Any) -> Any:
    """An export with all four axes free."""
    return lambda: export(Input(FREE, "pixel_values", normal=normal, **source), maker or logits())


def classifier(name: str, model: Any, share: float, **given: Any) -> Contract:
    return Contract(name, model, STRIPES, seen(share), **given)


def image_classifier(name: str, share: float, normal: Any, processor: dict[str, Any], **source: Any) -> Contract:
    files = hugging_face(f"{name}ForImageClassification", processor, normal)
    return classifier(f"{name} of Hugging Face", optimum(normal, **source), share, files=files)


BARE = {"task": "classification", "labels": "[red, green, blue]", "output.kind": "logits", "input.color": "RGB"}
BARE |= {"input.scale": "255", "input.mean": "[0.485, 0.456, 0.406]", "input.std": "[0.229, 0.224, 0.225]"}
FIXED = (1, 3, 16, 16)
EMBEDDED = """\
task: classification
labels: [red, green, blue]
input: {size: [16, 16], resize: 20, interpolation: bicubic, color: BGR, scale: 1, mean: [127.5], std: [127.5]}
output: {kind: logits}
"""

CLASSIFIERS: list[Entry] = [
    classifier("timm, centre crop", lambda: export(Input(("n", 3, 16, 16), "input", normal=IMAGENET), logits("output")),
               CROP, files={"config_json": TIMM}),
    classifier("timm, squash", lambda: export(Input(("n", 3, 16, 16), "input", normal=IMAGENET), logits("output")),
               (20 / 3 - 2) / 16,
               files={"config_json": TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | {"crop_mode": "squash"}}}),
    classifier("timm, flat config", lambda: export(Input(("n", 3, 16, 16), "input", normal=HALF), logits("output")),
               CROP, files={"config_json": {**TIMM["pretrained_cfg"], "num_classes": 3, "label_names": list(LABELS),
                                            "mean": HALF[0], "std": HALF[1]}}),
    image_classifier("ViT", SQUASH, HALF, {"image_processor_type": "ViTImageProcessor",
                                           "size": {"height": 20, "width": 20}}),
    image_classifier("DeiT", CROP, IMAGENET, {"image_processor_type": "DeiTImageProcessor",
                                              "size": {"height": 20, "width": 30}, "do_center_crop": True,
                                              "crop_size": {"height": 16, "width": 16}}),
    image_classifier("Beit", SQUASH, HALF, {"image_processor_type": "BeitImageProcessor", "do_center_crop": False,
                                            "size": {"height": 20, "width": 20}}),
    image_classifier("ResNet", CROP, IMAGENET, {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.8,
                                                "size": {"shortest_edge": 16}}),
    image_classifier("Bit", CROP, HALF, {"image_processor_type": "BitImageProcessor", **CROPS}),
    image_classifier("CLIP", CROP, CLIP, {"image_processor_type": "CLIPImageProcessor", **CROPS}),
    image_classifier("Levit", 2 / 7, IMAGENET, {"image_processor_type": "LevitImageProcessor",
                                                "size": {"shortest_edge": 7}, "do_center_crop": True,
                                                "crop_size": {"height": 7, "width": 7}}),
    image_classifier("MobileViT", CROP, PLAIN, {"image_processor_type": "MobileViTImageProcessor",
                                                "do_normalize": None, **CROPS}, color="BGR"),
    classifier("an old feature extractor", optimum(HALF), SQUASH,
               files=hugging_face("ViTForImageClassification", {"feature_extractor_type": "ViTFeatureExtractor",
                                                                "size": 20}, HALF)),
    classifier("processor_config.json of transformers 5", optimum(HALF), SQUASH,
               files={"config_json": hugging_face("ViTForImageClassification", {}, HALF)["config_json"],
                      "processor_config_json": {"image_processor": {
                          **PROCESSOR, "image_processor_type": "ViTImageProcessorFast", "image_mean": HALF[0],
                          "image_std": HALF[1], "size": {"height": 20, "width": 20}}}}),
    Contract("several labels of Hugging Face", optimum(HALF), STRIPES, Scores(sigmoid(SQUASH), "green"),
             files=hugging_face("ViTForImageClassification", {"image_processor_type": "ViTImageProcessor",
                                                              "size": {"height": 20, "width": 20}}, HALF,
                                problem_type="multi_label_classification")),
    Contract("regression of Hugging Face", optimum(HALF), STRIPES, Values("values", tuple(4 * mean_of_stripes(SQUASH))),
             files=hugging_face("ViTForImageClassification", {"image_processor_type": "ViTImageProcessor",
                                                              "size": {"height": 20, "width": 20}}, HALF,
                                problem_type="regression")),
    classifier("YOLO classify", lambda: export(Input((1, 3, 20, 20)), softmaxed), 5 / 20,
               metadata=YOLO | {"task": "classify", "imgsz": "[20, 20]"}),
    classifier("YOLO classify, its batch axis freed", lambda: export(Input((1, 3, 20, 20)), softmaxed), 5 / 20,
               metadata=YOLO | {"task": "classify", "imgsz": "[20, 20]"}, options=("--free-batch",),
               says="the copied file's batch axis is free"),
    classifier("several inputs, scores that are not stated",
               lambda: export(Input(FREE, "pixel_values", normal=HALF,
                                    others={"pixel_mask": (TensorProto.BOOL, ("batch", "height", "width"))}),
                              softmaxed), SQUASH,
               files={"preprocessor_config_json": PROCESSOR | {
                   "image_processor_type": "ViTImageProcessor", "size": {"height": 20, "width": 20},
                   "image_mean": HALF[0], "image_std": HALF[1]}, "labels_txt": "red\ngreen\nblue\n"},
               typed={"task": "classification", "output.kind": "probabilities", "input.layout": "NCHW"}),
    classifier("our own metadata", lambda: export(Input(FIXED, color="BGR", normal=((0.5,) * 3, (0.5,) * 3)),
                                                  logits("x")), CROP, metadata={"tta.yaml": EMBEDDED}),
    classifier("a page's orientation of RapidOCR, labels in metadata",
               lambda: export(Input(("n", 3, 16, 16), "x", normal=IMAGENET), softmaxed), CROP,
               metadata={"character": "\n".join(LABELS)},
               typed={key: value for key, value in BARE.items() if key not in ("labels", "output.kind")}
               | {"output.kind": "probabilities", "input.resize": "20", "input.interpolation": "bicubic"}),
    classifier("torchvision by hand", lambda: export(Input(FIXED, "input", normal=IMAGENET), logits("output")), CROP,
               typed=BARE | {"input.resize": "20", "input.interpolation": "bicubic"}),
    classifier("NHWC, uint8, of TensorFlow",
               lambda: export(Input(("n", 20, 20, 3), "input", "NHWC", "uint8", scale=255), softmaxed), SQUASH,
               files={"labels_txt": "red\ngreen\nblue\n"},
               typed={"task": "classification", "output.kind": "probabilities", "input.color": "RGB",
                      "input.resize": "exact"}),
]  # fmt: skip
