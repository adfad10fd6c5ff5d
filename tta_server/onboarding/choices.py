"""What a tta.yaml must state and no evidence says: left to the user, with what is allowed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_server.onboarding.model_file import ModelFile
from tta_server.onboarding.readers.heads import fitting_heads
from tta_server.tasks import TASKS
from tta_server.tasks.boxes.heads import HEADS
from tta_server.tasks.points.sides import names_side

Values = Mapping[str, Any]
"""Key of tta.yaml, as in `input.size` -> value."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A key that nothing states, and what is allowed for it."""

    key: str
    allowed: str


@dataclass(frozen=True, slots=True)
class _Rule:
    key: str
    is_needed: Callable[[Values, ModelFile], bool]
    allowed: Callable[[Values, ModelFile], str]


KINDS = {
    "classification": "logits | probabilities",
    "multilabel": "logits | probabilities",
    "segmentation": "logits | probabilities | classes | queries",
    "regression": "values | log | log1p",
    "keypoints": "heatmaps | coordinates | simcc",
    "None": "depends on the task: docs/tasks.md",
}
"""Task, None if it is not known -> allowed for output.kind."""
NAMED = ("simcc", "queries")
"""output.kind of several outputs, which have keys of their own."""
LABELS = "a list of names in the order of the outputs, or the name of a text file beside tta.yaml (--labels FILE)"
BY_RANK = {
    2: "classification | multilabel | regression | embedding",
    3: "detection | keypoints",
    4: "segmentation | keypoints",
}
"""Axes of the output -> tasks that may have it."""


def _tasks(values: Values, file: ModelFile) -> str:
    ranks = {len(output.shape) for output in file.tensors}
    return BY_RANK.get(ranks.pop(), "") or " | ".join(TASKS) if len(ranks) == 1 else " | ".join(TASKS)


def _resizes(values: Values, file: ModelFile) -> str:
    if values.get("input.size") == "free":
        return "none | a number, the short side's length"
    task = TASKS.get(str(values.get("task")))
    crops = " | cover | a number, the short side's length before a crop" if task is None or task.sees_crops else ""
    return f"exact | letterbox{crops}"


def _has_labels(values: Values, file: ModelFile) -> bool:
    task = TASKS.get(str(values.get("task")))
    return task is None or bool(task.labels_are)


def _is_float(values: Values, file: ModelFile) -> bool:
    return file.inputs[0].type != "tensor(uint8)"


def _is(task: str) -> Callable[[Values, ModelFile], bool]:
    return lambda values, file: values.get("task") == task


def _has_name(values: Values, file: ModelFile) -> bool:
    return len(file.tensors) > 1 and values.get("task") != "detection" and values.get("output.kind") not in NAMED


def _has_head(values: Values, file: ModelFile) -> bool:
    """Whether a detector states nothing of how it gives boxes."""
    stated = {"output.head", "output.rows", "output.boxes"} & values.keys()
    return values.get("task") == "detection" and not stated


def _has_several_rows(values: Values, file: ModelFile) -> bool:
    head = HEADS.get(values.get("output.head", ""))
    names = {output.name for output in file.tensors}
    return bool(head and head.has_rows and len(names) > 1 and head.usual.get("rows") not in names)


def _is_spelled_out(values: Values, file: ModelFile) -> bool:
    """Whether a detector states its form without a head."""
    return (
        values.get("task") == "detection"
        and bool({"output.rows", "output.boxes"} & values.keys())
        and ("output.head" not in values)
    )


def _has_kind(values: Values, file: ModelFile) -> bool:
    return str(values.get("task")) in KINDS or _is_spelled_out(values, file)


def _has_holds(values: Values, file: ModelFile) -> bool:
    return _is_spelled_out(values, file) and "output.rows" in values


def _has_units(values: Values, file: ModelFile) -> bool:
    return _is_spelled_out(values, file) or values.get("output.kind") == "coordinates"


def _may_overlap(values: Values, file: ModelFile) -> bool:
    return values.get("task") == "segmentation" and values.get("output.kind") not in ("classes", "queries")


