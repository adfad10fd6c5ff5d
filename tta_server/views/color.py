"""Colour adjustments as one 3x4 matrix on RGB in [0, 255], so that they compose and cost one pass."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_server.views.geometry import DECIMALS

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G, B in grey (ITU-R BT.601), as in Pillow's mode L."""

YIQ = np.array([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
"""RGB to luma and two chroma axes (FCC NTSC, 1953)."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ColorMap:
    """An affine map of RGB in [0, 255]: `rows` (r, g, b, offset) for each of R, G, B. The result is not clipped."""

    rows: tuple[tuple[float, float, float, float], ...] = (
        (1.0, 0.0, 0.0, 0.0),
        (0.0, 1.0, 0.0, 0.0),
        (0.0, 0.0, 1.0, 0.0),
    )

    @classmethod
    def of(cls, linear: Matrix, offset: float = 0.0) -> "ColorMap":
        """Make a map from a (3, 3) matrix and an offset for all channels."""
        rows = np.column_stack([linear, np.full(3, offset)])
        return cls(tuple(tuple(round(float(v), DECIMALS) + 0.0 for v in row) for row in rows))  # type: ignore[misc]

    @property
    def is_identity(self) -> bool:
        """True if the map changes no colour."""
        return self == IDENTITY

    @property
    def matrix(self) -> Matrix:
        """Coefficients, (3, 4) float64."""
        return np.array(self.rows)

    def then(self, after: "ColorMap") -> "ColorMap":
        """Compose: first this map, then `after`."""
        a, b = self.matrix, after.matrix
        m = b[:, :3] @ a
        m[:, 3] += b[:, 3]
        return ColorMap(tuple(tuple(round(float(v), DECIMALS) + 0.0 for v in row) for row in m))  # type: ignore[misc]


IDENTITY = ColorMap()


def brightness(factor: float) -> ColorMap:
    """Multiply all channels by `factor`."""
    return ColorMap.of(np.eye(3) * factor)


def contrast(factor: float) -> ColorMap:
    """Multiply the difference from mid grey, 127.5, by `factor`."""
    return ColorMap.of(np.eye(3) * factor, 127.5 * (1 - factor))


def saturation(factor: float) -> ColorMap:
    """Multiply the difference from the pixel's luma by `factor`; 0 makes it grey."""
    return ColorMap.of(np.eye(3) * factor + (1 - factor) * np.array([LUMA] * 3))


def hue(degrees: float) -> ColorMap:
    """Rotate the two chroma axes of YIQ; luma is unchanged."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return ColorMap.of(np.linalg.inv(YIQ) @ turn @ YIQ)


def grayscale() -> ColorMap:
    """Replace all channels by luma."""
    return saturation(0.0)
