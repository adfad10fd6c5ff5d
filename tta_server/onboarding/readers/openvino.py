"""OpenVINO's `model_info` in the metadata of an ONNX file: keys `model_info <name>`, with a space.

Written by OpenVINO Training Extensions (open-edge-platform/training_extensions, exporter/base.py,
`_embed_onnx_metadata`) and Model API (open-edge-platform/model_api, adapters/onnx_adapter.py), which read it as its
wrappers do (models/classification.py, segmentation.py, ssd.py, yolo.py, keypoint_detection.py): lists are words between
spaces, `None` means that a key is missing. Preprocessing is in `openvino_input`.
"""

from collections.abc import Callable, Iterator, Mapping

from pydantic import Field

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Note, Refusal
from tta_server.onboarding.model_file import ModelFile, TensorInfo
from tta_server.onboarding.readers.fields import Fields, Threshold, Words, read_fields
from tta_server.onboarding.readers.labels import label_facts
from tta_server.onboarding.readers.openvino_input import SOURCE, InputInfo, input_facts

EXPLAINED = ("saliency_map", "feature_vector")
"""Outputs beside a model's own."""
YOLO = ("yolov5", "yolov8", "yolo11")
"""Wrappers of one kind: rows [N, 4 + C, M]."""
YOLO_DEFAULTS = {
    "resize_type": "fit_to_window_letterbox",
    "pad_value": "114",
    "scale_values": "255.0",
    "confidence_threshold": "0.25",
    "iou_threshold": "0.7",
}
YOLOX_DEFAULTS = {"iou_threshold": "0.65"}
"""Where the file states nothing else."""


class _Info(Fields):
    model_type: str | None = None
    labels: Words | None = None
    confidence_threshold: Threshold = 0.5
    iou_threshold: Threshold = 0.5
    nms_execute: bool = False
    execute_nms: bool = False
    multilabel: bool = False
    hierarchical: bool = False
    label_info: str | None = None
    blur_strength: int = -1
    apply_softmax: bool = True
    tile_size: int | None = Field(None, gt=0)

    @property
    def suppresses(self) -> bool:
        """Whether Model API leaves out duplicates itself."""
        return self.nms_execute or self.execute_nms


def read_openvino(evidence: Evidence) -> Iterator[Finding]:
    """Task, labels, output and input of a model that has `model_info`."""
    content = _content(evidence.file.metadata)
    kind = content.get("model_type", "").lower()
    if not content.keys() & {"model_type", "labels", "mean_values", "scale_values", "resize_type"}:
        return
    content = (YOLO_DEFAULTS if kind in YOLO else YOLOX_DEFAULTS if kind == "yolox" else {}) | content
    info = read_fields(_Info, "task", SOURCE, content)
    pixels = read_fields(InputInfo, "input.resize", SOURCE, content)
    if isinstance(info, Refusal) or isinstance(pixels, Refusal):
        yield from (found for found in (info, pixels) if isinstance(found, Refusal))
        return
    if kind:
        yield from WRAPPERS.get(kind, _unknown)(info, evidence.file)
    if info.tile_size:
        yield Note(
            f"{SOURCE} tile_size is {info.tile_size}: Model API cuts images into tiles; here they are taken whole"
        )
    order = "RGB" if kind in YOLO else pixels.channel_order(given="RGB" if info.label_info else None)
    yield from input_facts(pixels, evidence.file, order, is_yolox=kind == "yolox")


def _content(metadata: Mapping[str, str]) -> dict[str, str]:
    """What is stated, by name without `model_info`."""
    parts = {key: key.split() for key in metadata}
    found = {words[1]: metadata[key] for key, words in parts.items() if len(words) == 2 and words[0] == "model_info"}
    return {name: value for name, value in found.items() if value not in ("None", "")}


def _outputs(file: ModelFile) -> list[TensorInfo]:
    return [output for output in file.tensors if output.name not in EXPLAINED]


def _name(file: ModelFile) -> Iterator[Finding]:
    found = _outputs(file)
    if found and len(file.tensors) > 1:
        yield Fact("output.name", found[0].name, f"{SOURCE}: the first output besides {' and '.join(EXPLAINED)}")


def _labels(info: _Info, classes: int | None = None, first: str = "") -> Iterator[Finding]:
    """The labels; `first` in front of them if the output has one class more."""
    names = info.labels or []
    if first and names and classes == len(names) + 1:
        yield Note(f"{SOURCE} labels has {len(names)} names for {classes} classes; the first class is called {first}")
        names = [first, *names]
    if names:
        yield from label_facts(names, f"{SOURCE} labels, {len(names)} names")


def _unknown(info: _Info, file: ModelFile) -> Iterator[Finding]:
    served = "Classification, Segmentation, SSD, YOLOX, YOLOv5, YOLOv8, YOLO11 and keypoint_detection are"
    yield Refusal(
        "task", f"{SOURCE} model_type is {info.model_type!r}: models of that type are not served yet; {served}"
    )


def _classifier(info: _Info, file: ModelFile) -> Iterator[Finding]:
    if info.hierarchical:
        yield Refusal("task", f"{SOURCE} hierarchical is True: groups of classes are not served yet")
        return
    task = "multilabel" if info.multilabel else "classification"
    yield Fact("task", task, f"{SOURCE} model_type is Classification{', multilabel True' if info.multilabel else ''}")
    yield from _name(file)
    found = _outputs(file)
    yield from _labels(info, found[0].sizes[1] if found and len(found[0].sizes) > 1 else None, "other")
    if info.multilabel:
        yield Fact("output.kind", "logits", "Model API takes the sigmoid of several labels")
        yield Fact("output.threshold", info.confidence_threshold, f"{SOURCE} confidence_threshold")
    else:
        yield Note(
            "Model API tells logits from probabilities by the values of each run; tta.yaml states which they are, as "
            "output.kind"
        )


