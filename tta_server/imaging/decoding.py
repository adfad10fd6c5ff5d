"""Encoded bytes to upright RGB: format and size from the header first, pixels after admission."""

from collections.abc import Callable

import numpy as np

from tta_server.errors import InvalidInput, TooLarge, UnsupportedMedia
from tta_server.imaging.formats import jpeg, plugins, png, tiff, webp
from tta_server.imaging.formats.header import BOMBS, BROKEN, Header, Limits, Pixels
from tta_server.imaging.formats.orientation import UPRIGHT
from tta_server.imaging.formats.samples import DROP, Picture, Rendering, Samples, from_image, rendered
from tta_server.views.geometry import Size

__all__ = ["MAGIC", "Header", "Limits", "Pixels", "Rendering", "decode", "decode_picture", "read_header", "sniff"]

MAGIC: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda b: b.startswith(b"\xff\xd8\xff"),
    "PNG": lambda b: b.startswith(b"\x89PNG\r\n\x1a\n"),
    "WEBP": lambda b: b[:4] == b"RIFF" and b[8:12] == b"WEBP",
    "BMP": lambda b: b.startswith(b"BM"),
    "TIFF": lambda b: b[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "GIF": lambda b: b[:6] in (b"GIF87a", b"GIF89a"),
    "AVIF": lambda b: plugins.brand(b) == "AVIF",
    "HEIC": lambda b: plugins.brand(b) == "HEIC",
}
"""The formats that are taken, by their first bytes."""


def sniff(data: bytes) -> str:
    """The format's name; raises UnsupportedMedia for any that is not taken."""
    head = data[:64]
    for name, matches in MAGIC.items():
        if matches(head):
            return name
    raise UnsupportedMedia(f"this is not an image in {', '.join(MAGIC)}")


def read_header(data: bytes, limits: Limits, rendering: Rendering | None = None) -> Header:
    """Format, upright size and orientation without decoding a pixel; with a `rendering`, also whether it suffices.

    Raises UnsupportedMedia, TooLarge, or InvalidInput for a header that makes no sense.
    """
    if not data:
        raise InvalidInput("the image is empty: send the bytes of an image file")
    if len(data) > limits.max_bytes:
        raise TooLarge(f"the image has {len(data)} bytes; at most {limits.max_bytes} are taken (--max-bytes)")
    name = sniff(data)
    try:
        header = READERS[name](data, limits)
    except BROKEN as error:
        raise InvalidInput(f"the {name} image is broken: its header can't be read") from error
    except BOMBS as error:
        raise TooLarge(f"the {name} image has frames that are too large") from error
    if rendering is not None:
        rendering.check(name, header.unscaled)
    return header


READERS: dict[str, Callable[[bytes, Limits], Header]] = {
    "JPEG": jpeg.read_header,
    "PNG": png.read_header,
    "TIFF": tiff.read_header,
    "WEBP": webp.read_header,
    **plugins.READERS,
}


def decode(data: bytes, header: Header, rendering: Rendering = DROP) -> Pixels:
    """Upright RGB, (height, width, 3) uint8; see `decode_picture`."""
    return decode_picture(data, header, rendering).pixels


def decode_picture(data: bytes, header: Header, rendering: Rendering = DROP) -> Picture:
    """Upright RGB and the levels applied; samples of n bits become round(v * 255 / (2^n - 1)) where there are none.

    Raises InvalidInput for an image that breaks off or makes no sense, UnsupportedMedia for samples that need levels.
    """
    rendering.check(header.format, header.unscaled)
    try:
        stored = _stored(data, header, rendering)
    except BROKEN as error:
        raise InvalidInput(f"the {header.format} image is broken: its pixels can't be read") from error
    except BOMBS as error:
        raise TooLarge(f"the {header.format} image has frames that are too large") from error
    pixels = UPRIGHT[header.orientation](stored.pixels) if header.orientation > 1 else stored.pixels
    if Size(pixels.shape[1], pixels.shape[0]) != header.size:
        raise InvalidInput(f"the {header.format} image is broken: its header gives another size")
    return Picture(np.ascontiguousarray(pixels), stored.levels)


def _stored(data: bytes, header: Header, rendering: Rendering) -> Picture:
    if header.format == "JPEG":
        return Picture(jpeg.decode(data))
    if header.format == "TIFF":
        return rendered(tiff.decode(data), rendering)
    found = png.decode(data) if header.format == "PNG" else plugins.decode(data, header.format)
    return rendered(found, rendering) if isinstance(found, Samples) else from_image(found, rendering)
