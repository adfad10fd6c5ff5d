"""What names and shapes of outputs say together: exports that are known by them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Note, Refusal
from tta_server.onboarding.model_file import ModelFile, Shape
from tta_server.tasks.shapes import fits


@dataclass(frozen=True, slots=True)
class Export:
    """Outputs by name, None for any size, and what follows from them, if the file has an input of the name `beside`."""

    outputs: Mapping[str, Shape]
    facts: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    beside: str = ""


LISTS = {"boxes": (None, 4), "scores": (None,), "labels": (None,)}
MANY, VECTORS, ROWS = (None, None), (None, None), (None, None, None)
EXPORTS = (
    Export(
        LISTS,
        {"task": "detection", "output.head": "torchvision"},
        "boxes, scores and labels without a batch axis are taken for those of torchvision: class 0 is the background; "
        "if class 0 is the first label, set output.first_label: 0",
    ),
    Export({"dets": (None, None, 5), "labels": MANY}, {"task": "detection", "output.head": "mmdeploy"}),
    Export({"dets": (None, None, 4), "labels": ROWS}, {"task": "detection", "output.head": "rf_detr"}),
    Export(
        {"boxes": (None, None, 4), "scores": MANY, "labels": MANY},
        {"task": "detection", "output.head": "d_fine"},
        beside="orig_target_sizes",
    ),
    Export(
        {
            "detection_boxes": (None, None, 4),
            "detection_scores": MANY,
            "detection_classes": MANY,
            "num_detections": (None,),
        },
        {"task": "detection", "output.head": "tensorflow"},
    ),
    Export({"pred_boxes": (None, None, 4), "logits": ROWS}, {"task": "detection"}),
    Export(
        {"boxes": (None, None, 4), "scores": MANY, "labels": MANY},
        {"task": "detection", "output.boxes": "boxes", "output.scores": "scores", "output.labels": "labels"},
    ),
    Export(
        {"boxes": (None, None, 4), "scores": ROWS},
        {"task": "detection", "output.boxes": "boxes", "output.scores": "scores"},
    ),
    Export(
        {"class_queries_logits": ROWS, "masks_queries_logits": (None, None, None, None)},
        {"task": "segmentation", "output.kind": "queries"},
    ),
    Export({"simcc_x": ROWS, "simcc_y": ROWS}, {"task": "keypoints", "output.kind": "simcc"}),
    Export({"image_embeds": VECTORS}, {"task": "embedding", "output.name": "image_embeds"}),
)
"""The first that a file has counts."""
INTEGERS = ("tensor(uint8)", "tensor(int8)", "tensor(int32)", "tensor(int64)")
OF_OBJECTS = ("masks", "keypoints", "keypoints_scores")
FLOAT = "tensor(float)"
BINS = 32
"""Columns of PicoDet's sides of boxes."""


def read_outputs(evidence: Evidence) -> Iterator[Finding]:
    """The facts of an export that is known by its outputs."""
    yield from _distributions(evidence.file)
    yield from _class_map(evidence.file)
    yield from _one_list(evidence.file)
    for export in EXPORTS:
        if _has(evidence.file, export):
            source = f"the file's outputs {', '.join(export.outputs)}"
            for key, value in export.facts.items():
                yield Fact(key, value, source)
            if export.note:
                yield Note(export.note)
            yield from _left_out(evidence.file, export)
            return
    yield from _owned_points(evidence.file)


def _left_out(file: ModelFile, export: Export) -> Iterator[Note]:
    """What a detector gives beside its boxes, which no answer has."""
    more = [output.name for output in file.tensors if output.name in OF_OBJECTS and output.name not in export.outputs]
    if more and export.facts.get("task") == "detection":
        yield Note(f"the file also gives {' and '.join(more)} of each object, which are not answered: boxes are")


def _owned_points(file: ModelFile) -> Iterator[Refusal]:
    """RTMO: boxes that own points."""
    names = {output.name for output in file.tensors}
    if {"dets", "keypoints"} <= names:
        yield Refusal(
            "task",
            f"the file's outputs {', '.join(sorted(names))} are boxes that own points, as RTMO gives them: these are "
            "not served yet; export a detector, or a model of keypoints for crops of one object",
        )


def _distributions(file: ModelFile) -> Iterator[Refusal]:
    """PicoDet without its post-processing: scores [N, A, C] and sides [N, A, 4 x 8] for each stride."""
    shapes = [output.sizes for output in file.tensors if len(output.sizes) == 3]
    rows = [sorted(shape[1] or 0 for shape in shapes if (shape[2] == BINS) is bins) for bins in (True, False)]
    if len(shapes) == len(file.tensors) >= 6 and rows[0] == rows[1]:
        yield Refusal(
            "task",
            f"the file's {len(shapes)} outputs are scores and distributions of sides for each stride, as PicoDet gives "
            "them without its post-processing; export the model with its post-processing",
        )


def _one_list(file: ModelFile) -> Iterator[Fact]:
    """One list of the boxes of all images: of OpenVINO's SSDs, or of PaddleDetection under any names."""
    shapes = {output.name: output for output in file.tensors}
    if len(shapes) == 1 and fits(file.tensors[0].sizes, (1, 1, None, 7)) and file.tensors[0].sizes[3] == 7:
        source = f"output {file.tensors[0].name} is {file.tensors[0].text}"
        yield Fact("task", "detection", source)
        yield Fact("output.head", "openvino_ssd", source)
    rows = [each.name for each in file.tensors if len(each.sizes) == 2 and each.sizes[1] == 6 and each.type == FLOAT]
    counts = [each.name for each in file.tensors if len(each.sizes) == 1 and each.type in INTEGERS]
    if len(shapes) == 2 and len(rows) == len(counts) == 1:
        source = f"outputs {rows[0]} {shapes[rows[0]].text} and {counts[0]} {shapes[counts[0]].text}"
        yield Fact("task", "detection", source)
        for key, value in (("head", "paddle"), ("rows", rows[0]), ("counts", counts[0])):
            if value not in ("bbox", "bbox_num"):
                yield Fact(f"output.{key}", value, source)


def _class_map(file: ModelFile) -> Iterator[Fact]:
    """Whole numbers for pixels: [N, h, w] or [N, 1, h, w]."""
    found = [
        output
        for output in file.tensors
        if output.type in INTEGERS and (len(output.sizes) == 3 or (len(output.sizes) == 4 and output.sizes[1] == 1))
    ]
    if len(found) == 1:
        source = f"output {found[0].name} is {found[0].text}, {found[0].type}: a class number for each pixel"
        yield Fact("task", "segmentation", source)
        yield Fact("output.kind", "classes", source)
        if len(file.tensors) > 1:
            yield Fact("output.name", found[0].name, source)


def _has(file: ModelFile, export: Export) -> bool:
    found = {output.name: output.sizes for output in file.tensors}
    if export.beside and export.beside not in file.others:
        return False
    return all(name in found and fits(found[name], shape) for name, shape in export.outputs.items())
