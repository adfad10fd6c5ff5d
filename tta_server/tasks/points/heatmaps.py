"""From heat maps to points, finer than their cells."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.base import Floats

Doubles = NDArray[np.float64]
REACH = 2
"""Cells around the peak, on each side, of which the centroid is taken."""


def peaks(maps: Floats, probabilities: Callable[[Floats], Floats]) -> tuple[Doubles, Doubles]:
    """Heat maps (J, h, w) of scores -> points (J, 2) in continuous cell coordinates, x and y, in which cell i covers
    [i, i + 1), and the peaks' probabilities (J,), which rise with the scores.

    A point is the centroid, by probability, of the cells around the peak, fewer of them at the map's edge; the peak's
    own centre where all are 0.
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
    with np.errstate(invalid="ignore"):  # an infinite peak has no centroid, and is told of by its value
        aside = np.stack([(mass.sum(axis=1) * around).sum(axis=1), (mass.sum(axis=2) * around).sum(axis=1)], axis=1)
        points = np.stack([x, y], axis=1) + 0.5 + aside / safe[:, None]
    return points, tops
