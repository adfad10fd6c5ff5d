"""The cells of the grids that detectors lay over their input, row by row, stride by stride."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.views.geometry import Size

Doubles = NDArray[np.float64]


def count_cells(size: Size, strides: Sequence[int]) -> int:
    """How many cells the grids of these strides have over an input of this size."""
    return sum(-(-size.width // stride) * -(-size.height // stride) for stride in strides)


@lru_cache(maxsize=64)
def cells(size: Size, strides: tuple[int, ...]) -> tuple[Doubles, Doubles]:
    """The middles (A, 2) of the cells in pixels, and their strides (A,), row by row, stride by stride; read only."""
    middles, lengths = [], []
    for stride in strides:
        y, x = np.mgrid[0 : -(-size.height // stride), 0 : -(-size.width // stride)]
        middles.append((np.column_stack([x.ravel(), y.ravel()]) + 0.5) * stride)
        lengths.append(np.full(x.size, float(stride)))
    found = np.concatenate(middles), np.concatenate(lengths)
    for values in found:
        values.flags.writeable = False
    return found


def decode_cells(boxes: NDArray[Any], size: Size, strides: tuple[int, ...]) -> Doubles:
    """Offsets from the corners of cells and logarithms of sides (A, 4), both in strides -> centres and sides in pixels.

    As YOLOX decodes them (Ge et al. 2021).
    """
    middles, lengths = cells(size, strides)
    raw, stride = boxes.astype(np.float64), lengths[:, None]
    with np.errstate(over="ignore"):  # the task finds infinities
        return np.concatenate([raw[:, :2] * stride + (middles - stride / 2), np.exp(raw[:, 2:]) * stride], axis=1)
