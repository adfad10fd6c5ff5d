"""The inputs of a tail for maps: a row of numbers for each view, which say how its map moves back."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tta_server.compiled.rows import affine_row
from tta_server.imaging.placement import Placement
from tta_server.imaging.resampling import is_exact
from tta_server.tasks.masks.maps import OutputGrid, cells_in_frame, frame_cells, sight_of, to_view_cells
from tta_server.views.geometry import Affine, Size


class MapColumn(IntEnum):
    """First columns of the table of rows, which has MAP_WIDTH columns.

    matrix: plain grid -> score map, as `affine_row` has it. cells: first and last cell that may be read, along x, then
    y. seen: the bounds of `Sight`, left, right, top, bottom. last: its `last`, x, y. exact: 1 or 0. weight: the view's.
    Of heat maps only: mirrored: 1 or 0. frame: first and last cell where a peak may be, along x, then y.
    """

    MATRIX = 0
    CELLS = 6
    SEEN = 10
    LAST = 14
    EXACT = 16
    WEIGHT = 17
    MIRRORED = 18
    FRAME = 19


MAP_WIDTH = 23
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
    x0, y0, x1, y1 = cells_in_frame(row.placement, grid, maps)
    frame = (x0, x1 - 1, y0, y1 - 1)
    matrix, mirrored = affine_row(to_scores), row.placement.mirrors
    return *matrix, *cells, *seen, *sight.last, exact, row.weight, mirrored, *frame


def all_exact(table: NDArray[np.float32]) -> bool:
    """Whether no view's map needs interpolation."""
    return bool(np.all(table[:, MapColumn.EXACT] == 1))


def map_inputs(
    z: NDArray[np.generic],
    table: NDArray[np.float32],
    owner: NDArray[np.generic],
    cells: Size,
    with_peaks: bool = False,
) -> dict[str, NDArray[np.generic]]:
    """Return the inputs of a tail for maps by name; `cells` are the columns and rows of the largest plain grid.

    One `with_peaks`, for heat maps, also takes the columns and rows of the maps.
    """
    places = {
        "column": np.arange(z.shape[3], dtype=np.float32),
        "line": np.arange(z.shape[2], dtype=np.float32),
    }
    return {
        **(places if with_peaks else {}),
        "z": z,
        "rows": table,
        "owner": owner,
        "map_size": np.array([z.shape[3], z.shape[2]], np.float32),
        "x": np.arange(0.5, cells.width, dtype=np.float32),
        "y": np.arange(0.5, cells.height, dtype=np.float32),
    }
