"""Reads a model's outputs into boxes, scores and classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError
from tta_server.tasks.boxes.cells import count_cells, decode_cells
from tta_server.tasks.boxes.mismatches import (
    LISTS,
    advice,
    expected_shapes,
    has_masks,
    other_lengths,
    other_names,
    recognized,
    takes,
)
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.boxes.parts import batch_part, image_part
from tta_server.tasks.scores.kinds import sigmoid, softmax
from tta_server.tasks.shapes import Outputs, Shapes, check_shape, fits, output_name
from tta_server.views.geometry import Size

Doubles = NDArray[np.float64]


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
        self._outputs = outputs
        self.names = {key: _name_of(key, output, classes, outputs) for key in output.parts}
        self._check_shapes({name: outputs[name] for name in self.names.values()})
        for look in (other_names, other_lengths):
            if output.head and (wrong := look(output, classes, self.names, outputs)):
                raise ConfigError(wrong)

    def check(self, outputs: Outputs, tensor: Size) -> None:
        """Raises ConfigError unless a run's outputs, for an input of this size, have the shapes that are stated."""
        self._check_shapes({name: outputs[name].shape for name in self.names.values()})
        if strides := self._output.strides:
            rows, needed = outputs[self.names["rows"]].shape[1], count_cells(tensor, strides)
            if rows != needed:
                raise ConfigError(
                    f"output.head {self._output.head} with output.strides {list(strides)} has {needed} rows for an "
                    f"input of {tensor}, but the model gives {rows}; set output.strides to those of the model"
                )

    def _check_shapes(self, found: Shapes) -> None:
        """Raises ConfigError that names the output whose shape is not the stated one."""
        expected = expected_shapes(self._output, self._classes, self._output.slots)
        with_background = expected_shapes(self._output, self._classes, 1)
        for key, name in self.names.items():
            try:
                self._check_shape(key, name, found[name], expected[key])
            except ConfigError as error:
                parts = {part: found[own] for part, own in self.names.items()}
                if self._output.head:
                    raise ConfigError(f"{error}; {advice(self._output, self._classes, parts, self._outputs)}") from None
                for head, lists in LISTS.items():
                    if takes(head, self._classes, parts):
                        raise ConfigError(f"{error}; for {lists}, set output.head: {head}") from None
                if not fits(found[name], with_background[key]):
                    raise
                raise ConfigError(
                    f"{error}; if the model has a class more than labels, for the background or for no object, set "
                    "output.background: last (or first)"
                ) from None

    def _check_shape(self, key: str, name: str, found: Sequence[int | None], expected: Sequence[str | int]) -> None:
        if not self._output.shape.is_batched and not (tuple(found[:1]) == (1,) and fits(found, expected)):
            expected = expected[1:]
        if key == "counts" and fits(found, ["N", 1]):
            return
        task = f"output.head {self._output.head}" if self._output.head else "detection"
        check_shape(f"{task} with {self._classes} labels", name, found, expected)

    def read(self, outputs: Outputs, row: int, tensor: Size) -> tuple[Doubles, Doubles, NDArray[Any]]:
        """Boxes (M, 4) in the model's format and units, scores (M,), and class numbers (M,) from 0.

        `tensor` is the size of the model's input. A class number that is none of the labels is under 0 or too large; so
        is the background's.
        """
        return self.interpret(self.raw(outputs, row), tensor)

    def interpret(self, raw: RawRows, tensor: Size) -> tuple[Doubles, Doubles, NDArray[Any]]:
        """As `read` returns them."""
        strides = self._output.strides
        boxes = decode_cells(raw.boxes, tensor, strides) if strides else raw.boxes.astype(np.float64)
        score = self._chances(raw.scores)
        if raw.numbers is not None:
            return boxes, score.astype(np.float64), np.rint(raw.numbers) - self._output.first_number
        if raw.objectness is not None:
            score = score * (sigmoid(raw.objectness) if self._output.kind == "logits" else raw.objectness)
        if self._output.shape.has_pairs:
            query, label = best_pairs(score)
            return boxes[query], score[query, label].astype(np.float64), label
        label = score.argmax(axis=1)
        return boxes, score[np.arange(len(label)), label].astype(np.float64), label

    @property
    def scores_name(self) -> str:
        """The output that holds the scores."""
        return next(self.names[key] for key in ("rows", "scores", "boxes") if key in self.names)

    @property
    def background_label(self) -> int | None:
        """The background's class number as `read` returns it; None without a background."""
        return {"first": -1, "last": self._classes, "none": None}[self._output.background]

    def raw(self, outputs: Outputs, row: int) -> RawRows:
        return self._split(image_part(self._output, self._by_key(outputs), row))

    def part(self, outputs: Outputs, row: int) -> Outputs:
        """One image's part of the outputs that are read, as those of a batch of one."""
        found = batch_part(self._output, self._by_key(outputs), row)
        return {self.names[key]: values for key, values in found.items()}

    def _by_key(self, outputs: Outputs) -> Mapping[str, NDArray[Any]]:
        return {key: outputs[name] for key, name in self.names.items()}

    def _split(self, found: Mapping[str, NDArray[Any]]) -> RawRows:
        if "rows" not in found:
            boxes = found["boxes"]
            if self._output.shape.has_scored_boxes:
                return RawRows(boxes[:, :4], boxes[:, 4], found["labels"])
            return RawRows(boxes, found["scores"], found.get("labels"))
        rows = found["rows"].T if self._output.transposed else found["rows"]
        if self._output.holds == "box_score_label":
            return RawRows(rows[:, :4], rows[:, 4], rows[:, 5])
        if self._output.holds == "label_score_box":
            return RawRows(rows[:, 2:], rows[:, 1], rows[:, 0])
        if self._output.holds == "image_label_score_box":
            # a number of the image that is none makes a box that is none
            return RawRows(rows[:, 3:] + 0 * rows[:, :1], rows[:, 2], rows[:, 1])
        if self._output.holds == "box_class_scores":
            return RawRows(rows[:, :4], rows[:, 4:])
        return RawRows(rows[:, :4], rows[:, 5:], None, rows[:, 4:5])

    def _chances(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Scores (M,) or (M, slots) -> probabilities (M,) or (M, C), without the background's."""
        if scores.ndim == 1 or not self._output.slots:
            return sigmoid(scores) if self._output.kind == "logits" else scores
        activate = sigmoid if self._output.shape.are_apart else lambda z: softmax(z.T).T
        with np.errstate(invalid="ignore"):  # the task finds infinities
            chances = activate(scores) if self._output.kind == "logits" else scores
        return chances[:, 1:] if self._output.background == "first" else chances[:, :-1]


def _name_of(key: str, output: BoxesOutput, classes: int, outputs: Shapes) -> str:
    """The output that a key names; raises ConfigError."""
    asked = getattr(output, key)
    if output.head and asked not in outputs and (asked or len(outputs) > 1):
        usual = f" named {asked}" if asked else ""
        masks = "; its masks, as of YOLO's segmentation models, are not read" if has_masks(outputs) else ""
        heads = recognized(classes, outputs)
        advice = f"output.head {' or '.join(heads)} takes these" if heads else f"set output.{key} to one of them{masks}"
        raise ConfigError(
            f"output.head {output.head} reads an output{usual} for {key}; the model file has {', '.join(outputs)}: "
            f"{advice}"
        )
    return output_name(asked, key, outputs)


def best_pairs(score: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The M best pairs of query and class of scores (M, C), by falling score: (M,) and (M,). NaN comes first.

    Of equal ones the first come first, as if all were sorted, which would take 2 ms for 300 x 80.
    """
    count, badness = len(score), -np.where(np.isnan(score), np.inf, score).ravel()
    if count < len(badness):
        among = np.flatnonzero(badness <= np.partition(badness, count)[count])
    else:
        among = np.arange(len(badness))
    best = among[np.argsort(badness[among], kind="stable")[:count]]
    query, label = np.divmod(best, score.shape[1])
    return query, label
