"""Decode an image file to upright RGB: header before admission, pixels after it."""

from collections.abc import Callable

import numpy as np

from tta_server.errors import InvalidInput, TooLarge, UnsupportedMedia
from tta_server.imaging.formats import jpeg, plugins, png, tiff, webp
from tta_server.imaging.formats.header import BOMB_ERRORS, PARSE_ERRORS, Header, Limits, Pixels, Raster
from tta_server.imaging.formats.orientation import TO_UPRIGHT
from tta_server.imaging.formats.samples import DEFAULT_RENDERING, DecodedImage, Rendering, Samples, render, render_image

__all__ = [
    "MAGIC",
    "Header",
    "Limits",
    "Pixels",
    "Raster",
    "Rendering",
    "decode",
    "decode_with_levels",
    "read_header",
    "sniff",
]

MAGIC: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda head: head.startswith(b"\xff\xd8\xff"),
    "PNG": lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"),
    "WEBP": lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    "BMP": lambda head: head.startswith(b"BM"),
    "TIFF": lambda head: head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "GIF": lambda head: head[:6] in (b"GIF87a", b"GIF89a"),
    "AVIF": lambda head: plugins.format_by_brand(head) == "AVIF",
    "HEIC": lambda head: plugins.format_by_brand(head) == "HEIC",
}
"""Supported format -> test of a file's first bytes."""


def sniff(data: bytes) -> str:
    """Return the name of the file's format; raise UnsupportedMedia for an unsupported one."""
    head = data[:64]
    for name, matches in MAGIC.items():
        if matches(head):
            return name
    raise UnsupportedMedia(f"this is not an image in a supported format; supported: {', '.join(MAGIC)}")


def read_header(data: bytes, limits: Limits, rendering: Rendering | None = None) -> Header:
    """Read format, upright size and orientation without decoding a pixel.

    Raises TooLarge; InvalidInput for an invalid header; UnsupportedMedia for an unsupported format or layout, and for
    samples that need levels which `rendering`, if given, does not have.
    """
    if not data:
        raise InvalidInput("the image is empty: send the bytes of an image file")
    if len(data) > limits.max_bytes:
        raise TooLarge(f"the image has {len(data)} bytes; the limit is {limits.max_bytes} (--max-bytes)")
    name = sniff(data)
    try:
        header = HEADER_READERS[name](data, limits)
    except PARSE_ERRORS as error:
        raise InvalidInput(f"the {name} image is broken: its header can't be read") from error
    except BOMB_ERRORS as error:
        raise TooLarge(f"the {name} image has frames that are too large") from error
    if rendering is not None:
        rendering.check(name, header.unscaled)
    return header


HEADER_READERS: dict[str, Callable[[bytes, Limits], Header]] = {
    "JPEG": jpeg.read_header,
    "PNG": png.read_header,
    "TIFF": tiff.read_header,
    "WEBP": webp.read_header,
    **plugins.HEADER_READERS,
}


def decode(data: bytes, header: Header, rendering: Rendering = DEFAULT_RENDERING) -> Pixels:
    """Decode to upright RGB, (height, width, 3) uint8; raises as `decode_with_levels` does."""
    return decode_with_levels(data, header, rendering).pixels


def decode_with_levels(data: bytes, header: Header, rendering: Rendering = DEFAULT_RENDERING) -> DecodedImage:
    """Decode to upright RGB, and return the levels that were applied.

    Without levels, samples of n bits become round(v * 255 / (2^n - 1)). Raises InvalidInput for a truncated or invalid
    file, UnsupportedMedia for samples that need levels.
    """
    rendering.check(header.format, header.unscaled)
    try:
        image = _decode_stored(data, header, rendering)
    except PARSE_ERRORS as error:
        raise InvalidInput(f"the {header.format} image is broken: its pixels can't be read") from error
    except BOMB_ERRORS as error:
        raise TooLarge(f"the {header.format} image has frames that are too large") from error
    if header.orientation > 1:
        image = DecodedImage(np.ascontiguousarray(TO_UPRIGHT[header.orientation](image.pixels)), image.levels)
    if image.size != header.size:
        raise InvalidInput(f"the {header.format} image is broken: its pixels have another size than its header states")
    return image


def _decode_stored(data: bytes, header: Header, rendering: Rendering) -> DecodedImage:
    if header.format == "JPEG":
        return DecodedImage(jpeg.decode(data))
    if header.format == "TIFF":
        return render(tiff.decode(data), rendering)
    found = png.decode(data) if header.format == "PNG" else plugins.decode(data, header.format)
    return render(found, rendering) if isinstance(found, Samples) else render_image(found, rendering)
