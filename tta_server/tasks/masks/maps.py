"""Score maps, moved back onto the plain view's grid and resized to the image: for masks and heat maps."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import ceil, floor
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tta_server.imaging.placement import Placement
from tta_server.imaging.resampling import sample
from tta_server.imaging.tiling import Tile
from tta_server.tasks.base import Floats, ImageFrame
from tta_server.tasks.sums import Sums
from tta_server.views.geometry import Affine, Size
from tta_server.views.view import Border

T = TypeVar("T", bound=np.generic)

STRIP = 128
"""Rows of the image that are made at a time: maps at the image's size are never held whole."""

EDGE = 1e-4
"""Cells by which rounding may move a point off the frame's edge."""
cached = lru_cache(maxsize=1024)
"""For what follows from a view's placement, which is cached too, and the size of its maps."""


@dataclass(frozen=True)
class OutputGrid:
    """Where a score map's cells lie on pixels: the centre of cell i at pixel `stride` (i + `offset`), along x and y.

    With an offset of 0.5 cell i covers the pixels [stride i, stride (i + 1)); with 0 its centre is at their edge.
    """

    stride: tuple[float, float] = (1.0, 1.0)
    offset: float = 0.5

    @cached_property
    def to_pixels(self) -> Affine:
        """Continuous cell coordinates, in which cell i covers [i, i + 1), -> pixels."""
        shift = self.offset - 0.5
        return Affine.stretch(*self.stride).then(Affine.shift(shift * self.stride[0], shift * self.stride[1]))

    def cells(self, frame: Size) -> Size:
        """Columns and rows of cells that a frame of that size has."""
        across, down = frame.width / self.stride[0], frame.height / self.stride[1]
        return Size(max(1, ceil(across - EDGE)), max(1, ceil(down - EDGE)))


@cached
def output_grid(maps: Size, placement: Placement, offset: float = 0.5) -> OutputGrid:
    """The grid of the score maps of that size that a model gave for a view."""
    width, height = placement.tensor
    return OutputGrid((_stride(width, maps.width), _stride(height, maps.height)), offset)


def map_size(maps: NDArray[Any]) -> Size:
    """Columns and rows of maps (..., h, w)."""
    return Size(maps.shape[-1], maps.shape[-2])


