"""How a segmentation model's outputs are read: one reader for scores, one for class numbers, one for queries."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError
from tta_server.imaging.placement import Placement
from tta_server.tasks.base import Floats
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.masks.checks import (
    class_findings,
    class_remarks,
    map_type_finding,
    other_kind,
    other_layout,
    query_findings,
    stride_findings,
)
from tta_server.tasks.masks.class_maps import ClassMaps, decode_classes, read_classes
from tta_server.tasks.masks.maps import MapPrediction, ScoreMaps, map_size, move_back, output_grid
from tta_server.tasks.masks.output import MapsOutput
from tta_server.tasks.masks.queries import query_maps
from tta_server.tasks.scores.checks import range_remarks, score_findings
from tta_server.tasks.scores.kinds import CLASS_KINDS, LABEL_KINDS, are_numbers, is_finite
from tta_server.tasks.shapes import Outputs, Shapes, check_shape, fits, format_shape, output_name

SCORES, MASKS = "class_queries_logits", "masks_queries_logits"
"""The usual names of the outputs of `kind: queries`."""


class MapReader(Protocol):
    """Reads one kind of output; `reads` has the names of those that it looks at."""

    reads: Sequence[str]
    sums_apply: bool
    """Whether a graph may sum the output, as scores [N, C, h, w]."""

    def check(self, found: Shapes) -> None:
        """Raises ConfigError, naming found and expected, unless outputs may have these shapes."""

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        """See `tasks.base.Decoder`."""

    def remarks(self, prediction: Any) -> Sequence[Finding]:
        """See `tasks.base.Decoder`."""

    def decode(self, outputs: Outputs, row: int, placement: Placement) -> MapPrediction:
        """Row `row` of a batch's outputs, moved onto the plain view's grid."""

    def is_sound(self, prediction: Any) -> bool:
        """False where it holds NaN or +inf."""


def make_reader(labels: int, output: MapsOutput, outputs: Shapes) -> MapReader:
    """The reader of the kind that tta.yaml states; raises ConfigError where the model file has other outputs."""
    if output.kind == "queries":
        return QueryReader(labels, output, outputs)
    if outputs.keys() >= {SCORES, MASKS} and output.name in (None, SCORES, MASKS):
        raise ConfigError(
            f"the model file has {SCORES} and {MASKS}, as MaskFormer and its successors; set output.kind: queries"
        )
    if output.kind == "classes":
        return ClassReader(labels, output, outputs)
    return ScoreReader(labels, output, outputs)


class ScoreReader:
    """Scores [N, C, h, w] or [N, h, w, C]; of one label also [N, h, w]."""

    def __init__(self, labels: int, output: MapsOutput, outputs: Shapes) -> None:
        self._labels, self._layout, self._offset = labels, output.layout, output.offset
        self._kind = (LABEL_KINDS if output.multilabel else CLASS_KINDS)[output.kind]
        self._name = output_name(output.name, "name", outputs)
        self.reads: Sequence[str] = (self._name,)
        self.check(outputs)
        self.sums_apply = output.layout == "NCHW" and len(outputs[self._name]) == 4

    def check(self, found: Shapes) -> None:
        shape, labels = found[self._name], self._labels
        expected: list[str | int] = ["N", labels, "h", "w"] if self._layout == "NCHW" else ["N", "h", "w", labels]
        if fits(shape, expected) or (labels == 1 and len(shape) == 3):
            return
        hint = other_layout(shape, labels, self._layout) or other_kind(shape)
        raise ConfigError(
            f"segmentation with {labels} labels needs an output {self._name} of shape {format_shape(expected)}; the "
            f"model gives {format_shape(shape)}{hint}"
        )

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        maps = [_planes(run.outputs[self._name][0], self._layout) for run in runs]
        yield from stride_findings(runs, [map_size(each) for each in maps])
        if wrong_type := map_type_finding(maps[0]):
            yield wrong_type
            return
        yield from score_findings(self._kind, maps, "set output.multilabel: true, which marks where the label is")

    def remarks(self, prediction: ScoreMaps) -> Sequence[Finding]:
        return range_remarks(self._kind, prediction.scores)

    def decode(self, outputs: Outputs, row: int, placement: Placement) -> ScoreMaps:
        planes = _planes(outputs[self._name][row], self._layout)
        return _moved(np.ascontiguousarray(planes, np.float32), placement, self._offset)

    def is_sound(self, prediction: ScoreMaps) -> bool:
        return (is_finite if self._kind.exclusive else are_numbers)(prediction.scores)


class ClassReader:
    """Class numbers [N, h, w], [N, 1, h, w] or [N, h, w, 1], of any type."""

    sums_apply = False

    def __init__(self, labels: int, output: MapsOutput, outputs: Shapes) -> None:
        self._labels, self._layout, self._offset = labels, output.layout, output.offset
        self._name = output_name(output.name, "name", outputs)
        self.reads: Sequence[str] = (self._name,)
        self.check(outputs)

    def check(self, found: Shapes) -> None:
        shape = found[self._name]
        expected: list[str | int] = ["N", 1, "h", "w"] if self._layout == "NCHW" else ["N", "h", "w", 1]
        if len(shape) == 3 or fits(shape, expected):
            return
        hint = other_layout(shape, 1, self._layout) or "; for scores set output.kind: logits or probabilities"
        raise ConfigError(
            f"segmentation with output.kind: classes needs an output {self._name} of shape [N, h, w] or "
            f"{format_shape(expected)}; the model gives {format_shape(shape)}{hint}"
        )

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        maps = [self._numbers(run.outputs[self._name][0]) for run in runs]
        yield from stride_findings(runs, [map_size(each) for each in maps])
        yield from class_findings(maps, [read_classes(each, self._labels)[1] for each in maps], self._labels)

    def remarks(self, prediction: ClassMaps) -> Sequence[Finding]:
        return class_remarks(prediction.unknown, self._labels)

    def decode(self, outputs: Outputs, row: int, placement: Placement) -> ClassMaps:
        numbers = self._numbers(outputs[self._name][row])
        return decode_classes(numbers, self._labels, placement, output_grid(map_size(numbers), placement, self._offset))

    def _numbers(self, row: NDArray[Any]) -> NDArray[Any]:
        """The class numbers (h, w) of one row of the output."""
        numbers: NDArray[Any] = _planes(row, self._layout)[0]
        return numbers

    def is_sound(self, prediction: ClassMaps) -> bool:
        return prediction.is_sound


class QueryReader:
    """Class logits [N, Q, C + 1] and mask logits [N, Q, h, w] of Q segments."""

    sums_apply = False

    def __init__(self, labels: int, output: MapsOutput, outputs: Shapes) -> None:
        self._labels, self._offset = labels, output.offset
        self._scores = output_name(output.scores or SCORES, "scores", outputs)
        self._masks = output_name(output.masks or MASKS, "masks", outputs)
        self.reads: Sequence[str] = (self._scores, self._masks)
        self.check(outputs)

    def check(self, found: Shapes) -> None:
        scores, masks = found[self._scores], found[self._masks]
        expected: list[str | int] = ["N", "Q", self._labels + 1]
        if not fits(scores, expected):
            own = len(scores) == 3 and scores[2] == self._labels
            hint = "; labels leaves the one for no object out" if own else ""
            raise ConfigError(
                f"segmentation with {self._labels} labels and output.kind: queries needs an output {self._scores} of "
                f"shape {format_shape(expected)}, the last for no object; the model gives {format_shape(scores)}{hint}"
            )
        check_shape("segmentation with output.kind: queries", self._masks, masks, ["N", "Q", "h", "w"])
        if not fits(masks[1:2], [scores[1]]):
            raise ConfigError(
                f"segmentation with output.kind: queries needs as many masks as class scores; the model gives "
                f"{self._scores} {format_shape(scores)} and {self._masks} {format_shape(masks)}"
            )

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        masks = [run.outputs[self._masks][0] for run in runs]
        yield from stride_findings(runs, [map_size(each) for each in masks])
        yield from query_findings([run.outputs[self._scores][0] for run in runs], masks)

    def remarks(self, prediction: ScoreMaps) -> Sequence[Finding]:
        return ()

    def decode(self, outputs: Outputs, row: int, placement: Placement) -> ScoreMaps:
        return _moved(query_maps(outputs[self._scores][row], outputs[self._masks][row]), placement, self._offset)

    def is_sound(self, prediction: ScoreMaps) -> bool:
        return is_finite(prediction.scores)


def _planes(row: NDArray[Any], layout: str) -> NDArray[Any]:
    """One row of an output, (h, w) or in its own layout, as planes (C, h, w)."""
    if row.ndim == 2:
        return row[None]
    return row.transpose(2, 0, 1) if layout == "NHWC" else row


def _moved(scores: Floats, placement: Placement, offset: float) -> ScoreMaps:
    grid = output_grid(map_size(scores), placement, offset)
    moved = move_back(scores, placement, grid)
    return ScoreMaps(moved.scores, moved.coverage, grid=grid, corner=moved.corner)
