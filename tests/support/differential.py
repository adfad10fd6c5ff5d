"""Compare the decoder with an independent reader, on intact and damaged files."""

import io

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageOps

from tests.support.layouts import by_tifffile
from tta_server.errors import InvalidInput, TTAError
from tta_server.imaging.decoding import Limits, Rendering, decode, read_header, sniff

EQUAL, REFUSED, BROKEN, UNKNOWN, WRONG = "equal", "refused", "broken", "no reference", "wrong"
LEVELS = (-3000.0, 7000.0)
LIMITS = Limits(max_pixels=2_000_000)


def by_pillow(data, form):
    """Decode to upright RGB by Pillow's `Image.open`."""
    if form == "HEIC":
        import pillow_heif

        picture = pillow_heif.open_heif(io.BytesIO(data)).to_pillow()
    else:
        picture = Image.open(io.BytesIO(data), formats=[form])
    if form == "GIF" and getattr(picture, "is_animated", False):
        raise ValueError("several frames")
    picture = picture if form == "HEIC" else ImageOps.exif_transpose(picture)
    picture.info.pop("transparency", None)
    return np.asarray(picture.convert("RGB"))


def by_opencv(data):
    """Decode a PNG of 16 bits to RGB, rounded to 8 bits, not turned upright."""
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if found is None or found.dtype != np.uint16:
        raise ValueError("OpenCV can't read it")
    found = np.repeat(found[..., None], 3, axis=2) if found.ndim == 2 else found[..., 2::-1]
    return np.rint(found / 257).astype(np.uint8)


def levels_seen(data):
    """Return LEVELS; None for samples that levels do not apply to: up to 8 bits, palette, CMYK, YCbCr."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        plain = page.photometric in (3, 5, 6) or (page.bitspersample <= 8 and (page.sampleformat or 1) == 1)
    return None if plain else LEVELS


def is_fax(data):
    """Return whether a TIFF is CCITT: it has no checksums, so readers other than libtiff differ on damaged files."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return int(file.pages[0].compression) in (2, 3, 4)


def expected(data, header):
    if header.format == "TIFF" and not is_fax(data):
        return by_tifffile(data, levels_seen(data))
    if header.format == "PNG" and header.depth == 16:
        return by_opencv(data)
    return by_pillow(data, header.format)


def compare(data):
    """Return EQUAL, REFUSED (415), BROKEN (400), WRONG, or UNKNOWN if the reference can't read an accepted file."""
    rendering = Rendering(levels=LEVELS) if sniff_or_none(data) == "TIFF" else Rendering()
    try:
        header = read_header(data, LIMITS, rendering)
        found = decode(data, header, rendering)
    except InvalidInput:
        return BROKEN
    except TTAError:
        return REFUSED
    try:
        wanted = expected(data, header)
    except Exception:  # noqa: BLE001 - readers raise all kinds of errors
        return UNKNOWN
    return EQUAL if np.array_equal(found, wanted) else WRONG


def sniff_or_none(data):
    try:
        return sniff(data)
    except TTAError:
        return None
