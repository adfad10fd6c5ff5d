"""JPEG: header and pixels by libjpeg-turbo or Pillow, orientation from the file's segments."""

import io
import re
from collections.abc import Iterator
from itertools import islice

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from tta_server.errors import InvalidInput
from tta_server.imaging.formats.header import Header, Limits, Pixels, check_size
from tta_server.imaging.formats.orientation import from_metadata
from tta_server.views.geometry import Size

APP0, APP1, APP14, APP15, COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
SCAN, END_OF_IMAGE = 0xDA, 0xD9
SEQUENTIAL = (0xC0, 0xC1, 0xC9)
"""Frame types that have one scan if that scan holds all components."""

EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
FOUR_COLORS = ("CMYK", "YCCK")
MAX_SEGMENTS = 1024
MAX_SCANS = 32
"""libjpeg's progressive script has 10. A scan of 25 Mpx costs up to 80 ms of CPU time, even without any bytes."""

MAX_TABLE_BYTES = 1 << 15
"""Bytes before the first scan, without metadata, that Pillow's parser may be given."""

FILL_BYTES = re.compile(rb"\xff+")
SCAN_MARKER = re.compile(rb"\xff\xda")
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""A marker in the entropy-coded data, other than a restart marker."""


def read_header(data: bytes, limits: Limits) -> Header:
    """Read size and orientation; raise InvalidInput for too many segments or scans, TooLarge for too many pixels."""
    size, found = check_size(_size(data), "JPEG", limits), list(segments(data))
    check_scans(data, found)
    orientation = _orientation(data, found)
    return Header("JPEG", size.swapped if orientation >= 5 else size, orientation)


def _size(data: bytes) -> Size:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # a chroma subsampling that simplejpeg does not know
        with _open_by_pillow(data) as image:
            width, height = image.size
    return Size(width, height)


def _orientation(data: bytes, found: list[tuple[int, int, int]]) -> int:
    """Combine segments as Pillow does: EXIF may continue in further segments, the last XMP segment counts."""
    exif: list[bytes] = []
    xmp: bytes | None = None
    for kind, start, end in found:
        if kind != APP1:
            continue
        if data.startswith(EXIF, start + 4):
            exif.append(data[start + (10 if exif else 4) : end])
        elif data.startswith(XMP, start + 4):
            xmp = data[start + 4 + len(XMP) : end]
    return from_metadata(b"".join(exif), xmp) if exif or xmp else 1


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment up to and including the header of the first scan.

    Stops early at bytes that are no segment. Raises InvalidInput for more than MAX_SEGMENTS.
    """
    at = 2
    for _ in range(MAX_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            return
        kind = data[at + 1]
        if kind == 0xFF and (fill := FILL_BYTES.match(data, at)):
            at = fill.end() - 1
        elif kind <= 0x01 or 0xD0 <= kind <= 0xD8:  # markers without a length
            at += 2
        else:
            end = at + 2 + (data[at + 2] << 8 | data[at + 3])
            yield kind, at, end
            if kind == SCAN:
                return
            at = end
    raise InvalidInput(f"the JPEG image has more than {MAX_SEGMENTS} segments before its pixels")


def check_scans(data: bytes, found: list[tuple[int, int, int]]) -> None:
    """Raise InvalidInput for more than MAX_SCANS scans: each costs time for all pixels, even without bytes.

    `found` are the segments before the pixels.
    """
    last, start, _ = found[-1] if found else (0, 0, 0)
    if last == SCAN and start + 4 < len(data):
        components = data[start + 4]
        if any(kind in SEQUENTIAL and data[at + 9] == components for kind, at, _ in found):
            return
    begin = start if last == SCAN else 2
    if sum(1 for _ in islice(SCAN_MARKER.finditer(data, begin), MAX_SCANS + 1)) > MAX_SCANS:
        _count_scans(data, begin)


def _count_scans(data: bytes, at: int) -> None:
    """Raise InvalidInput for too many scans up to the end of the image; data behind it, as a video, may be anything."""
    scans = 0
    for _ in range(MAX_SEGMENTS):
        marker = MARKER.search(data, at)
        if marker is None or data[marker.end() - 1] == END_OF_IMAGE:
            return
        kind, at = data[marker.end() - 1], marker.end()
        scans += kind == SCAN
        if scans > MAX_SCANS:
            raise InvalidInput(f"the JPEG image has more than {MAX_SCANS} scans: save it with fewer")
        if kind != 0x01 and kind != 0xD8:
            at += int.from_bytes(data[at : at + 2], "big")
    raise InvalidInput(f"the JPEG image has more than {MAX_SEGMENTS} segments between its scans")


def decode(data: bytes) -> Pixels:
    """Decode to RGB, (height, width, 3) uint8, not yet upright.

    libjpeg-turbo without Pillow's copies takes a third of the time for the same pixels. CMYK is left to Pillow, whose
    pixels differ.
    """
    try:
        if simplejpeg.decode_jpeg_header(data)[2] in FOUR_COLORS:
            return _decode_by_pillow(data)
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
        return pixels
    except ValueError:  # simplejpeg raises for warnings that Pillow ignores
        return _decode_by_pillow(data)


def _decode_by_pillow(data: bytes) -> Pixels:
    with _open_by_pillow(data) as image:
        pixels: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
    return pixels


def _open_by_pillow(data: bytes) -> JpegImagePlugin.JpegImageFile:
    """Open without metadata, whose parsing by Pillow has no bound; raise ValueError for tables that are too large."""
    kept, at = [data[:2]], 2
    for kind, start, end in segments(data):
        if not (APP0 < kind <= APP15 or kind == COMMENT) or kind == APP14:
            kept.append(data[start:end])
        at = end
    if sum(map(len, kept)) > MAX_TABLE_BYTES:
        raise ValueError("tables that are too large")
    return JpegImagePlugin.JpegImageFile(io.BytesIO(b"".join([*kept, data[at:]])))
