"""JPEG: header by libjpeg-turbo, orientation by its segments, pixels by libjpeg-turbo or Pillow."""

import io

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from tta_server.geometry import Size
from tta_server.imaging.header import Header, Limits, Pixels, bounded
from tta_server.imaging.orientation import from_info

EXIF = b"Exif\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
FOUR_COLORS = ("CMYK", "YCCK")
MAX_SEGMENTS = 65_536


def read_header(data: bytes, limits: Limits) -> Header:
    if not has_metadata(data):
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        return Header("JPEG", bounded(Size(width, height), "JPEG", limits))
    with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as image:
        size = bounded(Size(*image.size), "JPEG", limits)
        orientation = from_info(image.info)
    return Header("JPEG", size.swapped if orientation >= 5 else size, orientation)


def has_metadata(data: bytes) -> bool:
    """Whether an APP1 segment before the first scan holds EXIF or XMP."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        marker = data[at : at + 2]
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] == 0xDA:
            return marker[:1] not in (b"", b"\xff")  # not at a marker: leave the rest to Pillow's parser
        kind = marker[1]
        if kind == 0xE1 and data.startswith((EXIF, XMP), at + 4):
            return True
        if kind == 0xFF:  # a fill byte
            at += 1
        elif kind <= 0x01 or 0xD0 <= kind <= 0xD8:  # markers without a length
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True


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
    with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as image:
        pixels: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
    return pixels
