"""Resample pixels by an affine map: index operations for whole-pixel maps, bilinear interpolation for others.

The same function samples views from a canvas and predictions back to the plain view's frame. Arrays are planar,
(channels, height, width).
"""

import math
from functools import lru_cache
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from tta_server.views.geometry import Affine, Size
from tta_server.views.view import Border

T = TypeVar("T", bound=np.generic)
Planes = NDArray[np.generic]
Index = slice | NDArray[np.intp]
Run = tuple[int, float]
"""Sign and start: the frame's pixel i begins or ends at the source's coordinate start + sign i."""

FLIP_CODES = {(True, False): 0, (False, True): 1, (True, True): -1}
"""(along y, along x) -> OpenCV's code of a flip."""

CV_BORDER = {
    Border.REFLECT101: cv2.BORDER_REFLECT_101,
    Border.REFLECT: cv2.BORDER_REFLECT,
    Border.REPLICATE: cv2.BORDER_REPLICATE,
    Border.CONSTANT: cv2.BORDER_CONSTANT,
}

TOLERANCE = 1e-6
"""Distance from whole pixels, in pixels, up to which a map is done by index."""


def border_index(index: NDArray[np.intp], length: int, border: Border) -> NDArray[np.intp]:
    """Map positions beyond an axis to positions in [0, length) by the border rule; -1 is black."""
    if border is Border.REPLICATE or (length == 1 and border is not Border.CONSTANT):
        return np.clip(index, 0, length - 1)
    if border is Border.CONSTANT:
        return np.where((index >= 0) & (index < length), index, -1)
    period = 2 * length - (2 if border is Border.REFLECT101 else 0)
    folded = index % period
    return np.where(folded < length, folded, period - folded - (border is Border.REFLECT))


def is_exact(to_source: Affine) -> bool:
    """True for the square's symmetries combined with shifts by whole pixels."""
    m = to_source
    linear = (m.xx, m.xy, m.yx, m.yy)
    return all(abs(v - round(v)) < TOLERANCE for v in (*linear, m.tx, m.ty)) and sorted(
        abs(round(v)) for v in linear
    ) == [0, 0, 1, 1]


def sample(source: Planes, to_source: Affine, size: Size, border: Border) -> Planes:
    """Return (C, size.height, size.width): each point q of the frame shows `source` (C, H, W) at `to_source`(q).

    Exact maps keep dtype and values, and may return a numpy view of `source`; others return float32.
    """
    if is_exact(to_source):
        return _gather(source, to_source, size, border)
    part = visible_part(Size(source.shape[2], source.shape[1]), to_source, size)
    source, to_source = part.of(source), to_source.then(part.from_whole)
    matrix = np.array(
        [
            [to_source.xx, to_source.xy, to_source.tx + (to_source.xx + to_source.xy - 1) / 2],
            [to_source.yx, to_source.yy, to_source.ty + (to_source.yx + to_source.yy - 1) / 2],
        ]
    )
    out = np.empty((len(source), size.height, size.width), np.float32)
    for plane, target in zip(source, out, strict=True):
        cv2.warpAffine(
            np.ascontiguousarray(plane, np.float32),
            matrix,
            size,
            dst=target,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=CV_BORDER[border],
        )
    return out


