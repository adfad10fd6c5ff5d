"""Orientation from EXIF and XMP, with the values and the precedence of Pillow's `ImageOps.exif_transpose`."""

import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from tta_server.imaging.header import BROKEN, Pixels

UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
"""EXIF orientation -> what makes the stored pixels upright (Exif 2.32, 4.6.4 A)."""

XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([0-9])""")
"""An attribute or an element; Pillow's own pattern, and the spaces and single quotes that XML allows."""


def stated(value: object) -> int:
    """A known orientation, or 1."""
    return int(value) if isinstance(value, Hashable) and value in UPRIGHT else 1


def from_metadata(exif: bytes | None, xmp: bytes | None) -> int:
    """Orientation 1 to 8 from an EXIF block and an XMP packet; XMP counts where EXIF has no orientation."""
    tags = Image.Exif()
    if exif:
        try:
            tags.load(exif)
        except BROKEN:  # unreadable metadata does not make the pixels unreadable
            tags = Image.Exif()
    value = tags.get(ExifTags.Base.Orientation)
    if value is None and xmp and (match := XMP.search(xmp)):
        return stated(int(match[1]))
    return stated(value)


def from_info(info: Mapping[Any, Any]) -> int:
    """Orientation from the `info` of a Pillow image whose pixels are not loaded."""
    xmp = info.get("xmp")
    return from_metadata(info.get("exif"), xmp if isinstance(xmp, bytes) else None)


def from_raw_profile(text: bytes) -> bytes | None:
    """The EXIF block in the text "Raw profile type exif" of ImageMagick: a name, a length, then hexadecimal lines."""
    try:
        return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:]))
    except ValueError:
        return None
