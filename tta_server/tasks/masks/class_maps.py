"""Maps of class numbers, whose argmax the model has taken: read, moved back, and counted as votes."""

from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.imaging.placement import Placement
from tta_server.imaging.resampling import is_exact, sample
from tta_server.tasks.base import Floats
from tta_server.tasks.masks.maps import OutputGrid, map_size, to_view_cells, view_coverage, without_bars
from tta_server.tasks.scores.kinds import CLASS_KINDS, identity
from tta_server.tasks.scores.merging import Merge, ScoreAccumulator
from tta_server.views.geometry import Affine, Size
from tta_server.views.view import Border, Weight

Classes = NDArray[np.uint16]
"""Class numbers (h, w); the number of labels, which is one more than the last, where there is no class."""

NO_CLASS = 255
"""A pixel of no class, in outputs and in masks of fewer than 256 labels."""

VOTES = {"vote": Merge(lambda kind, votes: votes, identity, bounded=True)}
"""Merges of class numbers, which are votes already."""


@dataclass(frozen=True, slots=True)
class ClassMaps:
    """Class numbers of one view on the part of the plain view's `grid` that starts at the cell `corner` (x, y).

    `coverage` is that of MovedMaps, and 0 where there is no class. `unknown` is a number of the output that is neither
    a label's nor NO_CLASS; None if there is none.
    """

    classes: Classes
    coverage: Floats | None
    unknown: float | None = None
    grid: OutputGrid = field(default_factory=OutputGrid)
    corner: tuple[int, int] = (0, 0)

    @property
    def values(self) -> Classes:
        """The class numbers, (h, w)."""
        return self.classes

    @property
    def top_classes(self) -> NDArray[Any]:
        """The class numbers, (h, w)."""
        return self.classes

    @property
    def is_sound(self) -> bool:
        return self.unknown is None or isfinite(self.unknown)


def read_classes(numbers: NDArray[Any], labels: int) -> tuple[Classes, float | None]:
    """An output's class numbers, of any type; and one of those that are neither a label's nor NO_CLASS, if any.

    That one is NaN or infinite if any is.
    """
    known = (numbers >= 0) & (numbers < labels)
    if np.issubdtype(numbers.dtype, np.floating):
        known &= numbers == np.floor(numbers)
    if known.all():
        return numbers.astype(np.uint16), None
    classes = np.full(numbers.shape, labels, np.uint16)
    classes[known] = numbers[known]
    others = numbers[~known]
    others = others[others != NO_CLASS]
    return classes, float(others[np.argmax(~np.isfinite(others))]) if others.size else None


def decode_classes(numbers: NDArray[Any], labels: int, placement: Placement, grid: OutputGrid) -> ClassMaps:
    """One view's class numbers (h, w), moved onto the plain view's grid, or onto the tile of it that it shows."""
    classes, unknown = read_classes(numbers, labels)
    to_cells, cells, corner = to_view_cells(placement, grid)
    plane, inside = without_bars(classes[None], placement, grid)
    moved = _resampled(plane, to_cells.then(inside), cells)
    coverage, voted = view_coverage(placement, grid), moved < labels
    if not voted.all():
        coverage = voted.astype(np.float32) if coverage is None else coverage * voted
    return ClassMaps(moved, coverage, unknown, grid, corner)


def _resampled(plane: NDArray[np.uint16], to_source: Affine, size: Size) -> Classes:
    """The class (h, w) with the largest share by bilinear interpolation of a plane (1, h, w), ties to the lower."""
    if is_exact(to_source):
        copied: Classes = sample(plane, to_source, size, Border.REPLICATE)[0]
        return copied
    first, *others = np.unique(plane)
    found = np.full((size.height, size.width), first, np.uint16)
    most = sample(plane == first, to_source, size, Border.REPLICATE)[0]
    for number in others:
        share = sample(plane == number, to_source, size, Border.REPLICATE)[0]
        found[share > most] = number
        most = np.maximum(most, share)
    return found


class VoteAccumulator(ScoreAccumulator):
    """A ScoreAccumulator of class numbers (h, w), each a vote for one of `labels` classes.

    It writes to one class a cell: maps of votes (C, h, w) would take 30 times as long for 150 classes.
    """

    def __init__(self, labels: int) -> None:
        super().__init__(VOTES["vote"], CLASS_KINDS["probabilities"])
        self._labels = labels

    def add(self, values: NDArray[Any], weight: Weight, coverage: Floats | None = None) -> None:
        """Adds one view's class numbers; `coverage` (h, w) is None where the view shows everything."""
        self.add_part(values, weight, coverage, (0, 0), map_size(values))

    def add_part(
        self, values: NDArray[Any], weight: Weight, coverage: Floats | None, corner: tuple[int, int], cells: Size
    ) -> None:
        """As `ScoreAccumulator.add_part`."""
        if isinstance(weight, tuple):
            votes = values == np.arange(self._labels).reshape(-1, 1, 1)
            super().add_part(votes.astype(np.float32), weight, coverage, corner, cells)
            return
        if self._total is None:
            self._total = np.zeros((self._labels, cells.height, cells.width), np.float32)
            self._weight = np.zeros((cells.height, cells.width), np.float32)
        w = np.float32(weight) * (np.ones(values.shape, np.float32) if coverage is None else coverage)
        (left, top), (height, width) = corner, values.shape
        rows, columns = np.arange(top, top + height)[:, None], np.arange(left, left + width)
        classes = np.minimum(values, self._labels - 1)  # where there is no class, w is 0
        self._total[classes, rows, columns] += w
        self._weight[..., top : top + height, left : left + width] += w
