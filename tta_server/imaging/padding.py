"""What lies beyond a view's frame in the model's input: letterbox bars, zeros, or the frame reflected."""

from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tta_server.imaging.placement import Placement
from tta_server.imaging.resampling import positions
from tta_server.views.geometry import Size
from tta_server.views.view import Border

Fill = int | tuple[int, int, int] | Literal["zeros"]
"""Values in [0, 255], of all channels or of each in the model's order; `zeros` are 0 after normalisation."""


class Anchor(StrEnum):
    """Where a letterboxed frame lies in the model's input."""

    CENTER = "center"
    TOP_LEFT = "top_left"


class Pad(StrEnum):
    """What lies to the right of and below a frame that is padded to a multiple."""

    REFLECT = "reflect"
    ZEROS = "zeros"


def inset(anchor: Anchor, frame: Size, tensor: Size) -> tuple[int, int]:
    """Return the position of a letterboxed frame's top left corner in the model's input."""
    if anchor is Anchor.TOP_LEFT:
        return 0, 0
    return (tensor.width - frame.width) // 2, (tensor.height - frame.height) // 2


def fill_pixels(fill: int | tuple[int, int, int], depth: int) -> NDArray[np.float32]:
    """Return pixels (C, 1, 1) of letterbox bars, not normalised."""
    values = np.empty((depth, 1, 1), np.float32)
    values[...] = np.reshape(fill, (-1, 1, 1))
    return values


def fill_around(out: NDArray[np.generic], placement: Placement, bar: NDArray[np.float32]) -> None:
    """Set all beyond the frame to `bar` (C, 1, 1); `out` is (C, H, W)."""
    x, y = placement.inset
    width, height = placement.frame
    for part in (out[:, :y], out[:, y + height :], out[:, :, :x], out[:, :, x + width :]):
        part[...] = bar


def reflect_beyond(out: NDArray[np.generic], placement: Placement) -> None:
    """Reflect the frame to the right and below; `out` is (C, H, W)."""
    (width, height), tensor = placement.frame, placement.tensor
    if width < tensor.width:
        columns = positions(1, width, tensor.width - width, width, Border.REFLECT101)
        out[:, :height, width:] = out[:, :height, columns]
    if height < tensor.height:
        out[:, height:] = out[:, positions(1, height, tensor.height - height, height, Border.REFLECT101)]
