"""torchvision's weights, by name as in `torchvision:ResNet50_Weights.DEFAULT`: their transforms and categories.

As pytorch/vision (torchvision/transforms/_presets.py) does it to Pillow images: ImageClassification resizes the short
side and crops the centre; SemanticSegmentation resizes the short side; ObjectDetection divides by 255 and no more:
its models resize and normalise themselves (models/detection/transform.py). Their first category is no object, and
repeated names "N/A" are classes of COCO that are not used.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from tta_server.errors import ConfigError
from tta_server.onboarding.evidence import Document, Evidence, Fact, Finding, Note, Refusal
from tta_server.onboarding.model_file import ModelFile, TensorInfo
from tta_server.onboarding.readers.fields import Fields, Number, Side, read_fields
from tta_server.onboarding.readers.labels import label_facts
from tta_server.onboarding.readers.shapes import pytorch_layout

PREFIX = "torchvision:"
KEY = "torchvision transforms"
"""Key of a document's content: the kind of transforms, beside their fields and `categories`."""
FIELDS = ("crop_size", "resize_size", "mean", "std")
EXAMPLE = "ResNet50_Weights.DEFAULT"
KINDS = ("ImageClassification", "SemanticSegmentation", "ObjectDetection")
DETECTED = ("boxes", "labels", "scores")


class _Weights(Fields):
    crop_size: list[Side] | None = None
    resize_size: list[Side] | None = None
    interpolation: str | None = None
    mean: list[Number] | None = None
    std: list[Number] | None = None
    categories: list[str] | None = None


def read_weights(given: str) -> Document:
    """Return what torchvision says of weights; raise ConfigError if it isn't installed, or has none of that name."""
    name = given.removeprefix(PREFIX)
    try:
        weights = _torchvision(given).get_weight(name)
    except (ValueError, KeyError, AttributeError):
        raise ConfigError(
            f"{given}: torchvision has no weights of that name; give one like {PREFIX}{EXAMPLE}"
        ) from None
    transforms = weights.transforms()
    content: dict[str, Any] = {KEY: type(transforms).__name__, "categories": weights.meta.get("categories")}
    content |= {field: getattr(transforms, field, None) for field in FIELDS}
    interpolation = getattr(transforms, "interpolation", None)
    content["interpolation"] = getattr(interpolation, "value", interpolation)
    return Document(f"{PREFIX}{weights}", content)


def _torchvision(given: str) -> ModuleType:
    try:
        return import_module("torchvision.models")
    except ModuleNotFoundError:
        raise ConfigError(
            f"{given}: needs torchvision in the same environment: pip install torchvision; or state what its "
            "documentation says with --set"
        ) from None
    except (ImportError, OSError, RuntimeError) as error:
        line = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{given}: torchvision can't be imported: {line}; install versions of torch and torchvision that belong "
            "together"
        ) from None


def read_torchvision(evidence: Evidence) -> Iterator[Finding]:
    """The facts of a classifier, a segmenter or a detector."""
    found = evidence.document(KEY)
    if found is None:
        return
    name, content = found
    weights = read_fields(_Weights, "task", name, content)
    if isinstance(weights, Refusal):
        yield weights
        return
    match content[KEY]:
        case "ImageClassification":
            yield from _classifier(name, weights)
        case "SemanticSegmentation":
            yield from _segmenter(name, weights, evidence.file)
        case "ObjectDetection":
            yield from _detector(name, weights, evidence.file)
        case other:
            yield Refusal("task", f"{name}: models with transforms {other} are not served; {', '.join(KINDS)} are")
            return
    yield from pytorch_layout(evidence.file, f"{name}: torchvision's models")


def _values(name: str, weights: _Weights) -> Iterator[Finding]:
    yield Fact("input.color", "RGB", f"{name}: torchvision's models take RGB")
    yield Fact("input.scale", 255, f"{name}: its transforms divide by 255")
    for key, values in (("mean", weights.mean or [0]), ("std", weights.std or [1])):
        yield Fact(f"input.{key}", values, f"{name}: {key}")


def _interpolation(name: str, weights: _Weights) -> Iterator[Finding]:
    yield Fact("input.resize_like", "pillow", f"{name}: torchvision resizes images with Pillow")
    if weights.interpolation in ("bilinear", "bicubic", "nearest", "lanczos"):
        yield Fact("input.interpolation", weights.interpolation, f"{name}: interpolation")
    else:
        yield Refusal("input.interpolation", f"{name}: interpolation {weights.interpolation!r} can't be stated")


