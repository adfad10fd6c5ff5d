"""What a decoder knows of an image before it decodes a pixel."""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_server.errors import InvalidInput, TooLarge
from tta_server.views.geometry import Size

Pixels = NDArray[np.uint8]
"""(height, width, 3), RGB, upright."""

BROKEN = (
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
"""What parsers and decoders raise on hostile bytes, besides Pillow's bomb errors."""

BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest image that is taken. `input_*` bound what a model is given at once, `canvas_*` the resized image."""

    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    input_pixels: int = 16_000_000
    input_side: int = 16_384
    canvas_side: int = 65_535

    @property
    def canvas_pixels(self) -> int:
        """The whole canvas is memory, which a job reserves; the model may look at it in tiles."""
        return max(self.input_pixels, self.max_pixels)


@dataclass(frozen=True, slots=True)
class Header:
    """`size` is the upright one, `depth` the number of bits of a sample. `unscaled` names the kind of samples whose
    range no format defines (signed, float, 32 bits and more): those need levels; it is empty for all others. `unpacked`
    is the number of bytes of samples that decoding holds besides the file and the pixels."""

    format: str
    size: Size
    orientation: int = 1
    depth: int = 8
    unscaled: str = ""
    unpacked: int = 0


def bounded(size: Size, name: str, limits: Limits) -> Size:
    """Returns `size`; raises InvalidInput if it is empty and TooLarge if it has more than `max_pixels` pixels."""
    if size.area == 0:
        raise InvalidInput(f"the {name} image is empty: its size is {size}")
    if size.area > limits.max_pixels:
        raise TooLarge(f"the image is {size}, {size.area} pixels; at most {limits.max_pixels} are taken (--max-pixels)")
    return size