class Part(NamedTuple):
    """A part of an image: from pixel (left, top) to before (right, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> Size:
        """Its width and height."""
        return Size(self.right - self.left, self.bottom - self.top)

    @property
    def from_whole(self) -> Affine:
        """The map from the image to this part."""
        return Affine.shift(-self.left, -self.top)

    def of(self, planes: NDArray[T]) -> NDArray[T]:
        """Cut it from planes (C, H, W)."""
        return planes[:, self.top : self.bottom, self.left : self.right]


def visible_part(source: Size, to_source: Affine, size: Size) -> Part:
    """Return the part of a source that a frame of `size` is sampled from, whatever its border; all unless it is small.

    Sampling from it by the map to the part gives the same as sampling from the source.
    """
    if source.area <= 4 * size.area:
        return Part(0, 0, *source)
    corners = to_source.apply(np.array([(0, 0), (size.width, 0), (0, size.height), tuple(size)]))
    (left, right), (top, bottom) = (
        _visible_span(low, high, n)
        for low, high, n in zip(corners.min(axis=0), corners.max(axis=0), source, strict=True)
    )
    return Part(left, top, right, bottom)


def _visible_span(low: float, high: float, length: int) -> tuple[int, int]:
    """Return the part of an axis needed to sample from `low` to `high`, with the pixels that a border rule reflects."""
    first, last = math.floor(low) - 2, math.ceil(high) + 2
    if first < 0:
        last = max(last, -first)
    if last > length:
        first = min(first, 2 * length - last)
    return max(0, min(first, length)), max(0, min(last, length))


def copy_exact(source: Planes, to_source: Affine, border: Border, out: Planes) -> None:
    """Write to `out` (C, height, width) what `sample` returns for an exact map; `border` is not CONSTANT."""
    source, swaps, along_x, along_y = _turn(source, to_source)
    _, height, width = out.shape
    right, columns = _inside(*along_x, width, source.shape[2])
    down, rows = _inside(*along_y, height, source.shape[1])
    backwards = along_y[0] < 0, along_x[0] < 0
    _copy_planes(source[:, rows, columns], swaps, backwards, out[:, down, right])
    if right == slice(0, width) and down == slice(0, height):
        return
    x = positions(*along_x, width, source.shape[2], border)
    y = positions(*along_y, height, source.shape[1], border)
    for part in _beside(right, width):
        out[:, down, part] = source[:, :, x[part]][:, y[down]]
    for part in _beside(down, height):
        out[:, part] = source[:, y[part]][:, :, x]


def _beside(part: slice, length: int) -> list[slice]:
    """Return what lies before and after a part of an axis, without empty parts."""
    return [rest for rest in (slice(0, part.start), slice(part.stop, length)) if rest.start < rest.stop]


def _copy_planes(source: Planes, is_turned: bool, backwards: tuple[bool, bool], out: Planes) -> None:
    """Copy planes of equal shape, read backwards along (y, x); `source` may be the transpose of an array in memory.

    OpenCV flips and transposes 3 to 5 times as fast as NumPy.
    """
    flip_y, flip_x = backwards
    plain = not (is_turned or flip_y or flip_x)
    if plain or source.dtype != np.float32 or out.dtype != np.float32 or out.strides[2] != 4 or not out.size:
        out[...] = source[:, :: -1 if flip_y else 1, :: -1 if flip_x else 1]
        return
    for plane, target in zip(source, out, strict=True):
        if is_turned:
            cv2.transpose(plane.T, target)
        if flip_x or flip_y:
            cv2.flip(target if is_turned else plane, FLIP_CODES[backwards], target)


def _turn(source: Planes, m: Affine) -> tuple[Planes, bool, Run, Run]:
    """Return the source with its axes in the order of the frame's, whether they were swapped, and the run along each.

    Each axis of the frame runs along one axis of the source, forwards or backwards.
    """
    if abs(m.xx) < 0.5:
        return source.transpose(0, 2, 1), True, (round(m.yx), m.ty), (round(m.xy), m.tx)
    return source, False, (round(m.xx), m.tx), (round(m.yy), m.ty)


def _gather(source: Planes, m: Affine, size: Size, border: Border) -> Planes:
    """Sample by index."""
    source, _, along_x, along_y = _turn(source, m)
    columns = _axis_index(*along_x, size.width, source.shape[2], border)
    rows = _axis_index(*along_y, size.height, source.shape[1], border)
    out = source[:, rows, :][:, :, columns]
    for axis, index in ((1, rows), (2, columns)):
        if not isinstance(index, slice) and border is Border.CONSTANT:
            black = [slice(None)] * 3
            black[axis] = index < 0  # type: ignore[call-overload]
            out[tuple(black)] = 0
    return out


def _axis_index(sign: int, start: float, count: int, length: int, border: Border) -> Index:
    """Return the source positions of `count` pixels along one axis; a slice if all lie inside."""
    first = _first(sign, start)
    last = first + sign * (count - 1)
    if min(first, last) >= 0 and max(first, last) < length:
        stop = last + sign
        return slice(first, stop if stop >= 0 else None, sign)
    return positions(sign, start, count, length, border)


def _first(sign: int, start: float) -> int:
    """Return the source position of a frame's first pixel; the run starts at the coordinate `start`."""
    return round(start) if sign > 0 else round(start) - 1


@lru_cache(maxsize=64)  # an entry has 8 bytes a pixel
def positions(sign: int, start: float, count: int, length: int, border: Border) -> NDArray[np.intp]:
    """Return the source positions of `count` pixels along one axis of `length`, by the border rule where outside."""
    return border_index(np.arange(count) * sign + _first(sign, start), length, border)


def _inside(sign: int, start: float, count: int, length: int) -> tuple[slice, slice]:
    """Return which of `count` pixels along one axis lie inside the source, and where there, in ascending order."""
    first = _first(sign, start)
    low = -first if sign > 0 else first - length + 1
    begin = min(max(low, 0), count)
    end = max(min(low + length, count), begin)
    nearest = first + sign * (begin if sign > 0 else end - 1)
    return slice(begin, end), slice(nearest, nearest + end - begin)
