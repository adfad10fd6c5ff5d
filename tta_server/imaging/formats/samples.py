"""Convert decoded samples of any type to 8-bit RGB: levels, alpha and CMYK."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_server.errors import UnsupportedMedia
from tta_server.imaging.formats.header import Pixels, Raster
from tta_server.views.geometry import Size

Levels = tuple[float, float]
"""(low, high): the sample values that become 0 and 255."""

BLOCK_SAMPLES = 1 << 18
"""Samples converted at a time, so that no wide copy of the whole image exists."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """How samples become 8-bit RGB: `input.background` and `input.levels` of `tta.yaml`.

    `background` (r, g, b) in [0, 255] lies behind transparent pixels; None drops alpha. `levels` map samples of more
    than 8 bits; `auto` is the range of the file's own values.
    """

    background: tuple[int, int, int] | None = None
    levels: Levels | Literal["auto"] | None = None

    def check(self, name: str, unscaled: str) -> None:
        """Raise UnsupportedMedia for `unscaled` samples (see `Header`) if there are no levels for them."""
        if unscaled and self.levels is None:
            raise UnsupportedMedia(
                f"the {name} image has {unscaled} samples, whose range the format does not define; send unsigned "
                "samples of up to 16 bits, or set input.levels in the model's tta.yaml to [low, high] or auto"
            )


DEFAULT_RENDERING = Rendering()
"""Alpha is dropped, samples of n bits are scaled by 255 / (2^n - 1)."""


class SampleKind(StrEnum):
    """The colour space of samples."""

    GREY = "grey"
    WHITE_IS_ZERO = "grey, 0 is white"
    RGB = "RGB"
    CMYK = "CMYK"

    @property
    def colors(self) -> int:
        """Number of colour bands."""
        return {"RGB": 3, "CMYK": 4}.get(self, 1)


@dataclass(frozen=True, slots=True)
class Samples:
    """Stored samples: `values` (height, width, bands) of any numeric dtype, colour bands first; `depth` in bits.

    `alpha` is the index of the alpha band; colours may be `premultiplied` by it. Pixels of the colour `key` are
    transparent.
    """

    values: NDArray[Any]
    depth: int
    kind: SampleKind
    alpha: int | None = None
    premultiplied: bool = False
    key: tuple[int, ...] | None = None

    @property
    def max_value(self) -> int:
        """Largest value of an unsigned sample."""
        return (1 << self.depth) - 1


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """RGB pixels as they were decoded, and the levels that were applied; None if none were."""

    raster: Raster
    levels: Levels | None = None

    @property
    def size(self) -> Size:
        """Width and height in pixels."""
        return raster_size(self.raster)

    @property
    def pixels(self) -> Pixels:
        """The pixels as an array, which is made for each call if they are a Pillow image."""
        return np.asarray(self.raster)


def raster_size(raster: Raster) -> Size:
    """Return width and height in pixels."""
    return Size(*(raster.size if isinstance(raster, Image.Image) else raster.shape[1::-1]))


def render(samples: Samples, rendering: Rendering) -> DecodedImage:
    """Convert to RGB, (height, width, 3) uint8; each value is rounded once."""
    values, kind = samples.values, samples.kind
    levels = _levels(samples, rendering)
    opaque = rendering.background is None or (samples.alpha is None and samples.key is None)
    plain = levels is None and opaque and not samples.premultiplied and kind is not SampleKind.CMYK
    out = np.empty((*values.shape[:2], 3), np.uint8)
    for rows in _row_blocks(values):
        if plain:
            colors = _to_8_bit(values[rows, :, : kind.colors], samples.depth)
            out[rows] = 255 - colors if kind is SampleKind.WHITE_IS_ZERO else colors
        else:
            out[rows] = np.rint(_blend(samples, rows, levels, rendering))
    return DecodedImage(out, levels)


def _row_blocks(values: NDArray[Any]) -> Iterator[slice]:
    step = max(1, BLOCK_SAMPLES // max(1, values.shape[1] * values.shape[2]))
    for top in range(0, values.shape[0], step):
        yield slice(top, top + step)


def _to_8_bit(values: NDArray[Any], depth: int) -> NDArray[np.uint8]:
    """Return round(v * 255 / (2^depth - 1)) of unsigned samples of up to 16 bits."""
    if depth == 8:
        return values
    if depth == 16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    max_value = (1 << depth) - 1
    return ((values.astype(np.uint32) * 255 + max_value // 2) // max_value).astype(np.uint8)


def _levels(samples: Samples, rendering: Rendering) -> Levels | None:
    """Return the levels to apply; `auto` is the range of the finite values of all colour bands."""
    if samples.kind is SampleKind.CMYK or (samples.depth <= 8 and samples.values.dtype.kind == "u"):
        return None
    if rendering.levels != "auto":
        return rendering.levels
    low, high = np.inf, -np.inf
    for rows in _row_blocks(samples.values):
        colors = samples.values[rows, :, : samples.kind.colors]
        colors = colors[np.isfinite(colors)] if colors.dtype.kind == "f" else colors
        if colors.size:
            low, high = min(low, float(colors.min())), max(high, float(colors.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _blend(samples: Samples, rows: slice, levels: Levels | None, rendering: Rendering) -> NDArray[np.float64]:
    """Return rows of RGB in [0, 255] over the background, not yet rounded."""
    stored, count = samples.values[rows], samples.kind.colors
    colors, opacity, background = stored[..., :count], _opacity(samples, stored), rendering.background
    if samples.premultiplied and samples.alpha is not None and (levels is not None or background is None):
        colors = _unpremultiply(colors, stored[..., [samples.alpha]], samples.max_value)
    values = colors * (255 / samples.max_value) if levels is None else _apply_levels(colors, levels)
    if samples.kind is SampleKind.WHITE_IS_ZERO:
        values = 255 - values
    if samples.kind is SampleKind.CMYK:
        values = (255 - values[..., :3]) * (255 - values[..., 3:4]) / 255
    if background is not None and opacity is not None:
        if not samples.premultiplied or levels is not None:
            values = values * opacity
        values = np.minimum(values + np.array(background) * (1 - opacity), 255)
    return np.broadcast_to(values, (*values.shape[:2], 3))


def _unpremultiply(colors: NDArray[Any], alpha: NDArray[Any], max_value: int) -> NDArray[Any]:
    """Divide premultiplied colours by alpha as Pillow does: rounded down, clipped, 0 where alpha is 0."""
    wide = colors.astype(np.uint64)
    return np.where(alpha == 0, 0, np.minimum(wide * max_value // np.maximum(alpha, 1), max_value))


def _apply_levels(colors: NDArray[Any], levels: Levels) -> NDArray[np.float64]:
    """Map [low, high] to [0, 255] and clip. NaN becomes 0; all values do where low equals high."""
    low, high = levels
    values = colors.astype(np.float64)
    if not low < high:
        return np.zeros_like(values)
    with np.errstate(invalid="ignore", over="ignore"):
        values = np.clip((values - low) * 255 / (high - low), 0, 255)
    return np.nan_to_num(values, copy=False, nan=0.0)


def render_image(image: Image.Image, rendering: Rendering) -> DecodedImage:
    """Convert a loaded Pillow image with 8 bits per sample; a transparent palette entry or colour counts as alpha."""
    if rendering.background is not None and (image.has_transparency_data or "transparency" in image.info):
        return render(Samples(np.asarray(image.convert("RGBA")), 8, SampleKind.RGB, alpha=3), rendering)
    image.info.pop("transparency", None)  # alpha is dropped, and Pillow warns about a palette with one
    return DecodedImage(image if image.mode == "RGB" else image.convert("RGB"))


def _opacity(samples: Samples, stored: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return opacity, (rows, width, 1) in [0, 1]; None for opaque rows."""
    if samples.key is not None:
        differs = stored[..., : samples.kind.colors] != np.array(samples.key)
        return np.asarray(differs.any(axis=2, keepdims=True), np.float64)
    if samples.alpha is None:
        return None
    opacity: NDArray[np.float64] = np.asarray(stored[..., [samples.alpha]]).astype(np.float64)
    opacity /= samples.max_value
    return opacity
