"""The header of an image, known before any pixel is decoded, and the limits that it is checked against."""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_server.errors import InvalidInput, TooLarge
from tta_server.views.geometry import Size

Pixels = NDArray[np.uint8]
"""(height, width, 3) uint8, RGB, upright."""

Raster = Pixels | Image.Image
"""The same pixels as an array, or as a loaded Pillow image of mode RGB, which is resized without a copy."""

PARSE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""The exceptions that parsers and decoders raise for invalid bytes, besides Pillow's bomb errors."""

BOMB_ERRORS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest image that is accepted.

    `input_*` bound one input of a model, `canvas_*` the resized image. Pixels are counted as width times height.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    input_pixels: int = 16_000_000
    input_side: int = 16_384
    canvas_side: int = 65_535

    @property
    def canvas_pixels(self) -> int:
        """The largest canvas in pixels. A model that tiles reads a canvas larger than one input."""
        return max(self.input_pixels, self.max_pixels)


@dataclass(frozen=True, slots=True)
class Header:
    """Format, upright `size`, EXIF `orientation` 1 to 8, and `depth` in bits per sample.

    `unscaled` names a sample type whose range no format defines (signed, float, 32 bits and more), which needs levels;
    it is empty for all others. `sample_bytes` is the memory that decoding needs besides the file and the RGB pixels.
    """

    format: str
    size: Size
    orientation: int = 1
    depth: int = 8
    unscaled: str = ""
    sample_bytes: int = 0


def check_size(size: Size, name: str, limits: Limits) -> Size:
    """Return `size`; raise InvalidInput for an empty image, TooLarge for more than `max_pixels` pixels."""
    if size.area == 0:
        raise InvalidInput(f"the {name} image is empty: its size is {size}")
    if size.area > limits.max_pixels:
        raise TooLarge(f"the image is {size}, {size.area} pixels; the limit is {limits.max_pixels} (--max-pixels)")
    return size
