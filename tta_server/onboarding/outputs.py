"""What names and shapes of outputs say together: exports that are known by them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Note, Refusal
from tta_server.onboarding.model_file import ModelFile, Shape
from tta_server.tasks.shapes import fits


@dataclass(frozen=True, slots=True)
class Export:
    """Outputs by name, None for any size, and what follows from them."""

    outputs: Mapping[str, Shape]
    facts: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


LISTS = {"boxes": (None, 4), "scores": (None,), "labels": (None,)}
MANY, VECTORS = (None, None), (None, None)
EXPORTS = (
    Export(
        LISTS,
        {"task": "detection", "output.head": "torchvision"},
        "boxes, scores and labels without a batch axis are taken for those of torchvision: class 0 is the background; "
        "if class 0 is the first label, set output.first_label: 0",
    ),
    Export({"dets": (None, None, 5), "labels": MANY}, {"task": "detection", "output.head": "mmdeploy"}),
    Export({"pred_boxes": (None, None, 4), "logits": (None, None, None)}, {"task": "detection"}),
    Export(
        {"boxes": (None, None, 4), "scores": MANY, "labels": MANY},
        {"task": "detection", "output.boxes": "boxes", "output.scores": "scores", "output.labels": "labels"},
    ),
    Export(
        {"boxes": (None, None, 4), "scores": (None, None, None)},
        {"task": "detection", "output.boxes": "boxes", "output.scores": "scores"},
    ),
    Export({"image_embeds": VECTORS}, {"task": "embedding", "output.name": "image_embeds"}),
)
"""The first that a file has counts."""
BINS = 32
"""Columns of PicoDet's sides of boxes."""


def read_outputs(evidence: Evidence) -> Iterator[Finding]:
    """The facts of an export that is known by its outputs."""
    yield from _distributions(evidence.file)
    for export in EXPORTS:
        if _has(evidence.file, export):
            source = f"the file's outputs {', '.join(export.outputs)}"
            for key, value in export.facts.items():
                yield Fact(key, value, source)
            if export.note:
                yield Note(export.note)
            return


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


def _has(file: ModelFile, export: Export) -> bool:
    found = {output.name: output.sizes for output in file.tensors}
    return all(name in found and fits(found[name], shape) for name, shape in export.outputs.items())
