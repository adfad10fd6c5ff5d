"""The formats in which detectors give boxes, scores and classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError
from tta_server.tasks.base import FORBID_EXTRA
from tta_server.tasks.scores.kinds import sigmoid
from tta_server.tasks.shapes import Outputs, Shapes, check_shape, output_name
from tta_server.views.geometry import Size

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BoxesOutput:
    """`output:` of a detector.

    Either `boxes` [N, M, 4] with `scores` [N, M] and `labels` [N, M], or with `scores` [N, M, C] of each class; or one
    tensor `rows` [N, M, columns], `transposed` if [N, columns, M], whose columns `holds` names. `format` and `units`
    are those of boxes: `normalized` boxes are fractions of the input's size. `first_label` is the number of the first
    class. Boxes under `min_score` are left out. `nms` is the overlap from which a box of the same class with a lower
    score is left out, for models that do no suppression themselves. Boxes of several views that overlap by more than
    `iou` are of one object. `max_boxes` are kept of each view, and of the merged ones.
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
    first_label: int = 0
    min_score: float = 0.05
    nms: float | None = None
    iou: float = 0.55
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


class BoxReader:
    """Reads a model's outputs as `BoxesOutput` states them.

    The constructor raises ConfigError where the shapes that the model file states differ.
    """

    def __init__(self, classes: int, output: BoxesOutput, outputs: Shapes) -> None:
        self._classes = classes
        self._output = output
        keys = ["rows"] if output.rows else ["boxes", "scores", *(["labels"] if output.labels else [])]
        self._names = {key: output_name(getattr(output, key), key, outputs) for key in keys}
        self._check_shapes({name: outputs[name] for name in self._names.values()})

    def _check_shapes(self, found: Shapes) -> None:
        """Raises ConfigError that names the output whose shape is not the stated one."""
        classes = self._classes
        expected: dict[str, list[str | int]] = {
            "boxes": ["N", "M", 4],
            "scores": ["N", "M"] if "labels" in self._names else ["N", "M", classes],
            "labels": ["N", "M"],
        }
        columns = {"box_score_label": 6, "box_class_scores": 4 + classes, "box_objectness_class_scores": 5 + classes}
        row: list[str | int] = ["M", columns[self._output.holds]]
        expected["rows"] = ["N", *(row[::-1] if self._output.transposed else row)]
        for key, name in self._names.items():
            check_shape(f"detection with {classes} labels", name, found[name], expected[key])

    def check(self, outputs: Outputs, tensor: Size) -> None:
        """Raises ConfigError unless a run's outputs are what is stated: shapes, classes, units, probabilities."""
        self._check_shapes({name: outputs[name].shape for name in self._names.values()})
        xyxy, score, label = self.read(outputs, 0)
        if len(score):
            self._check_classes(label[score > 0])  # padding rows may have any
            if score.min() < -0.01 or score.max() > 1.01:
                raise ConfigError(
                    f"output.kind is {self._output.kind}, but scores come to {score.min():g} to {score.max():g}"
                )
            self._check_units(float(np.nanmax(np.abs(xyxy))), tensor)

    def _check_classes(self, label: NDArray[Any]) -> None:
        first, classes = self._output.first_label, self._classes
        if len(label) and (label.min() < 0 or label.max() >= classes):
            raise ConfigError(
                f"detection with {classes} labels needs classes {first} to {first + classes - 1}; the model gives "
                f"{label.min() + first:g} to {label.max() + first:g}"
            )

    def _check_units(self, most: float, tensor: Size) -> None:
        """`most` is the boxes' largest coordinate."""
        if self._output.units == "normalized" and most > 4:
            raise ConfigError(f"output.units is normalized, but the model gives boxes up to {most:g}; are they pixels?")
        if self._output.units == "pixels" and 0 < most <= 1.5 < min(tensor) / 4:
            raise ConfigError(f"output.units is pixels, but the model's boxes end at {most:g}; are they normalized?")

    def read(self, outputs: Outputs, row: int) -> tuple[Doubles, Doubles, NDArray[Any]]:
        """Boxes (M, 4) in the model's format and units, scores (M,), and class numbers (M,) from 0."""
        boxes, score, label = self._columns({key: outputs[name][row] for key, name in self._names.items()})
        if score.ndim == 2:
            label = score.argmax(axis=1)
            score = score[np.arange(len(label)), label]
        else:
            label = np.rint(label) - self._output.first_label
        return boxes.astype(np.float64), score.astype(np.float64), label

    def _columns(self, found: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Boxes (M, 4), and probabilities (M,) with labels (M,), or probabilities (M, C) and no labels."""
        chance: Callable[[Any], Any] = sigmoid if self._output.kind == "logits" else np.asarray
        if "rows" not in found:
            return found["boxes"], chance(found["scores"]), found.get("labels", np.empty(0))
        rows = found["rows"].T if self._output.transposed else found["rows"]
        if self._output.holds == "box_score_label":
            return rows[:, :4], chance(rows[:, 4]), rows[:, 5]
        if self._output.holds == "box_class_scores":
            return rows[:, :4], chance(rows[:, 4:]), np.empty(0)
        return rows[:, :4], chance(rows[:, 5:]) * chance(rows[:, 4:5]), np.empty(0)
