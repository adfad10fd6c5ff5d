"""Moves pixels by an affine map: exact index operations where they serve, bilinear interpolation elsewhere.

One function for both ways: views are sampled from the canvas, predictions are sampled back. Arrays are planar,
(channels, height, width).
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from tta_server.views.geometry import Affine, Size
from tta_server.views.view import Border

Planes = NDArray[np.generic]
Index = slice | NDArray[np.intp]

CV_BORDER = {
    Border.REFLECT101: cv2.BORDER_REFLECT_101,
    Border.REFLECT: cv2.BORDER_REFLECT,
    Border.REPLICATE: cv2.BORDER_REPLICATE,
    Border.CONSTANT: cv2.BORDER_CONSTANT,
}

TOLERANCE = 1e-6
"""How far, in pixels, a map may be from whole pixels and still be done by index."""


def border_index(index: NDArray[np.intp], length: int, border: Border) -> NDArray[np.intp]:
    """Positions on a line of any extent -> positions in [0, length), by the border rule; -1 for black."""
    if border is Border.REPLICATE or (length == 1 and border is not Border.CONSTANT):
        return np.clip(index, 0, length - 1)
    if border is Border.CONSTANT:
        return np.where((index >= 0) & (index < length), index, -1)
    period = 2 * length - (2 if border is Border.REFLECT101 else 0)
    folded = index % period
    return np.where(folded < length, folded, period - folded - (border is Border.REFLECT))


def is_exact(to_source: Affine) -> bool:
    """True for members of the square's symmetry group moved by whole pixels."""
    m = to_source
    linear = (m.xx, m.xy, m.yx, m.yy)
    return all(abs(v - round(v)) < TOLERANCE for v in (*linear, m.tx, m.ty)) and sorted(
        abs(round(v)) for v in linear
    ) == [0, 0, 1, 1]


def sample(source: Planes, to_source: Affine, size: Size, border: Border) -> Planes:
    """What a frame of `size` shows when its point q lies at `to_source`(q) of `source` (C, H, W).

    Exact maps keep dtype and values and may return a view of `source`; others return float32.
    """
    if is_exact(to_source):
        return _gather(source, to_source, size, border)
    source, to_source = _cut(source, to_source, size)
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


def _cut(source: Planes, to_source: Affine, size: Size) -> tuple[Planes, Affine]:
    """The part of a source much larger than what a frame shows of it, and the map to that part."""
    length = (source.shape[2], source.shape[1])
    if length[0] * length[1] <= 4 * size.area:
        return source, to_source
    corners = to_source.apply(np.array([(0, 0), (size.width, 0), (0, size.height), tuple(size)]))
    spans = [_span(low, high, n) for low, high, n in zip(corners.min(axis=0), corners.max(axis=0), length, strict=True)]
    (left, right), (top, below) = spans
    return source[:, top:below, left:right], to_source.then(Affine.shift(-left, -top))


def _span(low: float, high: float, length: int) -> tuple[int, int]:
    """Of a line, the part that is looked at from `low` to `high`; with what a border rule may show beyond its ends."""
    first, last = math.floor(low) - 2, math.ceil(high) + 2
    if first < 0:
        last = max(last, -first)
    if last > length:
        first = min(first, 2 * length - last)
    return max(0, min(first, length)), max(0, min(last, length))


def _gather(source: Planes, m: Affine, size: Size, border: Border) -> Planes:
    """The exact case: each axis of the frame runs along one axis of the source, forwards or backwards."""
    turned = abs(m.xx) < 0.5
    source = source.transpose(0, 2, 1) if turned else source
    # After the transpose the frame's x runs along the last axis.
    (step_x, start_x), (step_y, start_y) = ((m.yx, m.ty), (m.xy, m.tx)) if turned else ((m.xx, m.tx), (m.yy, m.ty))
    columns = _line(step_x, start_x, size.width, source.shape[2], border)
    rows = _line(step_y, start_y, size.height, source.shape[1], border)
    out = source[:, rows, :][:, :, columns]
    for axis, index in ((1, rows), (2, columns)):
        if not isinstance(index, slice) and border is Border.CONSTANT:
            black = [slice(None)] * 3
            black[axis] = index < 0  # type: ignore[call-overload]
            out[tuple(black)] = 0
    return out


def _line(step: float, start: float, count: int, length: int, border: Border) -> Index:
    """Source positions of `count` pixels along one axis: a slice where all lie inside."""
    sign = round(step)
    first = round(start) if sign > 0 else round(start) - 1
    last = first + sign * (count - 1)
    if min(first, last) >= 0 and max(first, last) < length:
        stop = last + sign
        return slice(first, stop if stop >= 0 else None, sign)
    return border_index(np.arange(count) * sign + first, length, border)
