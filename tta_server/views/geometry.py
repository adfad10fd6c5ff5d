"""Affine maps of the plane: exact composition and inverse, for points, boxes and pixels alike.

Coordinates are continuous pixels, x to the right, y down: pixel i covers [i, i + 1) and its centre is i + 0.5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Matrix entries are kept to 12 decimals, so that a quarter turn is exactly one and digests agree across machines.
DECIMALS = 12


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def swapped(self) -> "Size":
        return Size(self.height, self.width)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Affine:
    """(x, y) -> (xx x + xy y + tx, yx x + yy y + ty), in pixels; the origin is a frame's top left corner."""

    xx: float = 1.0
    xy: float = 0.0
    tx: float = 0.0
    yx: float = 0.0
    yy: float = 1.0
    ty: float = 0.0

    @classmethod
    def shift(cls, x: float, y: float) -> "Affine":
        return cls(tx=x, ty=y)

    @classmethod
    def stretch(cls, x: float, y: float) -> "Affine":
        return cls(xx=x, yy=y)

    @property
    def determinant(self) -> float:
        return self.xx * self.yy - self.xy * self.yx

    def then(self, after: "Affine") -> "Affine":
        """First this map, then `after`."""
        return Affine(
            after.xx * self.xx + after.xy * self.yx,
            after.xx * self.xy + after.xy * self.yy,
            after.xx * self.tx + after.xy * self.ty + after.tx,
            after.yx * self.xx + after.yy * self.yx,
            after.yx * self.xy + after.yy * self.yy,
            after.yx * self.tx + after.yy * self.ty + after.ty,
        )

    def inverse(self) -> "Affine":
        d = self.determinant
        xx, xy, yx, yy = self.yy / d, -self.xy / d, -self.yx / d, self.xx / d
        return Affine(
            xx,
            xy,
            -(xx * self.tx + xy * self.ty),
            yx,
            yy,
            -(yx * self.tx + yy * self.ty),
        )

    def apply(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Points (N, 2) as x, y -> where they land, (N, 2)."""
        x, y = np.asarray(points, np.float64).T
        return np.stack([self.xx * x + self.xy * y + self.tx, self.yx * x + self.yy * y + self.ty], axis=1)


class Quarter(NamedTuple):
    """One of the square's eight symmetries, as the linear part of an affine map with entries -1, 0, 1."""

    xx: int
    xy: int
    yx: int
    yy: int

    def then(self, after: "Quarter") -> "Quarter":
        return Quarter(
            after.xx * self.xx + after.xy * self.yx,
            after.xx * self.xy + after.xy * self.yy,
            after.yx * self.xx + after.yy * self.yx,
            after.yx * self.xy + after.yy * self.yy,
        )


SYMMETRIES: dict[str, Quarter] = {
    "identity": Quarter(1, 0, 0, 1),
    "hflip": Quarter(-1, 0, 0, 1),
    "vflip": Quarter(1, 0, 0, -1),
    "rot90": Quarter(0, 1, -1, 0),
    "rot180": Quarter(-1, 0, 0, -1),
    "rot270": Quarter(0, -1, 1, 0),
    "transpose": Quarter(0, 1, 1, 0),
    "antitranspose": Quarter(0, -1, -1, 0),
}
"""Counter-clockwise turns as a viewer sees them (y points down): rot90 moves the right edge to the top."""


def generated(names: Sequence[str]) -> frozenset[Quarter]:
    """The group that these symmetries generate: what can be composed of them, the identity included."""
    group = {SYMMETRIES["identity"]}
    while True:
        grown = group | {g.then(SYMMETRIES[n]) for g in group for n in names}
        if grown == group:
            return frozenset(group)
        group = grown


@dataclass(frozen=True, slots=True)
class Geometry:
    """An affine map that fits a window of any size: it moves the window's content to the view's frame.

    With p from the window's centre and q from the frame's centre, both in pixels,
    q = linear p + relative (width, height) + offset. `swaps` says that the frame is the window turned,
    height x width. Matrices are row-major: (xx, xy, yx, yy).
    """

    linear: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)
    relative: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    offset: tuple[float, float] = (0.0, 0.0)
    swaps: bool = False

    def __post_init__(self) -> None:
        for name in ("linear", "relative", "offset"):
            entries = tuple(round(float(v), DECIMALS) + 0.0 for v in getattr(self, name))
            object.__setattr__(self, name, entries)

    @property
    def determinant(self) -> float:
        xx, xy, yx, yy = self.linear
        return xx * yy - xy * yx

    @property
    def mirrors(self) -> bool:
        """True where left and right change places, so that paired labels must too."""
        return self.determinant < 0

    @property
    def magnification(self) -> float:
        """How many times content is enlarged: the square root of |determinant|."""
        return math.sqrt(abs(self.determinant))

    def then(self, after: "Geometry") -> "Geometry":
        """First this, then `after`, whose window is this one's frame."""
        a, t = after.linear, after.relative
        if self.swaps:  # `after` measures by the turned frame: its width is the window's height
            t = (t[1], t[0], t[3], t[2])
        moved = _product(a, self.relative)
        return Geometry(
            linear=_product(a, self.linear),
            relative=(moved[0] + t[0], moved[1] + t[1], moved[2] + t[2], moved[3] + t[3]),
            offset=(
                a[0] * self.offset[0] + a[1] * self.offset[1] + after.offset[0],
                a[2] * self.offset[0] + a[3] * self.offset[1] + after.offset[1],
            ),
            swaps=self.swaps != after.swaps,
        )

    def frame(self, window: Size) -> Size:
        """The size of what comes out of a window of that size."""
        return window.swapped if self.swaps else window

    def at(self, window: Size) -> Affine:
        """The map from a window of that size to its frame, both with the origin at the top left."""
        xx, xy, yx, yy = self.linear
        rx, ry, sx, sy = self.relative
        w, h = window
        frame = self.frame(window)
        return Affine(
            xx,
            xy,
            frame.width / 2 - (xx * w + xy * h) / 2 + rx * w + ry * h + self.offset[0],
            yx,
            yy,
            frame.height / 2 - (yx * w + yy * h) / 2 + sx * w + sy * h + self.offset[1],
        )

    def nearest_symmetry(self) -> tuple[Quarter, float]:
        """The closest of the square's symmetries, and the degrees of rotation that remain beyond it."""
        xx, xy, yx, yy = self.linear
        mirror = -1.0 if self.mirrors else 1.0
        # Undo a mirror first: what is left is a counter-clockwise turn [[c, s], [-s, c]] times a zoom.
        angle = math.degrees(math.atan2(xy - mirror * yx, mirror * xx + yy))
        turns = round(angle / 90)
        quarter = SYMMETRIES["identity"]
        for _ in range(turns % 4):
            quarter = quarter.then(SYMMETRIES["rot90"])
        if self.mirrors:
            # linear = turn . hflip, so the mirror comes first
            flip = SYMMETRIES["hflip"]
            quarter = flip.then(quarter)
        return quarter, abs(angle - 90 * turns)


