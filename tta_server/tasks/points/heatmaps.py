"""From heat maps to points, finer than their cells."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.base import Floats

Doubles = NDArray[np.float64]
REACH = 2
"""Cells on each side of the peak that the centroid is taken over."""
PEAK_COLUMNS = 5
"""Of a table of peaks: column and row of the cell, x and y from its centre to the point, probability there."""
AROUND = np.arange(-REACH, REACH + 1)
STEPS = AROUND.astype(np.float64)
LEAST = 1e-300
"""Less than any mass that is not 0, and keeps a division by it defined."""


def peaks(maps: Floats, probabilities: Callable[[Floats], Floats]) -> tuple[Doubles, Doubles]:
    """Heat maps (J, h, w) of scores -> points (J, 2) in cells, and the probabilities at the peaks (J,).

    Points are x, y in continuous cell coordinates, in which cell i covers [i, i + 1). A point is the centroid, by
    probability, of the cells around the peak that are inside the map; the peak's own centre where all are 0.
    `probabilities` maps scores, rising; a peak that is NaN or infinite stays so.
    """
    joints, height, width = maps.shape
    flat = maps.reshape(joints, -1)
    index = flat.argmax(axis=1)
    y, x = np.unravel_index(index, (height, width))
    scores = flat.take(index[:, None, None] + _around(maps.shape), mode="clip")  # wrong beyond an edge
    near = probabilities(scores)
    mass = np.maximum(near, 0, dtype=np.float64)
    if _are_cut(y, height) or _are_cut(x, width):
        inside = _inside(y[:, None] + AROUND, height)[:, :, None] & _inside(x[:, None] + AROUND, width)[:, None, :]
        mass = np.where(inside, mass, 0)
    total = np.maximum(mass.sum(axis=(1, 2)), LEAST)
    points = np.empty((joints, 2))
    with np.errstate(invalid="ignore"):  # an infinite peak has no centroid; is_sound finds it
        points[:, 0] = x + 0.5 + (mass.sum(axis=1) * STEPS).sum(axis=1) / total
        points[:, 1] = y + 0.5 + (mass.sum(axis=2) * STEPS).sum(axis=1) / total
    tops = scores[:, REACH, REACH]
    return points, np.where(np.isfinite(tops), near[:, REACH, REACH], tops).astype(np.float64)


@lru_cache(maxsize=64)
def _around(maps: tuple[int, int, int]) -> NDArray[np.intp]:
    """From a cell of each map of that shape to the cells around it, by place in the maps' memory, (J, 5, 5)."""
    joints, height, width = maps
    return np.arange(joints)[:, None, None] * (height * width) + AROUND[:, None] * width + AROUND


def _are_cut(peaks: NDArray[np.intp], length: int) -> bool:
    """Whether any cell around these is outside of an axis."""
    places: list[int] = peaks.tolist()  # of a few numbers these two are cheaper than NumPy's
    return min(places) < REACH or max(places) >= length - REACH


def _inside(places: NDArray[np.intp], length: int) -> NDArray[np.bool_]:
    return (places >= 0) & (places < length)


def points_of(table: NDArray[np.floating[Any]]) -> tuple[Doubles, Doubles]:
    """What `peaks` returns, from a table (J, PEAK_COLUMNS)."""
    numbers = table.astype(np.float64)
    return numbers[:, :2] + 0.5 + numbers[:, 2:4], numbers[:, 4]