def _stride(length: int, cells: int) -> float:
    """Pixels a cell: a whole number where one explains the number of cells.

    The last cell may then be partly outside, and views of other sizes lie on the same grid.
    """
    whole = round(length / cells)
    return float(whole) if whole and cells in (length // whole, -(-length // whole)) else length / cells


@dataclass(frozen=True, slots=True)
class MovedMaps:
    """Scores (C, h, w) on the part of the plain view's grid that starts at the cell `corner` (x, y).

    `coverage` (h, w) in [0, 1] is the weight of each cell, 0 where the view does not show it; None where all are 1.
    """

    scores: Floats
    coverage: Floats | None
    corner: tuple[int, int] = (0, 0)


class MapPrediction(Protocol):
    """One view's maps on the part of the plain view's `grid` that starts at the cell `corner` (x, y)."""

    @property
    def values(self) -> NDArray[Any]:
        """What its accumulator adds: scores (C, h, w), or class numbers (h, w)."""

    @property
    def coverage(self) -> Floats | None:
        """That of MovedMaps."""

    @property
    def grid(self) -> OutputGrid: ...

    @property
    def corner(self) -> tuple[int, int]: ...

    @property
    def top_classes(self) -> NDArray[Any]:
        """The class of each cell, (h, w)."""


@dataclass(frozen=True, slots=True)
class ScoreMaps:
    """Scores of one view, or merged probabilities, (C, h, w).

    They lie on the part of the plain view's `grid` that starts at the cell `corner` (x, y). `coverage` is that of
    MovedMaps. `votes` (C, h, w): each class's share of the views' votes, None unless requested.
    """

    scores: Floats
    coverage: Floats | None = None
    votes: Floats | None = None
    grid: OutputGrid = field(default_factory=OutputGrid)
    corner: tuple[int, int] = (0, 0)

    @property
    def values(self) -> Floats:
        """The scores."""
        return self.scores

    @property
    def top_classes(self) -> NDArray[Any]:
        """The class with the largest score of each cell, ties to the lower, (h, w)."""
        classes: NDArray[np.intp] = self.scores.argmax(axis=0)
        return classes


@dataclass(frozen=True, slots=True)
class MapSums(Sums):
    """Sums on the plain view's `grid`: `total` (C, h, w) of weighted scores, `weights` (h, w) of weighted coverages."""

    grid: OutputGrid = field(default_factory=OutputGrid)


def crop_to_frame(maps: Floats, placement: Placement, grid: OutputGrid) -> tuple[Floats, tuple[int, int]]:
    """The cells at least partly in a view's frame, without bars and padding; and the first of them, x, y."""
    left, top, right, bottom = cells_in_frame(placement, grid, map_size(maps))
    return maps[:, top:bottom, left:right], (left, top)


@cached
def cells_in_frame(placement: Placement, grid: OutputGrid, maps: Size) -> tuple[int, int, int, int]:
    """The cells of maps of that size that are at least partly in a view's frame: left, top, right, bottom."""
    to_cells, (x, y), frame = grid.to_pixels.inverse(), placement.inset, placement.frame
    (left, top), (right, bottom) = to_cells.apply_to(x, y), to_cells.apply_to(x + frame.width, y + frame.height)
    x, y = max(0, floor(left + EDGE)), max(0, floor(top + EDGE))
    right, bottom = max(x + 1, ceil(right - EDGE)), max(y + 1, ceil(bottom - EDGE))
    return x, y, min(right, maps.width), min(bottom, maps.height)


def first_cell(tile: Tile, grid: OutputGrid) -> tuple[int, int]:
    """First cell, x and y, of the grid's part for a tile, which starts at a whole cell."""
    return round(tile.left / grid.stride[0]), round(tile.top / grid.stride[1])


def move_back(maps: Floats, placement: Placement, grid: OutputGrid) -> MovedMaps:
    """A view's score maps (C, h, w), moved onto the plain view's grid, or onto the tile of it that the view shows."""
    to_scores, cells, corner = to_view_cells(placement, grid)
    coverage = view_coverage(placement, grid)
    maps, inside = without_bars(maps, placement, grid)
    return MovedMaps(sample(maps, to_scores.then(inside), cells, Border.REPLICATE), coverage, corner)  # type: ignore[arg-type]


def without_bars(maps: NDArray[T], placement: Placement, grid: OutputGrid) -> tuple[NDArray[T], Affine]:
    """The maps without the bars around the view's frame, and the map to their coordinates.

    Interpolation at the frame's edge must not mix in bars. Nothing is cut unless the frame is made of whole cells.
    """
    whole = frame_cells(placement, grid)
    if whole is None:
        return maps, Affine()
    left, top, right, bottom = whole
    return maps[:, top:bottom, left:right], Affine.shift(-left, -top)


def frame_cells(placement: Placement, grid: OutputGrid) -> tuple[int, int, int, int] | None:
    """The cells of a view's frame (left, top, right, bottom); None unless it is made of whole cells."""
    edges = [*placement.inset, placement.inset[0] + placement.frame.width, placement.inset[1] + placement.frame.height]
    places = [edge / grid.stride[axis % 2] for axis, edge in enumerate(edges)]
    if grid.offset != 0.5 or any(place != int(place) for place in places):
        return None
    left, top, right, bottom = map(int, places)
    return left, top, right, bottom


def view_coverage(placement: Placement, grid: OutputGrid) -> Floats | None:
    """Weight of a view in each cell of its part of the grid (h, w); None where all are 1.

    1 where the cell's centre lies inside the view's frame, else 0; falling towards the edges that a tile shares
    with others. The centre of a last cell that reaches beyond the plain frame is moved to the frame's edge.
    """
    to_scores, cells, _ = to_view_cells(placement, grid)
    sight = sight_of(placement, grid)
    blend = None if placement.tile is None else _blend(placement.tile, cells, grid)
    if sight.shows_all:
        return blend
    x = np.minimum(np.arange(0.5, cells.width, dtype=np.float32), np.float32(sight.last[0]))
    y = np.minimum(np.arange(0.5, cells.height, dtype=np.float32), np.float32(sight.last[1]))
    shown = _between(sight.left, (to_scores.xx, to_scores.xy, to_scores.tx), x, y, sight.right)
    shown &= _between(sight.top, (to_scores.yx, to_scores.yy, to_scores.ty), x, y, sight.bottom)
    return shown.astype(np.float32) if blend is None else shown * blend


class Sight(NamedTuple):
    """Which cells of its part of the plain grid a view shows: those whose centre lies between the bounds in its map.

    `last` (x, y) is the edge of the plain frame, in cells: centres beyond it are moved there. The bounds are in cells
    of the view's score map.
    """

    left: float
    top: float
    right: float
    bottom: float
    last: tuple[float, float]
    shows_all: bool


@cached
def sight_of(placement: Placement, grid: OutputGrid) -> Sight:
    """The cells that a view shows."""
    to_scores, cells, _ = to_view_cells(placement, grid)
    frame = placement.whole if placement.tile is None else placement.tile.size
    last = frame.width / grid.stride[0], frame.height / grid.stride[1]
    first = grid.to_pixels.inverse().apply(np.array([placement.inset]))[0]
    left, top = (first - EDGE).tolist()
    right = left + placement.frame.width / grid.stride[0] + 2 * EDGE
    bottom = top + placement.frame.height / grid.stride[1] + 2 * EDGE
    x, y = ((min(0.5, end), min(count - 0.5, end)) for count, end in zip(cells, last, strict=True))
    corners = to_scores.apply(np.array([(x[0], y[0]), (x[-1], y[0]), (x[0], y[-1]), (x[-1], y[-1])]))
    # if it shows the corners, it shows all cells between them
    shows_all = bool(np.all(corners >= (left, top)) and np.all(corners <= (right, bottom)))
    return Sight(left, top, right, bottom, last, shows_all)


@cached
def to_view_cells(placement: Placement, grid: OutputGrid) -> tuple[Affine, Size, tuple[int, int]]:
    """The map from the plain view's grid, or a tile of it, to a view's score map; that part's size and first cell."""
    tile = placement.tile or Tile(0, 0, placement.whole)
    corner = first_cell(tile, grid)
    to_scores = (
        Affine.shift(*corner)
        .then(grid.to_pixels)
        .then(placement.to_plain.inverse())
        .then(Affine.shift(*placement.inset))
        .then(grid.to_pixels.inverse())
    )
    return to_scores, grid.cells(tile.size), corner


def _between(low: float, row: tuple[float, float, float], x: Floats, y: Floats, high: float) -> NDArray[np.bool_]:
    """Where a x + b y + c of the grid's points lies between two bounds, (len(y), len(x)); `row` is (a, b, c)."""
    a, b, c = (np.float32(v) for v in row)
    found = a * x + (b * y[:, None] + c)
    return (found >= low) & (found <= high)


def _blend(tile: Tile, cells: Size, grid: OutputGrid) -> Floats | None:
    """Weight of a tile in each of its cells, rising from 0 to 1 across the pixels that it shares with a neighbour."""
    left, top, right, bottom = tile.overlaps
    if not any(tile.overlaps):
        return None
    x = _ramp(cells.width, left / grid.stride[0], right / grid.stride[0])
    y = _ramp(cells.height, top / grid.stride[1], bottom / grid.stride[1])
    blend: Floats = y[:, None] * x
    return blend


def _ramp(count: int, before: float, after: float) -> Floats:
    """Half a cosine up over the first cells and down over the last, (count,); never 0."""
    at = np.arange(0.5, count, dtype=np.float32)
    up = np.clip(at / before, 0, 1) if before else np.ones(count, np.float32)
    down = np.clip((count - at) / after, 0, 1) if after else np.ones(count, np.float32)
    ramp: Floats = np.maximum((1 - np.cos(np.pi * up)) / 2 * ((1 - np.cos(np.pi * down)) / 2), 1e-3).astype(np.float32)
    return ramp


def image_strips(maps: Floats, grid: OutputGrid, frame: ImageFrame) -> Iterator[tuple[slice, Floats]]:
    """Interpolates maps (C, h, w) on the plain view's grid at the image's own size.

    Yields strips of rows: (rows, (C, rows, W)).
    """
    to_grid = frame.to_image.inverse().then(grid.to_pixels.inverse())
    for top in range(0, frame.image.height, STRIP):
        size = Size(frame.image.width, min(STRIP, frame.image.height - top))
        strip = sample(maps, Affine.shift(0, top).then(to_grid), size, Border.REPLICATE)
        yield slice(top, top + size.height), strip  # type: ignore[misc]
