"""The inputs of a tail for maps: a row of numbers for each view, which say how its map moves back."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tta_server.compiled.rows import affine_row
from tta_server.imaging.placement import Placement
from tta_server.imaging.resampling import is_exact
from tta_server.tasks.masks.maps import OutputGrid, frame_cells, sight_of, to_view_cells
from tta_server.views.geometry import Affine, Size


class MapColumn(IntEnum):
    """First columns of the table of rows, which has MAP_WIDTH columns.

    matrix: plain grid -> score map, as `affine_row` has it. cells: first and last cell that may be read, along x, then
    y. seen: the bounds of `Sight`, left, right, top, bottom. last: its `last`, x, y. exact: 1 or 0. weight: the view's.
    """

    MATRIX = 0
    CELLS = 6
    SEEN = 10
    LAST = 14
    EXACT = 16
    WEIGHT = 17


MAP_WIDTH = 18
EVERYWHERE = 1e9
"""Cells beyond which no view lies."""


class MapRow(NamedTuple):
    """A view whose map is moved back, and its weight."""

    placement: Placement
    weight: float


def map_table(rows: Sequence[MapRow], grid: OutputGrid, maps: Size) -> NDArray[np.float32]:
    """Return the table (B, MAP_WIDTH) for these views, whose maps of size `maps` lie on `grid`."""
    return np.array([_map_row(row, grid, maps) for row in rows], np.float32)


def _map_row(row: MapRow, grid: OutputGrid, maps: Size) -> tuple[float, ...]:
    to_scores, _, _ = to_view_cells(row.placement, grid)
    left, top, right, bottom = frame_cells(row.placement, grid) or (0, 0, *maps)
    sight = sight_of(row.placement, grid)
    seen = (sight.left, sight.right, sight.top, sight.bottom)
    if sight.shows_all:  # rounding would leave out cells at the edge of a large map
        seen = (-EVERYWHERE, EVERYWHERE, -EVERYWHERE, EVERYWHERE)
    cells = (left, right - 1, top, bottom - 1)
    exact = is_exact(to_scores.then(Affine.shift(-left, -top)))
    return *affine_row(to_scores), *cells, *seen, *sight.last, exact, row.weight


def all_exact(table: NDArray[np.float32]) -> bool:
    """Whether no view's map needs interpolation."""
    return bool(np.all(table[:, MapColumn.EXACT] == 1))


def map_inputs(
    z: NDArray[np.generic], table: NDArray[np.float32], owner: NDArray[np.generic], cells: Size
) -> dict[str, NDArray[np.generic]]:
    """Return the inputs of a tail for maps by name; `cells` are the columns and rows of the largest plain grid."""
    return {
        "z": z,
        "rows": table,
        "owner": owner,
        "map_size": np.array([z.shape[3], z.shape[2]], np.float32),
        "x": np.arange(0.5, cells.width, dtype=np.float32),
        "y": np.arange(0.5, cells.height, dtype=np.float32),
    }
