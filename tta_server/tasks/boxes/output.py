"""The formats in which detectors give boxes, scores and classes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from tta_server.tasks.base import FORBID_EXTRA
from tta_server.tasks.boxes.heads import HEADS, NO_HEAD, Head, HeadName, contradiction, filled

FUSION_IOU = 0.55
"""Overlap of boxes of one object, unless the model's own suppression is stated and leaves boxes that overlap more."""


Holds = Literal[
    "box_score_label",
    "box_class_scores",
    "box_objectness_class_scores",
    "label_score_box",
    "image_label_score_box",
]
NUMBERED: Mapping[str, str] = {
    "box_score_label": "sixth",
    "label_score_box": "first",
    "image_label_score_box": "second",
}
"""Where rows hold a class number: which column."""


@dataclass(frozen=True, slots=True)
class BoxesOutput:
    """`output:` of a detector.

    Either `boxes` [N, M, 4] with `scores` [N, M] and `labels` [N, M], or with `scores` [N, M, C] of each class; or one
    tensor `rows` [N, M, columns], `transposed` if [N, columns, M], whose columns `holds` names. `counts` [N] are how
    many of an image's M rows are boxes, the first ones; others pad. `format` and `units`
    are those of boxes: `normalized` boxes are fractions of the input's size. `background` is the place of the class
    that means no object, if the model has one, which `labels` leaves out: scores of classes are then C + 1, and logits
    pass a softmax instead of a sigmoid. `first_label` is the class number of the first label: by default 0, or 1 behind
    a background. Boxes under `min_score` are left out. `nms` is the overlap from which a box of the same class with a
    lower score is left out, for models that do no suppression themselves. Boxes of several views that overlap by more
    than `iou` are of one object; by default FUSION_IOU, or `nms` if that is more: a smaller one would fuse neighbours
    that the model keeps apart. `max_boxes` are kept of each view, and of the merged ones.

    Or `head` names an entry of HEADS, which gives most of these keys; `strides` are those of the grids in which the
    head yolox gives boxes. `of` and tta.yaml fill them in.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    boxes: str | None = None
    scores: str | None = None
    labels: str | None = None
    rows: str | None = None
    counts: str | None = None
    holds: Holds = "box_score_label"
    transposed: bool = False
    format: Literal["xyxy", "yxyx", "xywh", "cxcywh"] = "xyxy"
    units: Literal["pixels", "normalized"] = "pixels"
    kind: Literal["probabilities", "logits"] = "probabilities"
    first_label: int | None = None
    background: Literal["first", "last", "none"] = "none"
    min_score: float = 0.05
    nms: float | None = None
    iou: float | None = None
    max_boxes: int = 300
    head: HeadName | None = None
    strides: tuple[int, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, stated: Any) -> Any:
        return filled(stated) if isinstance(stated, dict) else stated

    @classmethod
    def of(cls, **stated: Any) -> "BoxesOutput":
        """As tta.yaml states it: with the keys that its head gives."""
        return cls(**filled(stated))

    def __post_init__(self) -> None:
        self._check_head()
        for key in ("min_score", "iou", "nms"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{key} takes a number of at least 0 and under 1, not {value:g}")
        if self.max_boxes < 1:
            raise ValueError(f"max_boxes takes a whole number of at least 1, not {self.max_boxes}")

    def _check_head(self) -> None:
        """Raises ValueError for keys that do not fit each other, or their head."""
        if self.head is not None:
            if mistake := contradiction(self.head, asdict(self)):
                raise ValueError(mistake)
            is_rising = list(self.strides) == sorted({stride for stride in self.strides if stride > 0})
            if "strides" in self.shape.usual and not (self.strides and is_rising):
                raise ValueError(f"strides takes pixels in rising order, like [8, 16, 32], not {list(self.strides)}")
            return
        if self.strides:
            raise ValueError("strides are those of head yolox; set output.head: yolox, or remove output.strides")
        if self.holds == "image_label_score_box":
            raise ValueError("holds image_label_score_box is that of head openvino_ssd; set output.head: openvino_ssd")
        if (self.rows is None) == (self.boxes is None or self.scores is None):
            raise ValueError("names either rows, or boxes and scores (and labels)")
        if self.rows is not None and (self.boxes or self.scores or self.labels):
            raise ValueError("rows names the one tensor that holds all; leave out boxes, scores and labels")

    @property
    def shape(self) -> Head:
        """What the head's outputs are like."""
        return NO_HEAD if self.head is None else HEADS[self.head]

    @property
    def parts(self) -> tuple[str, ...]:
        """The keys that name outputs."""
        has_rows = self.rows or self.shape.has_rows
        found = ("rows",) if has_rows else tuple(key for key in ("boxes", "scores", "labels") if getattr(self, key))
        return (*found, *(("counts",) if self.counts else ()))

    @property
    def has_numbers(self) -> bool:
        """Whether the model gives a class number for each box."""
        return self.holds in NUMBERED if "rows" in self.parts else self.labels is not None

    @property
    def fusion_iou(self) -> float:
        """`iou`, or its default."""
        return max(FUSION_IOU, self.nms or 0) if self.iou is None else self.iou

    @property
    def first_number(self) -> int:
        """`first_label`, or its default."""
        return int(self.background == "first") if self.first_label is None else self.first_label

    @property
    def slots(self) -> int:
        """How many classes the model scores beyond the labels."""
        return 0 if self.background == "none" else 1