def _pair(sides: list[int]) -> list[int]:
    """One side as both."""
    return sides * 2 if len(sides) == 1 else sides


def _classifier(name: str, weights: _Weights) -> Iterator[Finding]:
    yield Fact("task", "classification", f"{name}: transforms ImageClassification")
    yield Fact("output.kind", "logits", f"{name}: torchvision's classifiers end with a linear layer")
    if weights.categories:
        yield from label_facts(weights.categories, f"{name}: categories, {len(weights.categories)} names")
    yield from _values(name, weights)
    crop, resize = _pair(weights.crop_size or []), weights.resize_size or []
    if len(crop) != 2 or len(resize) != 1 or resize[0] < max(crop):
        yield Refusal("input.resize", f"{name}: resize_size {resize} and crop_size {crop} can't be stated in tta.yaml")
        return
    yield Fact("input.size", crop, f"{name}: crop_size")
    yield Fact("input.resize", resize[0], f"{name}: resize_size, the short side")
    yield from _interpolation(name, weights)


def _segmenter(name: str, weights: _Weights, file: ModelFile) -> Iterator[Finding]:
    yield Fact("task", "segmentation", f"{name}: transforms SemanticSegmentation")
    yield Fact("output.kind", "logits", f"{name}: torchvision's segmenters end with a convolution")
    yield Fact("output.multilabel", False, f"{name}: one category a pixel")
    if len(file.tensors) > 1 and any(output.name == "out" for output in file.tensors):
        yield Fact("output.name", "out", f"{name}: out; aux is for training")
    if weights.categories:
        yield from label_facts(weights.categories, f"{name}: categories, {len(weights.categories)} names")
    yield from _values(name, weights)
    resize = weights.resize_size or []
    if len(resize) != 1:
        yield Refusal("input.resize", f"{name}: resize_size {resize} can't be stated in tta.yaml")
        return
    yield from _interpolation(name, weights)
    if None in file.size(file.layout or "NCHW"):
        yield Fact("input.size", "free", f"{name}: images are not cropped")
        yield Fact("input.resize", resize[0], f"{name}: resize_size, the short side")
    else:
        yield Note(
            f"{name}: transforms resize the short side to {resize[0]} without a crop, but the file's input "
            f"{file.inputs[0].text} is fixed; state input.resize, or export it with free axes"
        )


def _detector(name: str, weights: _Weights, file: ModelFile) -> Iterator[Finding]:
    outputs = _detected(file)
    if outputs is None:
        found = ", ".join(f"{output.name} {output.text}" for output in file.tensors)
        yield Refusal(
            "task", f"{name}: torchvision's detectors give boxes, labels and scores, but the file gives {found}"
        )
        return
    yield Fact("task", "detection", f"{name}: transforms ObjectDetection")
    yield Fact("output.head", "torchvision", f"{name}: torchvision's detectors")
    for key, output in outputs.items():
        if output.name != key:
            yield Fact(f"output.{key}", output.name, f"the file's output {output.name} is {output.type}{output.text}")
    if weights.categories:
        names = weights.categories[1:]
        yield from label_facts(names, f"{name}: categories without {weights.categories[0]}, {len(names)} names")
    if len(file.tensors) > len(outputs):
        yield Note(f"{name}: masks and points of single objects are left out")
    yield from _values(name, weights)
    if None in file.size(file.layout or "NCHW"):
        yield Fact("input.size", "free", f"{name}: the model itself resizes")
        yield Fact("input.resize", "none", f"{name}: the model itself resizes")


def _detected(file: ModelFile) -> Mapping[str, TensorInfo] | None:
    """The outputs of boxes, labels and scores by name, or else by their form; None if they are not there."""
    named = {output.name: output for output in file.tensors if output.name in DETECTED}
    if len(named) == len(DETECTED):
        return named
    forms: dict[str, list[TensorInfo]] = {key: [] for key in DETECTED}
    for output in file.tensors:
        if len(output.sizes) == 2 and output.sizes[1] == 4:
            forms["boxes"].append(output)
        elif len(output.sizes) == 1:
            forms["labels" if output.type == "tensor(int64)" else "scores"].append(output)
    return {key: found[0] for key, found in forms.items()} if all(len(each) == 1 for each in forms.values()) else None