def _segmenter(info: _Info, file: ModelFile) -> Iterator[Finding]:
    yield Fact("task", "segmentation", f"{SOURCE} model_type is Segmentation")
    yield from _name(file)
    sizes = next((output.sizes for output in _outputs(file)), ())
    classes = sizes[1] if len(sizes) == 4 else None
    if len(sizes) == 3 or classes == 1:
        yield Fact("output.kind", "classes", f"Model API takes an output of {len(sizes)} axes as class numbers")
    else:
        yield Fact("output.multilabel", False, "Model API takes the class with the highest value")
        if info.label_info is not None:
            yield Fact("output.kind", "probabilities", "Training Extensions export a softmax")
    yield from _labels(info, classes, "background")
    if info.blur_strength != -1:
        yield Note(f"{SOURCE} blur_strength is {info.blur_strength}: Model API blurs maps; here they are not")


def _ssd(info: _Info, file: ModelFile) -> Iterator[Finding]:
    yield Fact("task", "detection", f"{SOURCE} model_type is SSD")
    yield from _labels(info)
    yield from _ssd_output(_outputs(file))
    yield Fact("output.min_score", info.confidence_threshold, f"{SOURCE} confidence_threshold, or its default")
    nms = info.iou_threshold if info.suppresses else None
    yield Fact("output.nms", nms, f"{SOURCE}: nms_execute is {info.suppresses}")


def _ssd_output(outputs: list[TensorInfo]) -> Iterator[Finding]:
    """As models/ssd.py tries its parsers: one output of 7 columns; three by name; boxes of 5 columns, and labels."""
    if len(outputs) == 1 and outputs[0].sizes and outputs[0].sizes[-1] == 7:
        yield Fact("output.head", "openvino_ssd", f"output {outputs[0].name} is {outputs[0].text}")
        yield Fact("output.first_label", 0, "Model API counts labels from 0")
        return
    named = {part: [each.name for each in outputs if part in each.name] for part in ("bboxes", "scores", "labels")}
    scored = [each.name for each in outputs if len(each.sizes) == 3 and each.sizes[2] == 5]
    if all(len(found) == 1 for found in named.values()):
        keys = {"boxes": named["bboxes"][0], "scores": named["scores"][0], "labels": named["labels"][0]}
        keys |= {"format": "xyxy", "units": "normalized", "kind": "probabilities"}
        for key, value in keys.items():
            yield Fact(f"output.{key}", value, "Model API's parser of bboxes, scores and labels")
    elif len(scored) == 1 and len(named["labels"]) == 1:
        source = "Model API's parser of boxes with a score, and labels"
        for key, value in (("head", "mmdeploy"), ("boxes", scored[0]), ("labels", named["labels"][0])):
            yield Fact(f"output.{key}", value, source)
    else:
        shapes = ", ".join(f"{each.name} {each.text}" for each in outputs)
        yield Refusal(
            "output.head",
            f"{SOURCE} model_type is SSD, with the outputs {shapes}: known are one output of 7 columns; bboxes, scores "
            "and labels; or boxes [N, M, 5] and labels",
        )


def _rows(head: str, transposed: bool) -> Callable[[_Info, ModelFile], Iterator[Finding]]:
    """A wrapper whose one output has rows of boxes and classes."""

    def read(info: _Info, file: ModelFile) -> Iterator[Finding]:
        source = f"{SOURCE} model_type is {info.model_type}"
        outputs = _outputs(file)
        sizes = outputs[0].sizes if outputs else ()
        columns = len(info.labels or ()) + (4 if transposed else 5)
        if len(sizes) != 3 or (info.labels and sizes[1 if transposed else 2] not in (None, columns)):
            expected = f"[N, {columns}, M]" if transposed else f"[N, M, {columns}]"
            found = outputs[0].text if outputs else "missing"
            yield Refusal("task", f"{source}, which gives {expected}, but the file's output is {found}")
            return
        yield Fact("task", "detection", source)
        yield from _labels(info)
        yield Fact("output.head", head, source)
        if len(file.tensors) > 1:
            yield Fact("output.rows", outputs[0].name, source)
        yield Fact("output.min_score", info.confidence_threshold, f"{SOURCE} confidence_threshold, or its default")
        yield Fact("output.nms", info.iou_threshold, f"{SOURCE} iou_threshold, or its default")

    return read


def _points(info: _Info, file: ModelFile) -> Iterator[Finding]:
    source = f"{SOURCE} model_type is keypoint_detection"
    outputs = _outputs(file)
    if len(outputs) < 2 or any(len(output.sizes) != 3 for output in outputs[:2]):
        yield Refusal("task", f"{source}, which gives two outputs [N, J, 2 W] and [N, J, 2 H], but the file does not")
        return
    yield Fact("task", "keypoints", source)
    yield from _labels(info)
    for key, value in (("kind", "simcc"), ("x", outputs[0].name), ("y", outputs[1].name), ("split", 2)):
        yield Fact(f"output.{key}", value, source)
    if info.apply_softmax:
        yield Note(
            f"{source}: Model API takes a point's score from a softmax of 900 times the output; here it is the smaller "
            "of both maxima"
        )


WRAPPERS: Mapping[str, Callable[[_Info, ModelFile], Iterator[Finding]]] = {
    "classification": _classifier,
    "segmentation": _segmenter,
    "ssd": _ssd,
    "yolox": _rows("yolox", transposed=False),
    "keypoint_detection": _points,
    **dict.fromkeys(YOLO, _rows("yolov8", transposed=True)),
}
"""`model_type` in small letters -> what Model API does with the outputs."""
