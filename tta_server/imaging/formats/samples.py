"""Decoded samples of any width to RGB of 8 bits: levels, alpha, palette and CMYK."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_server.errors import UnsupportedMedia
from tta_server.imaging.formats.header import Pixels

Levels = tuple[float, float]
"""The values that become 0 and 255."""

BLOCK = 1 << 18
"""Samples converted at a time, so that no wide copy of a whole image is made."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """How samples become RGB of 8 bits, as `tta.yaml` states it: `background` (r, g, b) lies behind transparent pixels,
    None drops alpha; `levels` (low, high) or `auto`, the file's own range, map samples of more than 8 bits."""

    background: tuple[int, int, int] | None = None
    levels: Levels | Literal["auto"] | None = None

    def check(self, name: str, unscaled: str) -> None:
        """Raises UnsupportedMedia for samples `unscaled` whose range nothing states."""
        if unscaled and self.levels is None:
            raise UnsupportedMedia(
                f"the {name} image has {unscaled} samples, whose range the format does not define; they are taken by "
                "models with input.levels: [low, high] or auto, and unsigned samples of up to 16 bits by all models"
            )


DROP = Rendering()
"""The default: alpha is dropped, samples of n bits are scaled by 255 / (2^n - 1)."""


class SampleKind(StrEnum):
    GREY = "grey"
    WHITE_IS_ZERO = "grey, 0 is white"
    RGB = "RGB"
    CMYK = "CMYK"

    @property
    def colors(self) -> int:
        return {"RGB": 3, "CMYK": 4}.get(self, 1)


@dataclass(frozen=True, slots=True)
class Samples:
    """`values` (height, width, bands) of any number type, colours first; `depth` is the number of bits of one sample.

    `alpha` is the band of the opacity, over which the colours are `premultiplied` or not. The colour `key` is
    transparent.
    """

    values: NDArray[Any]
    depth: int
    kind: SampleKind
    alpha: int | None = None
    premultiplied: bool = False
    key: tuple[int, ...] | None = None

    @property
    def most(self) -> int:
        """The largest value of unsigned samples."""
        return (1 << self.depth) - 1


@dataclass(frozen=True, slots=True)
class Picture:
    """RGB pixels, and the levels that were applied, None where none were."""

    pixels: Pixels
    levels: Levels | None = None


def rendered(samples: Samples, rendering: Rendering) -> Picture:
    """RGB (height, width, 3) uint8, each value rounded once."""
    values, kind = samples.values, samples.kind
    levels = _levels(samples, rendering)
    opaque = rendering.background is None or (samples.alpha is None and samples.key is None)
    plain = levels is None and opaque and not samples.premultiplied and kind is not SampleKind.CMYK
    out = np.empty((*values.shape[:2], 3), np.uint8)
    for rows in _blocks(values):
        if plain:
            colors = _scaled(values[rows, :, : kind.colors], samples.depth)
            out[rows] = 255 - colors if kind is SampleKind.WHITE_IS_ZERO else colors
        else:
            out[rows] = np.rint(_blended(samples, rows, levels, rendering))
    return Picture(out, levels)


def _blocks(values: NDArray[Any]) -> Iterator[slice]:
    step = max(1, BLOCK // max(1, values.shape[1] * values.shape[2]))
    for top in range(0, values.shape[0], step):
        yield slice(top, top + step)


def _scaled(values: NDArray[Any], depth: int) -> NDArray[np.uint8]:
    """round(v * 255 / (2^depth - 1)) of unsigned samples of up to 16 bits."""
    if depth == 8:
        return values
    if depth == 16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    most = (1 << depth) - 1
    return ((values.astype(np.uint32) * 255 + most // 2) // most).astype(np.uint8)


def _levels(samples: Samples, rendering: Rendering) -> Levels | None:
    """The levels to apply; `auto` is the range of the finite values of all colours."""
    if samples.kind is SampleKind.CMYK or (samples.depth <= 8 and samples.values.dtype.kind == "u"):
        return None
    if rendering.levels != "auto":
        return rendering.levels
    low, high = np.inf, -np.inf
    for rows in _blocks(samples.values):
        colors = samples.values[rows, :, : samples.kind.colors]
        colors = colors[np.isfinite(colors)] if colors.dtype.kind == "f" else colors
        if colors.size:
            low, high = min(low, float(colors.min())), max(high, float(colors.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _blended(samples: Samples, rows: slice, levels: Levels | None, rendering: Rendering) -> NDArray[np.float64]:
    """Rows of RGB in [0, 255], not yet rounded, over the background."""
    stored, count = samples.values[rows], samples.kind.colors
    colors, opacity, background = stored[..., :count], _opacity(samples, stored), rendering.background
    if samples.premultiplied and samples.alpha is not None and (levels is not None or background is None):
        colors = _divided(colors, stored[..., [samples.alpha]], samples.most)
    values = colors * (255 / samples.most) if levels is None else _levelled(colors, levels)
    if samples.kind is SampleKind.WHITE_IS_ZERO:
        values = 255 - values
    if samples.kind is SampleKind.CMYK:
        values = (255 - values[..., :3]) * (255 - values[..., 3:4]) / 255
    if background is not None and opacity is not None:
        if not samples.premultiplied or levels is not None:
            values = values * opacity
        values = np.minimum(values + np.array(background) * (1 - opacity), 255)
    return np.broadcast_to(values, (*values.shape[:2], 3))


def _divided(colors: NDArray[Any], alpha: NDArray[Any], most: int) -> NDArray[Any]:
    """Premultiplied colours divided by alpha as Pillow does: rounded down, clipped, and 0 where alpha is 0."""
    wide = colors.astype(np.uint64)
    return np.where(alpha == 0, 0, np.minimum(wide * most // np.maximum(alpha, 1), most))


def _levelled(colors: NDArray[Any], levels: Levels) -> NDArray[np.float64]:
    """[low, high] to [0, 255], clipped; NaN becomes 0, and so does everything where low is high."""
    low, high = levels
    values = colors.astype(np.float64)
    if not low < high:
        return np.zeros_like(values)
    with np.errstate(invalid="ignore", over="ignore"):
        values = np.clip((values - low) * 255 / (high - low), 0, 255)
    return np.nan_to_num(values, copy=False, nan=0.0)


def from_image(image: Image.Image, rendering: Rendering) -> Picture:
    """A loaded Pillow image of a mode with 8 bits a sample; a transparent palette entry or colour counts as alpha."""
    if rendering.background is not None and (image.has_transparency_data or "transparency" in image.info):
        return rendered(Samples(np.asarray(image.convert("RGBA")), 8, SampleKind.RGB, alpha=3), rendering)
    image.info.pop("transparency", None)  # alpha is dropped, and Pillow would warn about a palette's
    return Picture(np.asarray(image.convert("RGB")))


def _opacity(samples: Samples, stored: NDArray[Any]) -> NDArray[np.float64] | None:
    """(rows, width, 1) in [0, 1], None for opaque rows."""
    if samples.key is not None:
        differs = stored[..., : samples.kind.colors] != np.array(samples.key)
        return np.asarray(differs.any(axis=2, keepdims=True), np.float64)
    if samples.alpha is None:
        return None
    opacity: NDArray[np.float64] = np.asarray(stored[..., [samples.alpha]]).astype(np.float64)
    opacity /= samples.most
    return opacity
