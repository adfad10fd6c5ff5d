"""Colour as one 3x4 matrix on RGB in [0, 255]: adjustments compose exactly and cost one pass."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_server.views.geometry import DECIMALS

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G, B in grey (ITU-R BT.601), those of Pillow's 'L' mode."""

YIQ = np.array([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
"""RGB to luma and two chroma axes (FCC NTSC, 1953)."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ColorMap:
    """`rows` of (r, g, b, offset) for each of R, G, B; the result is not clipped here."""

    rows: tuple[tuple[float, float, float, float], ...] = (
        (1.0, 0.0, 0.0, 0.0),
        (0.0, 1.0, 0.0, 0.0),
        (0.0, 0.0, 1.0, 0.0),
    )

    @classmethod
    def of(cls, linear: Matrix, offset: float = 0.0) -> "ColorMap":
        rows = np.column_stack([linear, np.full(3, offset)])
        return cls(tuple(tuple(round(float(v), DECIMALS) + 0.0 for v in row) for row in rows))  # type: ignore[misc]

    @property
    def is_identity(self) -> bool:
        return self == IDENTITY

    @property
    def matrix(self) -> Matrix:
        """(3, 4), float64."""
        return np.array(self.rows)

    def then(self, after: "ColorMap") -> "ColorMap":
        """First this map, then `after`."""
        a, b = self.matrix, after.matrix
        m = b[:, :3] @ a
        m[:, 3] += b[:, 3]
        return ColorMap(tuple(tuple(round(float(v), DECIMALS) + 0.0 for v in row) for row in m))  # type: ignore[misc]


IDENTITY = ColorMap()


def brightness(factor: float) -> ColorMap:
    """Every channel times `factor`."""
    return ColorMap.of(np.eye(3) * factor)


def contrast(factor: float) -> ColorMap:
    """Distance from mid grey, 127.5, times `factor`."""
    return ColorMap.of(np.eye(3) * factor, 127.5 * (1 - factor))


def saturation(factor: float) -> ColorMap:
    """Distance from the pixel's own grey times `factor`; 0 is grey."""
    return ColorMap.of(np.eye(3) * factor + (1 - factor) * np.array([LUMA] * 3))


def hue(degrees: float) -> ColorMap:
    """A turn of the two chroma axes of YIQ; luma stays."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return ColorMap.of(np.linalg.inv(YIQ) @ turn @ YIQ)


def grayscale() -> ColorMap:
    return saturation(0.0)