IDENTITY = Geometry()


def _product(
    a: tuple[float, float, float, float], b: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    return (
        a[0] * b[0] + a[1] * b[2],
        a[0] * b[1] + a[1] * b[3],
        a[2] * b[0] + a[3] * b[2],
        a[2] * b[1] + a[3] * b[3],
    )


def symmetry(name: str) -> Geometry:
    """One of `SYMMETRIES` as a geometry; turns and transposes swap width and height."""
    quarter = SYMMETRIES[name]
    return Geometry(linear=tuple(map(float, quarter)), swaps=quarter.xx == 0)  # type: ignore[arg-type]


def rotation(degrees: float) -> Geometry:
    """Counter-clockwise about the window's centre; the frame stays as it is."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return Geometry(linear=(c, s, -s, c))


def zoom(factor: float) -> Geometry:
    """Content enlarged about the window's centre."""
    return Geometry(linear=(factor, 0.0, 0.0, factor))


def shift(x: float, y: float) -> Geometry:
    """Content moved right by x and down by y pixels of the model's input."""
    return Geometry(offset=(x, y))


def crop(fraction: float, x: float, y: float) -> Geometry:
    """A part of the window, `fraction` of each side, centred on (x, y) in [0, 1], enlarged to the whole frame."""
    return Geometry(
        linear=(1 / fraction, 0.0, 0.0, 1 / fraction),
        relative=(-(x - 0.5) / fraction, 0.0, 0.0, -(y - 0.5) / fraction),
    )
