"""From heat maps to points, finer than their cells."""

from collections.abc import Callable
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


def peaks(maps: Floats, probabilities: Callable[[Floats], Floats]) -> tuple[Doubles, Doubles]:
    """Heat maps (J, h, w) of scores -> points (J, 2) in cells, and the probabilities at the peaks (J,).

    Points are x, y in continuous cell coordinates, in which cell i covers [i, i + 1). A point is the centroid, by
    probability, of the cells around the peak that are inside the map; the peak's own centre where all are 0.
    `probabilities` maps scores, rising; a peak that is NaN or infinite stays so.
    """
    joints, height, width = maps.shape
    flat = maps.reshape(joints, -1)
    index = flat.argmax(axis=1)
    tops = flat[np.arange(joints), index]
    y, x = np.divmod(index, width)
    rows, columns = y[:, None] + AROUND, x[:, None] + AROUND
    is_cut = _are_cut(y, height) or _are_cut(x, width)
    if is_cut:
        inside = _inside(rows, height)[:, :, None] & _inside(columns, width)[:, None, :]
        rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    near = probabilities(maps[np.arange(joints)[:, None, None], rows[:, :, None], columns[:, None, :]])
    mass = np.maximum(near, 0).astype(np.float64)
    if is_cut:
        mass = np.where(inside, mass, 0)
    total = mass.sum(axis=(1, 2))
    safe = np.where(total > 0, total, 1)
    points = np.empty((joints, 2))
    with np.errstate(invalid="ignore"):  # an infinite peak has no centroid; is_sound finds it
        points[:, 0] = x + 0.5 + (mass.sum(axis=1) * AROUND).sum(axis=1) / safe
        points[:, 1] = y + 0.5 + (mass.sum(axis=2) * AROUND).sum(axis=1) / safe
    return points, np.where(np.isfinite(tops), near[:, REACH, REACH], tops).astype(np.float64)


def _are_cut(peaks: NDArray[np.intp], length: int) -> bool:
    """Whether any cell around these is outside of an axis."""
    return bool(peaks.min() < REACH or peaks.max() >= length - REACH)


def _inside(places: NDArray[np.intp], length: int) -> NDArray[np.bool_]:
    return (places >= 0) & (places < length)


def points_of(table: NDArray[np.floating[Any]]) -> tuple[Doubles, Doubles]:
    """What `peaks` returns, from a table (J, PEAK_COLUMNS)."""
    numbers = table.astype(np.float64)
    return numbers[:, :2] + 0.5 + numbers[:, 2:4], numbers[:, 4]
