"""Resize as torch does without antialias, in NumPy: `torch.nn.functional.interpolate` on float32, then rounded.

Equals `torchvision.transforms.functional.resize(tensor, size, antialias=False)` of a uint8 tensor (0.28, torch 2.13, on
x86 with AVX2 or AVX-512 and several threads): align_corners=False, bicubic clipped to [0, 255], rounded half to even.
There torch fuses some products and sums; the same ones are fused here.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tta_server.views.geometry import Size

Floats = NDArray[np.float32]
BLOCK_VALUES = 1 << 17
"""Values of the result that are made at a time."""
ONE, HALF, CUBIC = np.float32(1), np.float32(0.5), np.float32(-0.75)


class Taps(NamedTuple):
    """For each of n pixels along an axis its k source pixels, `source` (k, n), and their `weight` (k, n)."""

    source: NDArray[np.intp]
    weight: Floats


def _fused(a: Floats, b: Floats, c: Floats | np.float32) -> Floats:
    """a b + c, rounded once to float32: the product of two float32 is exact in float64."""
    return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)


def _scale(length: int, new: int) -> np.float32:
    return np.float32(length) / np.float32(new)


def _positions(length: int, new: int) -> Floats:
    """Return where the new pixels' centres lie in the source, counted from the centre of its first pixel."""
    centres = np.arange(new, dtype=np.float32) + HALF
    return _fused(centres, np.full(new, _scale(length, new), np.float32), -HALF)


def _nearest(length: int, new: int) -> Taps:
    index = np.floor(np.arange(new, dtype=np.float32) * _scale(length, new)).astype(np.intp)
    return Taps(np.minimum(index, length - 1)[None], np.ones((1, new), np.float32))


def _linear(length: int, new: int) -> Taps:
    at = np.maximum(_positions(length, new), np.float32(0))
    first = np.minimum(np.floor(at).astype(np.intp), length - 1)
    part = np.clip(at - first.astype(np.float32), np.float32(0), ONE)
    return Taps(np.stack([first, np.minimum(first + 1, length - 1)]), np.stack([ONE - part, part]))


def _cubic(length: int, new: int) -> Taps:
    at = _positions(length, new)
    first = np.floor(at)
    part = at - first
    index = first.astype(np.intp) + np.arange(-1, 3).reshape(-1, 1)
    other = ONE - part
    weight = np.stack([_cubic_far(part + ONE), _cubic_near(part), _cubic_near(other), _cubic_far(other + ONE)])
    return Taps(np.clip(index, 0, length - 1), weight)


def _cubic_near(x: Floats) -> Floats:
    return ((CUBIC + np.float32(2)) * x - (CUBIC + np.float32(3))) * x * x + ONE


def _cubic_far(x: Floats) -> Floats:
    return _fused(CUBIC * x - np.float32(5) * CUBIC, x, np.float32(8) * CUBIC) * x - np.float32(4) * CUBIC


TAPS: dict[str, Callable[[int, int], Taps]] = {"bilinear": _linear, "bicubic": _cubic, "nearest": _nearest}
TORCH_INTERPOLATIONS = tuple(TAPS)


def resize_as_torch(pixels: NDArray[np.uint8], size: Size, interpolation: str) -> NDArray[np.uint8]:
    """Resize (H, W) or (H, W, C) uint8 by one of TORCH_INTERPOLATIONS."""
    taps = TAPS[interpolation]
    rows, columns = taps(pixels.shape[0], size.height), taps(pixels.shape[1], size.width)
    out = np.empty((size.height, size.width, *pixels.shape[2:]), np.uint8)
    if interpolation == "nearest":
        out[...] = pixels[rows.source[0][:, None], columns.source[0]]
        return out
    step = max(1, BLOCK_VALUES // max(1, out[0].size))
    for first in range(0, size.height, step):
        block = slice(first, first + step)
        values = _weighted(pixels, Taps(rows.source[:, block], rows.weight[:, block]), columns)
        out[block] = np.clip(np.rint(values), 0, 255)
    return out


def _weighted(pixels: NDArray[np.uint8], rows: Taps, columns: Taps) -> Floats:
    """Return weighted means of pixels: first along each row that is needed, then across rows."""
    needed, place = np.unique(rows.source, return_inverse=True)
    colors = (1,) * (pixels.ndim - 2)
    pixels = pixels[needed]
    parts = [np.take(pixels, column, axis=1).astype(np.float32) for column in columns.source]
    lines = _sum(parts, [weight.reshape(1, -1, *colors) for weight in columns.weight])
    parts = [lines[line] for line in place.reshape(rows.source.shape)]
    return _sum(parts, [weight.reshape(-1, 1, *colors) for weight in rows.weight])


def _sum(parts: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    """Sum parts times weights in torch's order: the second product is rounded, all others are fused."""
    total = _fused(parts[0], weights[0], parts[1] * weights[1])
    for part, weight in zip(parts[2:], weights[2:], strict=True):
        total = _fused(part, weight, total)
    return total
