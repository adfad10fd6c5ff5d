"""JPEG: header by libjpeg-turbo, orientation by its segments, pixels by libjpeg-turbo or Pillow."""

import io
from collections.abc import Iterator

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from tta_server.geometry import Size
from tta_server.imaging.header import Header, Limits, Pixels, bounded
from tta_server.imaging.orientation import from_metadata

APP1 = 0xE1
SCAN = 0xDA
EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
FOUR_COLORS = ("CMYK", "YCCK")
MAX_SEGMENTS = 65_536


def read_header(data: bytes, limits: Limits) -> Header:
    size, orientation = bounded(_size(data), "JPEG", limits), _orientation(data)
    return Header("JPEG", size.swapped if orientation >= 5 else size, orientation)


def _size(data: bytes) -> Size:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # a sampling that it has no name for
        with _opened(data) as image:
            width, height = image.size
    return Size(width, height)


def _orientation(data: bytes) -> int:
    """As Pillow puts segments together: EXIF goes on in further segments, of XMP the last one counts."""
    exif: list[bytes] = []
    xmp: bytes | None = None
    for start, end in app1_segments(data):
        if data.startswith(EXIF, start + 4):
            exif.append(data[start + (10 if exif else 4) : end])
        elif data.startswith(XMP, start + 4):
            xmp = data[start + 4 + len(XMP) : end]
    return from_metadata(b"".join(exif), xmp) if exif or xmp else 1


def app1_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the segments APP1, which hold EXIF or XMP, start and end, up to the first scan."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] == SCAN:
            return
        kind = data[at + 1]
        if kind == 0xFF:  # a fill byte
            at += 1
        elif kind <= 0x01 or 0xD0 <= kind <= 0xD8:  # markers without a length
            at += 2
        else:
            end = at + 2 + (data[at + 2] << 8 | data[at + 3])
            if kind == APP1:
                yield at, end
            at = end


def decode(data: bytes) -> Pixels:
    """Stored RGB. libjpeg-turbo without Pillow's copies takes a third of the time for the same pixels; of CMYK, for
    others."""
    try:
        if simplejpeg.decode_jpeg_header(data)[2] in FOUR_COLORS:
            return _decode_pillow(data)
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
        return pixels
    except ValueError:  # a warning that Pillow lets pass
        return _decode_pillow(data)


def _decode_pillow(data: bytes) -> Pixels:
    with _opened(data) as image:
        pixels: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
    return pixels


def _opened(data: bytes) -> JpegImagePlugin.JpegImageFile:
    """Without metadata, whose tags Pillow would parse at any cost."""
    kept, at = [], 0
    for start, end in app1_segments(data):
        kept.append(data[at:start])
        at = end
    return JpegImagePlugin.JpegImageFile(io.BytesIO(b"".join([*kept, data[at:]])))
