"""Roboflow's packages: model_config.json, inference_config.json and class_names.txt; environment.json of older ones.

As the package inference-models reads them (roboflow/inference, inference_models/models): the architecture says what
outputs mean (models/*/*_onnx.py), and `fused` that the graph ends with the suppression, softmax or sigmoid; classes of
RF-DETR that class_names_operations removes are no object. Preprocessing is in `roboflow_input`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Note, Refusal
from tta_server.onboarding.model_file import ModelFile, TensorInfo
from tta_server.onboarding.readers.fields import Fields, Threshold, read_fields
from tta_server.onboarding.readers.labels import label_facts, numbered
from tta_server.onboarding.readers.roboflow_input import environment_facts, input_facts

Found = tuple[str, Mapping[str, Any]] | None
"""Name and content of a document."""
CLASSES = "class_names.txt"
RFDETR = "rfdetr"
HEADS = {
    **dict.fromkeys(("yolov8", "yolov9", "yolov11", "yolov12"), "yolov8"),
    **dict.fromkeys(("yolov5", "yolov7"), "yolov5"),
    **dict.fromkeys(("yolov10", "yolo26"), "yolov10"),
}
"""model_architecture of detectors -> output.head, if nothing is fused."""
COLUMNS = {"yolov8": (1, 4), "yolov5": (2, 5), "yolov10": (2, 6)}
"""Head -> the axis of columns, and how many there are besides one a class (yolov10: in all)."""
SCORES = {"classification": "classification", "multi-label-classification": "multilabel"}
"""task_type -> task."""
SEGMENTER = "deep-lab-v3-plus"
SERVED = (
    f"object-detection by {', '.join((*HEADS, RFDETR))}, semantic-segmentation by {SEGMENTER}, classification and "
    "multi-label-classification are"
)


class _Model(Fields):
    model_architecture: str | None = None
    task_type: str | None = None


class _Nms(Fields):
    confidence_threshold: Threshold | None = None
    iou_threshold: Threshold | None = None


class _Post(Fields):
    fused: bool = False
    nms_parameters: _Nms | None = None


class _Removal(Fields):
    class_name: str | None = None


class _Config(Fields):
    post_processing: _Post | None = None
    class_names_operations: list[_Removal] | None = None


@dataclass(frozen=True, slots=True)
class _Package:
    """What the files say besides preprocessing; `names` are those of class_names.txt."""

    source: str
    model: _Model
    config: _Config
    names: list[str]
    file: ModelFile

    @property
    def removed(self) -> list[str]:
        """The names that answers leave out."""
        found = {each.class_name for each in self.config.class_names_operations or ()}
        return [name for name in self.names if name in found]


def read_roboflow(evidence: Evidence) -> Iterator[Finding]:
    """Task, labels, output and input of a package."""
    model, config = evidence.document("model_architecture"), evidence.document("network_input")
    if model and "task_type" not in model[1]:
        model = None
    if model or config:
        yield from _package(evidence, model, config)
    elif environment := evidence.document("PREPROCESSING", "CLASS_MAP"):
        name, content = environment
        names = numbered(content.get("CLASS_MAP"))
        if names:
            yield from label_facts(names, f"{name}: CLASS_MAP, {len(names)} names")
        if "PREPROCESSING" in content:
            yield from environment_facts(name, content["PREPROCESSING"], evidence.file)


def _package(evidence: Evidence, model: Found, config: Found) -> Iterator[Finding]:
    stated = read_fields(_Model, "task", *model) if model else _Model()
    outputs = read_fields(_Config, "output.head", *config) if config else _Config()
    if isinstance(stated, Refusal):
        yield stated
    elif isinstance(outputs, Refusal):
        yield outputs
    else:
        names = next((each.content for each in evidence.documents if each.name == CLASSES), None)
        listed = names if isinstance(names, list) else []
        if model:
            yield from _task(_Package(model[0], stated, outputs, listed, evidence.file))
        if config:
            yield from input_facts(*config, is_rfdetr=stated.model_architecture == RFDETR)


def _task(package: _Package) -> Iterator[Finding]:
    kind, architecture = package.model.task_type, package.model.model_architecture or ""
    source = f"{package.source}: {kind} by {architecture}"
    post = package.config.post_processing
    scores = [] if post is None else [Fact("output.kind", "probabilities" if post.fused else "logits", _fused(post))]
    if kind in SCORES:
        yield Fact("task", SCORES[kind], source)
        yield from scores
    elif kind == "semantic-segmentation" and architecture == SEGMENTER:
        yield Fact("task", "segmentation", source)
        yield Fact("output.multilabel", False, f"{source}: one class a pixel")
        yield from scores
    elif kind == "object-detection" and architecture == RFDETR:
        yield from _queries(package, source)
    elif kind == "object-detection" and architecture in HEADS:
        yield from _rows(package, source, HEADS[architecture])
    else:
        yield Refusal("task", f"{source}: models of that kind are not served yet; {SERVED}")


def _fused(post: _Post) -> str:
    return f"post_processing's fused is {post.fused}"


def _rows(package: _Package, source: str, head: str) -> Iterator[Finding]:
    post = package.config.post_processing or _Post()
    if post.fused:
        head, source = "yolov10", f"{source}, {_fused(post)}"
    output = next(iter(package.file.tensors), None)
    axis, columns = COLUMNS[head]
    columns += 0 if head == "yolov10" else len(package.names)
    if output is None or len(output.sizes) != 3 or (package.names and output.sizes[axis] not in (None, columns)):
        yield _mismatch(source, f"[N, {columns}, M]" if axis == 1 else f"[N, M, {columns}]", output)
        return
    yield Fact("task", "detection", source)
    yield Fact("output.head", head, source)
    if len(package.file.tensors) > 1:
        yield Fact("output.rows", output.name, f"{source}: the first output")
    stated = post.nms_parameters or _Nms()
    if stated.confidence_threshold is not None:
        yield Fact("output.min_score", stated.confidence_threshold, f"{source}: confidence_threshold")
    if stated.iou_threshold is not None and head != "yolov10":
        yield Fact("output.nms", stated.iou_threshold, f"{source}: iou_threshold")


def _mismatch(source: str, expected: str, output: TensorInfo | None) -> Refusal:
    found = "missing" if output is None else f"{output.name} {output.text}"
    return Refusal("task", f"{source} gives {expected}, but the file's output is {found}")


def _queries(package: _Package, source: str) -> Iterator[Finding]:
    """`dets` and `labels`, of whose slots one may be no object: that behind the names, or that of a removed name."""
    outputs = {output.name: output for output in package.file.tensors}
    labels = outputs.get("labels")
    names, removed = package.names, package.removed
    slots = labels.sizes[2] if labels and len(labels.sizes) == 3 else None
    if "dets" not in outputs or slots is None or (names and slots - len(names) not in (0, 1)):
        yield _mismatch(f"{source} with {len(names)} names", "dets [N, Q, 4] and labels [N, Q, classes]", labels)
        return
    yield Fact("task", "detection", source)
    yield Fact("output.head", "rf_detr", source)
    background = "last"
    if slots == len(names):
        place = names.index(removed[0]) if len(removed) == 1 else None
        background = {0: "first", slots - 1: "last"}.get(place, "none") if place is not None else "none"
        if background != "none":
            names, removed = [name for name in names if name not in removed], []
    yield Fact("output.background", background, f"{source}: {slots} slots for {len(names)} names")
    if names:
        yield from label_facts(names, f"{CLASSES}, without those that are no object")
    if removed:
        yield Note(f"{source}: boxes of {', '.join(removed)} mean no object, but are answered with that label")
