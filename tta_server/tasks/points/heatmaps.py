"""From heat maps to points, finer than their cells."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.base import Floats

Doubles = NDArray[np.float64]
REACH = 2
"""Cells on each side of the peak that the centroid is taken over."""


def peaks(maps: Floats, probabilities: Callable[[Floats], Floats]) -> tuple[Doubles, Doubles]:
    """Heat maps (J, h, w) of scores -> points (J, 2) in cells, and the probabilities at the peaks (J,).

    Points are x, y in continuous cell coordinates, in which cell i covers [i, i + 1). A point is the centroid, by
    probability, of the cells around the peak that are inside the map; the peak's own centre where all are 0.
    `probabilities` maps scores, rising.
    """
    joints, height, width = maps.shape
    flat = maps.reshape(joints, -1).argmax(axis=1)
    y, x = np.divmod(flat, width)
    around = np.arange(-REACH, REACH + 1)
    rows, columns = y[:, None] + around, x[:, None] + around
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    near = probabilities(maps[np.arange(joints)[:, None, None], rows[:, :, None], columns[:, None, :]])
    tops = near[:, REACH, REACH].astype(np.float64)
    mass = np.where(inside, np.maximum(near, 0), 0).astype(np.float64)
    total = mass.sum(axis=(1, 2))
    safe = np.where(total > 0, total, 1)
    with np.errstate(invalid="ignore"):  # an infinite peak has no centroid; is_sound finds it
        offset = np.stack([(mass.sum(axis=1) * around).sum(axis=1), (mass.sum(axis=2) * around).sum(axis=1)], axis=1)
        points = np.stack([x, y], axis=1) + 0.5 + offset / safe[:, None]
    return points, tops
