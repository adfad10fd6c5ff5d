"""Hugging Face's config.json: the architecture says the task, `id2label` the names."""

import re
from collections.abc import Iterator

from tta_server.onboarding.evidence import Evidence, Fact, Finding, Note, Refusal
from tta_server.onboarding.model_file import ModelFile
from tta_server.onboarding.readers.fields import Fields, read_fields
from tta_server.onboarding.readers.labels import label_facts, numbered
from tta_server.onboarding.readers.shapes import pytorch_layout

PROBLEMS = {
    "multi_label_classification": "multilabel",
    "regression": "regression",
    "single_label_classification": "classification",
}
"""`problem_type` -> task."""
DETECTORS = {
    **dict.fromkeys(("detr", "yolos", "table-transformer"), "detr"),
    **dict.fromkeys(("conditional_detr", "deformable_detr", "dab-detr", "lw_detr", "rf_detr"), "rt_detr"),
    **dict.fromkeys(("rt_detr", "rt_detr_v2", "d_fine", "deimv2"), "rt_detr"),
}
"""`model_type` of detectors -> output.head.

As the post-processing of transformers 5.24 reads their logits: a softmax with a last class for no object, or a sigmoid
and the best pairs of query and class.
"""


QUERIES = ("class_queries_logits", "masks_queries_logits")
VECTORS = ("image_embeds", "pooler_output")
"""Outputs that are a vector for an image, the better first."""
TOKENS = "last_hidden_state"
FIRST_TOKEN = ("vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit")
"""`model_type` whose first token, as it leaves the model, stands for the image."""


class _Config(Fields):
    architectures: list[str] | None = None
    problem_type: str | None = None
    model_type: str | None = None
    id2label: dict[str, str] | list[str] | None = None


def read_huggingface(evidence: Evidence) -> Iterator[Finding]:
    """Task, labels and output of a model with classes for the image, its pixels or its boxes."""
    found = evidence.document("architectures", "id2label", "model_type")
    if found is None or "pretrained_cfg" in found[1]:
        return
    name, config = found[0], read_fields(_Config, "task", *found)
    if isinstance(config, Refusal):
        yield config
        return
    yield from pytorch_layout(evidence.file, f"{name}: Hugging Face's models")
    architecture = (config.architectures or [""])[0]
    head = re.search(r"For([A-Z]\w*?)(WithTeacher)?$", architecture)
    source = f"{name}: architectures has {architecture}"
    if head is None:
        yield from _embedding(config, evidence.file)
        return
    yield from _answers(head.group(1), name, config, source, evidence.file)
    names = numbered(config.id2label)
    if names:
        yield from label_facts(names, f"{name}: id2label, {len(names)} names")


def _answers(head: str, name: str, config: _Config, source: str, file: ModelFile) -> Iterator[Finding]:
    """Task and output of a model whose architecture ends with For and that word."""
    match head:
        case "ImageClassification":
            yield from _classifier(name, config, source, file)
        case "SemanticSegmentation":
            yield Fact("task", "segmentation", source)
            yield Fact("output.multilabel", False, f"{source}: one class a pixel")
            yield from _scores(source, file)
        case "UniversalSegmentation" | "InstanceSegmentation":
            yield from _queries(source, file)
        case "ObjectDetection":
            yield from _detector(config, source, file)
        case "PoseEstimation":
            yield from _pose(source)
        case other:
            yield Refusal(
                "task",
                f"{source}: models for {other} are not served yet; those for ImageClassification, "
                "SemanticSegmentation, UniversalSegmentation and ObjectDetection are",
            )


def _pose(source: str) -> Iterator[Finding]:
    """ViTPose: refused, unless images are stated to be crops of one person."""
    yield Refusal(
        "task",
        f"{source}: it takes the box of one person, enlarged by a quarter, and not an image; find persons with a "
        "detector and crop them first; for images that are such crops state --set task=keypoints",
    )
    yield Fact("output.kind", "heatmaps", source)
    yield Fact("output.scores", "raw", f"{source}: its maps were trained towards probabilities, but may go under 0")


def _embedding(config: _Config, file: ModelFile) -> Iterator[Finding]:
    """The vector of a model without a head: projected, or pooled, or that of a token."""
    shapes = {output.name: output.sizes for output in file.tensors}
    source = f"the file's outputs {', '.join(shapes)}"
    for name in VECTORS:
        if name in shapes and len(shapes[name]) in (2, 4):
            yield Fact("task", "embedding", source)
            yield from _name(name, source, file)
            return
    if TOKENS in shapes and len(shapes[TOKENS]) == 3:
        yield Fact("task", "embedding", source)
        yield from _name(TOKENS, source, file)
        if config.model_type in FIRST_TOKEN:
            yield Fact("output.token", "first", f"model_type {config.model_type}: its first token is the image's")


def _classifier(name: str, config: _Config, source: str, file: ModelFile) -> Iterator[Finding]:
    problem = config.problem_type
    task = PROBLEMS.get(problem or "single_label_classification")
    if task is None:
        yield Refusal("task", f"{name}: problem_type is {problem!r}; known: {', '.join(PROBLEMS)}")
        return
    yield Fact("task", task, f"{source}, problem_type {problem}" if problem else source)
    if task == "regression":
        yield Fact("output.kind", "values", source)
        yield from _name("logits", source, file)
    else:
        yield from _scores(source, file)


def _queries(source: str, file: ModelFile) -> Iterator[Finding]:
    """A class for each pixel, of masks that queries find; not the objects themselves."""
    names = {output.name for output in file.tensors}
    if not set(QUERIES) <= names:
        found = ", ".join(sorted(names))
        yield Refusal("task", f"{source}, with the outputs {found}: served are those with {' and '.join(QUERIES)}")
        return
    yield Fact("task", "segmentation", source)
    yield Fact("output.kind", "queries", f"the file's outputs {', '.join(QUERIES)}")
    yield Note(f"{source}: each pixel gets a class; single objects are not separated")


def _scores(source: str, file: ModelFile) -> Iterator[Finding]:
    yield Fact("output.kind", "logits", f"{source}, which gives logits")
    yield from _name("logits", source, file)


def _name(name: str, source: str, file: ModelFile) -> Iterator[Finding]:
    if len(file.tensors) > 1 and any(output.name == name for output in file.tensors):
        yield Fact("output.name", name, source)


def _detector(config: _Config, source: str, file: ModelFile) -> Iterator[Finding]:
    kind = config.model_type or ""
    names = {output.name for output in file.tensors}
    if kind not in DETECTORS or not {"logits", "pred_boxes"} <= names:
        yield Refusal(
            "task",
            f"{source}, model_type {kind!r}, with the outputs {', '.join(sorted(names))}: a detector of this form is "
            f"not known; known are logits and pred_boxes of {', '.join(DETECTORS)}",
        )
        return
    yield Fact("task", "detection", source)
    head = DETECTORS[kind]
    means = "a softmax, the last class is no object" if head == "detr" else "a sigmoid, the best pairs count"
    yield Fact("output.head", head, f"model_type {kind}: {means}")
