"""The formats in which detectors give boxes, scores and classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError
from tta_server.tasks.base import FORBID_EXTRA
from tta_server.tasks.scores.kinds import sigmoid, softmax
from tta_server.tasks.shapes import Outputs, Shapes, check_shape, fits, output_name

Doubles = NDArray[np.float64]
FUSION_IOU = 0.55
"""Overlap of boxes of one object, unless the model's own suppression is stated and leaves boxes that overlap more."""


@dataclass(frozen=True, slots=True)
class BoxesOutput:
    """`output:` of a detector.

    Either `boxes` [N, M, 4] with `scores` [N, M] and `labels` [N, M], or with `scores` [N, M, C] of each class; or one
    tensor `rows` [N, M, columns], `transposed` if [N, columns, M], whose columns `holds` names. `format` and `units`
    are those of boxes: `normalized` boxes are fractions of the input's size. `background` is the place of the class
    that means no object, if the model has one, which `labels` leaves out: scores of classes are then C + 1, and logits
    pass a softmax instead of a sigmoid. `first_label` is the class number of the first label: by default 0, or 1 behind
    a background. Boxes under `min_score` are left out. `nms` is the overlap from which a box of the same class with a
    lower score is left out, for models that do no suppression themselves. Boxes of several views that overlap by more
    than `iou` are of one object; by default FUSION_IOU, or `nms` if that is more: a smaller one would fuse neighbours
    that the model keeps apart. `max_boxes` are kept of each view, and of the merged ones.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    boxes: str | None = None
    scores: str | None = None
    labels: str | None = None
    rows: str | None = None
    holds: Literal["box_score_label", "box_class_scores", "box_objectness_class_scores"] = "box_score_label"
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

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.boxes is None or self.scores is None):
            raise ValueError("names either rows, or boxes and scores (and labels)")
        if self.rows is not None and (self.boxes or self.scores or self.labels):
            raise ValueError("rows names the one tensor that holds all; leave out boxes, scores and labels")
        for key in ("min_score", "iou", "nms"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{key} takes a number of at least 0 and under 1, not {value:g}")
        if self.max_boxes < 1:
            raise ValueError(f"max_boxes takes a whole number of at least 1, not {self.max_boxes}")

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


@dataclass(frozen=True, slots=True)
class RawRows:
    """One image's rows as a model gives them: `boxes` (M, 4); `scores` (M,) with class `numbers` (M,), or (M, slots).

    `objectness` (M, 1) multiplies the scores. What the model does not give is None.
    """

    boxes: NDArray[Any]
    scores: NDArray[Any]
    numbers: NDArray[Any] | None = None
    objectness: NDArray[Any] | None = None


class BoxReader:
    """Reads a model's outputs as `BoxesOutput` states them.

    `names` are the model's outputs by key of `output:`. The constructor raises ConfigError where the shapes that the
    model file states differ.
    """

    def __init__(self, classes: int, output: BoxesOutput, outputs: Shapes) -> None:
        self._classes = classes
        self._output = output
        keys = ["rows"] if output.rows else ["boxes", "scores", *(["labels"] if output.labels else [])]
        self.names = {key: output_name(getattr(output, key), key, outputs) for key in keys}
        self._check_shapes({name: outputs[name] for name in self.names.values()})

    def check(self, outputs: Outputs) -> None:
        """Raises ConfigError unless a run's outputs have the shapes that are stated."""
        self._check_shapes({name: outputs[name].shape for name in self.names.values()})

    def _check_shapes(self, found: Shapes) -> None:
        """Raises ConfigError that names the output whose shape is not the stated one."""
        expected = self._expected(self._output.slots)
        with_background = self._expected(1)
        for key, name in self.names.items():
            try:
                check_shape(f"detection with {self._classes} labels", name, found[name], expected[key])
            except ConfigError as error:
                if not fits(found[name], with_background[key]):
                    raise
                raise ConfigError(
                    f"{error}; if the model has a class more than labels, for the background or for no object, set "
                    "output.background: last (or first)"
                ) from None

    def _expected(self, more: int) -> dict[str, Sequence[str | int]]:
        """The shapes of all outputs if the model has `more` classes than labels."""
        slots = self._classes + more
        columns = {"box_score_label": 6, "box_class_scores": 4 + slots, "box_objectness_class_scores": 5 + slots}
        row: list[str | int] = ["M", columns[self._output.holds]]
        return {
            "boxes": ["N", "M", 4],
            "scores": ["N", "M"] if "labels" in self.names else ["N", "M", slots],
            "labels": ["N", "M"],
            "rows": ["N", *(row[::-1] if self._output.transposed else row)],
        }

    def read(self, outputs: Outputs, row: int) -> tuple[Doubles, Doubles, NDArray[Any]]:
        """Boxes (M, 4) in the model's format and units, scores (M,), and class numbers (M,) from 0.

        A class number that is none of the labels is under 0 or too large; so is the background's.
        """
        return self.interpret(self.raw(outputs, row))

    def interpret(self, raw: RawRows) -> tuple[Doubles, Doubles, NDArray[Any]]:
        """As `read` returns them."""
        score = self._chances(raw.scores)
        if raw.numbers is not None:
            label = np.rint(raw.numbers) - self._output.first_number
        else:
            if raw.objectness is not None:
                score = score * (sigmoid(raw.objectness) if self._output.kind == "logits" else raw.objectness)
            label = score.argmax(axis=1)
            score = score[np.arange(len(label)), label]
        return raw.boxes.astype(np.float64), score.astype(np.float64), label

    @property
    def background_label(self) -> int | None:
        """The background's class number as `read` returns it; None without a background."""
        return {"first": -1, "last": self._classes, "none": None}[self._output.background]

    def raw(self, outputs: Outputs, row: int) -> RawRows:
        return self._split({key: outputs[name][row] for key, name in self.names.items()})

    def _split(self, found: Mapping[str, NDArray[Any]]) -> RawRows:
        if "rows" not in found:
            return RawRows(found["boxes"], found["scores"], found.get("labels"))
        rows = found["rows"].T if self._output.transposed else found["rows"]
        if self._output.holds == "box_score_label":
            return RawRows(rows[:, :4], rows[:, 4], rows[:, 5])
        if self._output.holds == "box_class_scores":
            return RawRows(rows[:, :4], rows[:, 4:])
        return RawRows(rows[:, :4], rows[:, 5:], None, rows[:, 4:5])

    def _chances(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Scores (M,) or (M, slots) -> probabilities (M,) or (M, C), without the background's."""
        if scores.ndim == 1 or not self._output.slots:
            return sigmoid(scores) if self._output.kind == "logits" else scores
        with np.errstate(invalid="ignore"):  # the task finds infinities
            chances = softmax(scores.T).T if self._output.kind == "logits" else scores
        return chances[:, 1:] if self._output.background == "first" else chances[:, :-1]
