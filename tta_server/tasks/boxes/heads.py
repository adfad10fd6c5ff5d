"""The heads of detectors: what each gives, as the keys of `output:` that say so. A further head is one entry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, cast

HeadName = Literal[
    "yolox",
    "yolov5",
    "yolov8",
    "yolov10",
    "detr",
    "rt_detr",
    "rf_detr",
    "d_fine",
    "torchvision",
    "mmdeploy",
    "paddle",
    "tensorflow",
    "openvino_ssd",
]
NAMES = ("rows", "boxes", "scores", "labels", "counts")
"""The keys of `output:` that name outputs."""


class Joined(Enum):
    """How one list of rows holds those of all images of a batch."""

    BY_COUNTS = "an output has the number of rows of each image, which follow one another"
    BY_NUMBER = "the first column is the image's number, and -1 behind the last row"


@dataclass(frozen=True, slots=True)
class Head:
    """One kind of output.

    `form` are the keys of `output:` that the head fixes; `usual` are defaults, which tta.yaml may state otherwise.
    `has_scored_boxes`: the fifth column of boxes [N, M, 5] is the score. `has_pairs`: each query may give several
    classes, and the best of all pairs of query and class count, as many as there are queries. `is_batched`: outputs
    have a batch axis; those that lack it are of one image. `joined`: one list has the rows of all images. `are_apart`:
    logits pass a sigmoid each, also where one of the classes is none.
    """

    form: Mapping[str, Any]
    usual: Mapping[str, Any] = field(default_factory=dict)
    has_scored_boxes: bool = False
    has_pairs: bool = False
    is_batched: bool = True
    joined: Joined | None = None
    are_apart: bool = False

    @property
    def has_rows(self) -> bool:
        """Whether one output holds boxes and scores."""
        return "holds" in self.form


CENTRES = {"format": "cxcywh", "units": "pixels", "kind": "probabilities", "background": "none"}
CORNERS = {"format": "xyxy", "units": "pixels", "kind": "probabilities"}
QUERIES = {"format": "cxcywh", "units": "normalized", "kind": "logits"}
LOGITS = {"boxes": "pred_boxes", "scores": "logits"}

NO_HEAD = Head({})
HEADS: Mapping[HeadName, Head] = {
    "yolox": Head(
        {"holds": "box_objectness_class_scores", "transposed": False, **CENTRES}, {"strides": (8, 16, 32), "nms": 0.65}
    ),
    "yolov5": Head({"holds": "box_objectness_class_scores", "transposed": False, **CENTRES}, {"nms": 0.45}),
    "yolov8": Head({"holds": "box_class_scores", "transposed": True, **CENTRES}, {"nms": 0.7}),
    "yolov10": Head({"holds": "box_score_label", "transposed": False, "background": "none", **CORNERS}),
    "detr": Head({**QUERIES, "background": "last"}, LOGITS),
    "rt_detr": Head({**QUERIES, "background": "none"}, LOGITS, has_pairs=True),
    "rf_detr": Head(
        QUERIES, {"boxes": "dets", "scores": "labels", "background": "last"}, has_pairs=True, are_apart=True
    ),
    "d_fine": Head({**CORNERS, "background": "none"}, {"boxes": "boxes", "scores": "scores", "labels": "labels"}),
    "torchvision": Head(
        {**CORNERS, "background": "first"},
        {"boxes": "boxes", "scores": "scores", "labels": "labels"},
        is_batched=False,
    ),
    "mmdeploy": Head({**CORNERS, "background": "none"}, {"boxes": "dets", "labels": "labels"}, has_scored_boxes=True),
    "paddle": Head(
        {"holds": "label_score_box", "transposed": False, "background": "none", **CORNERS},
        {"rows": "bbox", "counts": "bbox_num"},
        joined=Joined.BY_COUNTS,
    ),
    "tensorflow": Head(
        {"format": "yxyx", "units": "normalized", "kind": "probabilities", "background": "none"},
        {
            "boxes": "detection_boxes",
            "scores": "detection_scores",
            "labels": "detection_classes",
            "counts": "num_detections",
            "first_label": 1,
        },
    ),
    "openvino_ssd": Head(
        {
            "holds": "image_label_score_box",
            "transposed": False,
            "format": "xyxy",
            "units": "normalized",
            "kind": "probabilities",
            "background": "none",
        },
        {"first_label": 1},
        joined=Joined.BY_NUMBER,
    ),
}
"""By the value of `output.head`."""


def filled(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of `output:` as stated, with those that its head gives."""
    name = stated.get("head")
    head = HEADS.get(cast("HeadName", name), NO_HEAD) if isinstance(name, str) else NO_HEAD
    return {**head.usual, **head.form, **stated}


def contradiction(name: HeadName, stated: Mapping[str, Any]) -> str:
    """What keys of `output:` state against their head, in a sentence; empty if nothing."""
    head = HEADS[name]
    for key, value in head.form.items():
        if stated[key] != value:
            return (
                f"head {name} means {key}: {_shown(value)}, not {_shown(stated[key])}; remove output.{key}, or state "
                "the output's keys without a head"
            )
    surplus = (
        {"boxes", "scores", "labels"} if head.has_rows else {"rows", *(["scores"] if head.has_scored_boxes else [])}
    )
    surplus |= {"counts"} - head.usual.keys()
    if found := [key for key in NAMES if key in surplus and stated[key] is not None]:
        return f"head {name} has no output.{found[0]}; remove it"
    if missing := [key for key in NAMES if key in head.usual and stated[key] is None]:
        return f"head {name} needs output.{missing[0]}; give it the name of an output"
    if stated["strides"] and "strides" not in head.usual:
        return f"strides are those of head yolox; remove output.strides from head {name}"
    return ""


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
