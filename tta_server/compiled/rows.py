"""The inputs of `front` for a batch: canvases of one or several images, and a row of numbers for each view."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tta_server.imaging.normalization import Channels, channel_matrix
from tta_server.imaging.placement import Placement
from tta_server.views.geometry import Affine
from tta_server.views.view import Border, View


class Column(IntEnum):
    """First columns of the table of rows, which has WIDTH columns.

    image: its index among the canvases. matrix: frame -> canvas, as `affine_row` has it. canvas: width, height.
    frame: left, top, width, height in the model's input. border: its code. exact, colored: 1 or 0. color: three rows
    of a factor for each channel and an offset, in the model's order of channels.
    """

    IMAGE = 0
    MATRIX = 1
    CANVAS = 7
    FRAME = 9
    BORDER = 13
    EXACT = 14
    COLORED = 15
    COLOR = 16


WIDTH = 28

BORDER_CODES = {Border.REFLECT101: 0, Border.REFLECT: 1, Border.REPLICATE: 2, Border.CONSTANT: 3}


class FrontRow(NamedTuple):
    """A view to be made: of the canvas with index `canvas`, as `placement` has it."""

    view: View
    placement: Placement
    canvas: int


def affine_row(m: Affine) -> tuple[float, ...]:
    """Return xx, xy, tx, yx, yy, ty."""
    return m.xx, m.xy, m.tx, m.yx, m.yy, m.ty


def front_table(rows: Sequence[FrontRow], channels: Channels) -> NDArray[np.float32]:
    """Return the table (B, WIDTH) for these views."""
    table = np.zeros((len(rows), WIDTH), np.float32)
    for line, row in zip(table, rows, strict=True):
        _fill(line, row, channels)
    return table


def _fill(line: NDArray[np.float32], row: FrontRow, channels: Channels) -> None:
    view, placement = row.view, row.placement
    line[: Column.COLOR] = (
        row.canvas,
        *affine_row(placement.to_canvas),
        *placement.canvas,
        *placement.inset,
        *placement.frame,
        BORDER_CODES[view.border],
        placement.exact,
        not view.color.is_identity,
    )
    matrix = channel_matrix(view.color, channels)
    color = line[Column.COLOR :].reshape(3, 4)
    color[: len(matrix), : len(matrix)] = matrix[:, :-1]
    color[: len(matrix), 3] = matrix[:, -1]


def stacked_shape(planes: Sequence[NDArray[np.uint8]]) -> tuple[int, int, int, int]:
    """Return the shape of one array for canvases (C, H, W): (N, C, largest H, largest W)."""
    return len(planes), len(planes[0]), max(each.shape[1] for each in planes), max(each.shape[2] for each in planes)


def stack_canvases(planes: Sequence[NDArray[np.uint8]], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Return canvases (C, H, W) as one array of `stacked_shape`, `out` if it is given; zeros lie beyond each."""
    slab = np.empty(stacked_shape(planes), np.uint8) if out is None else out
    slab.fill(0)
    for target, each in zip(slab, planes, strict=False):
        target[:, : each.shape[1], : each.shape[2]] = each
    return slab
