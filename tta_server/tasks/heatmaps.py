"""From heat maps to points, finer than their cells."""

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.base import Floats

Doubles = NDArray[np.float64]
REACH = 2
"""Cells around the peak, on each side, of which the centroid is taken."""


def peaks(maps: Floats) -> tuple[Doubles, Doubles]:
    """Heat maps (J, h, w) of probabilities -> points (J, 2) in continuous cell coordinates, x and y, in which cell i
    covers [i, i + 1), and the peaks' values (J,).

    A point is the centroid of the cells around the peak, less of them at the map's edge; the peak's own centre where
    all are 0.
    """
    joints, height, width = maps.shape
    flat = maps.reshape(joints, -1).argmax(axis=1)
    tops = maps.reshape(joints, -1)[np.arange(joints), flat]
    y, x = np.divmod(flat, width)
    around = np.arange(-REACH, REACH + 1)
    rows, columns = y[:, None] + around, x[:, None] + around
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    near = np.where(inside, maps[np.arange(joints)[:, None, None], rows[:, :, None], columns[:, None, :]], 0)
    mass = np.maximum(near.astype(np.float64), 0)
    total = mass.sum(axis=(1, 2))
    safe = np.where(total > 0, total, 1)
    aside = np.stack([(mass.sum(axis=1) * around).sum(axis=1), (mass.sum(axis=2) * around).sum(axis=1)], axis=1)
    points = np.stack([x, y], axis=1) + 0.5 + aside / safe[:, None]
    return points, tops.astype(np.float64)