def _units(values: Values, file: ModelFile) -> str:
    signed = " | signed, from -1 to 1 across it" if values.get("task") == "keypoints" else ""
    return f"pixels | normalized, fractions of the input's size{signed}"


def _has_scores(values: Values, file: ModelFile) -> bool:
    """Whether points have a score whose unit is not known: heat maps, or a third coordinate."""
    if values.get("task") != "keypoints" or values.get("output.kind") == "simcc":
        return False
    last = [output.sizes[-1] for output in file.tensors if len(output.sizes) == 3]
    return values.get("output.kind") != "coordinates" or 3 in last


def _has_sides(values: Values, file: ModelFile) -> bool:
    labels = values.get("labels")
    sided = [label for label in labels if names_side(str(label))] if isinstance(labels, list) else []
    return values.get("task") == "keypoints" and bool(sided)


def _has_tokens(values: Values, file: ModelFile) -> bool:
    """Whether an embedding is read of an output with a vector for each token."""
    name = values.get("output.name")
    read = [output for output in file.tensors if name in (None, output.name)]
    return values.get("task") == "embedding" and len(read) == 1 and len(read[0].sizes) == 3


def _fixed(text: str) -> Callable[[Values, ModelFile], str]:
    return lambda values, file: text


def _always(values: Values, file: ModelFile) -> bool:
    return True


RULES: Sequence[_Rule] = (
    _Rule("task", _always, _tasks),
    _Rule("labels", _has_labels, _fixed(LABELS)),
    _Rule("input.size", _always, _fixed("[height, width] | free")),
    _Rule("input.resize", _always, _resizes),
    _Rule("input.layout", _always, _fixed("NCHW | NHWC")),
    _Rule("input.color", _always, _fixed("RGB | BGR | grey")),
    _Rule("input.scale", _is_float, _fixed("255, for mean and std of values from 0 to 1 | 1, of values to 255")),
    _Rule("input.mean", _is_float, _fixed("a number a channel: [0] | [0.485, 0.456, 0.406] (ImageNet) | [0.5] | ...")),
    _Rule("input.std", _is_float, _fixed("a number a channel: [1] | [0.229, 0.224, 0.225] (ImageNet) | [0.5] | ...")),
    _Rule("output.name", _has_name, lambda values, file: " | ".join(output.name for output in file.tensors)),
    _Rule("output.head", _has_head, lambda values, file: f"{fitting_heads(values, file)}; others: docs/tasks.md"),
    _Rule("output.rows", _has_several_rows, lambda values, file: " | ".join(output.name for output in file.tensors)),
    _Rule("output.kind", _has_kind, lambda values, file: KINDS.get(str(values.get("task")), "logits | probabilities")),
    _Rule("output.multilabel", _may_overlap, _fixed("false, one class a pixel | true, labels may overlap")),
    _Rule("output.holds", _has_holds, _fixed("box_score_label | box_class_scores | box_objectness_class_scores")),
    _Rule("output.format", _is_spelled_out, _fixed("xyxy | yxyx | xywh | cxcywh")),
    _Rule("output.units", _has_units, _units),
    _Rule("output.nms", _is_spelled_out, _fixed("null, if the model leaves out duplicates itself | an IoU, as 0.7")),
    _Rule("output.token", _has_tokens, _fixed("first, a class token as of ViT and CLIP | mean, of all tokens")),
    _Rule("output.pairs", _has_sides, _fixed("labels that change places in a mirror image, as [[left, right]] | []")),
    _Rule("output.scores", _has_scores, _fixed("logits | probabilities | raw, which are clipped to [0, 1]")),
)
"""In the order of tta.yaml."""


def find_choices(values: Values, file: ModelFile) -> Iterator[Choice]:
    """The keys that are needed, and that no value states."""
    for rule in RULES:
        if rule.key not in values and rule.is_needed(values, file):
            yield Choice(rule.key, rule.allowed(values, file))
