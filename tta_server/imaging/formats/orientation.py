"""Orientation from EXIF and XMP, with the values and precedence of Pillow's `ImageOps.exif_transpose`."""

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.imaging.formats.header import Pixels

TO_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
"""EXIF orientation -> the function that makes stored pixels upright (Exif 2.32, 4.6.4 A)."""

XMP_ORIENTATION = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([0-9])""")
"""XML attribute or element: Pillow's pattern, extended by the spaces and single quotes that XML allows."""

EXIF = b"Exif\0\0"
TIFF_STARTS = (b"II*\0", b"II\0*", b"MM\0*", b"MM*\0")
"""First bytes of the TIFF block in EXIF; Pillow accepts the two invalid byte orders too."""

ORIENTATION = 274
NUMBER_CODES = {3: "H", 4: "I", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q"}
"""TIFF type -> struct code, for the types that hold one number."""

TYPE_BYTES = np.array([1, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 1, 1, 8])
"""Bytes per value, indexed by TIFF type."""

MAX_BLOCKS = 64
VECTORIZE_FROM = 64
"""Entries from which numpy searches a directory faster than a loop."""


def valid_orientation(value: float | None) -> int:
    """Return `value` if it is an orientation, else 1."""
    return int(value) if value in TO_UPRIGHT and value is not None else 1


def from_metadata(exif: bytes | None, xmp: bytes | None) -> int:
    """Return the orientation, 1 to 8, from an EXIF block; from an XMP packet if EXIF has none."""
    found, value = _from_exif(exif or b"")
    if not found and xmp and (match := XMP_ORIENTATION.search(xmp)):
        return valid_orientation(int(match[1]))
    return valid_orientation(value)


def _from_exif(block: bytes) -> tuple[bool, float | None]:
    """Return whether the first directory has an orientation, and its value if that is one number.

    Pillow's parser is not used: it copies the values of all tags, and each may claim the whole file.
    """
    block = block.removeprefix(EXIF).removeprefix(EXIF)
    for kind, count, at in _orientation_entries(block):
        return True, _read_number(block, kind, count, at)
    return False, None


def _read_number(block: bytes, kind: int, count: int, at: int) -> float | None:
    """Return the number that an entry holds; None if it does not hold exactly one."""
    code, order = NUMBER_CODES.get(kind), "<" if block[:2] == b"II" else ">"
    if code is None or count != 1:
        return None
    width = struct.calcsize(code)
    place = at if width <= 4 else struct.unpack_from(order + "I", block, at)[0]
    if place + width > len(block):
        return None
    number: float = struct.unpack_from(order + code, block, place)[0]
    return number


def _orientation_entries(block: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (type, count, offset of the value or of its pointer) of each ORIENTATION entry in the first directory."""
    if len(block) < 10 or not block.startswith(TIFF_STARTS):
        return
    order = "<" if block[:2] == b"II" else ">"
    start = struct.unpack_from(order + "I", block, 4)[0]
    if start + 2 > len(block):
        return
    number = struct.unpack_from(order + "H", block, start)[0]
    places: Sequence[int] = range(start + 2, min(start + 2 + 12 * number, len(block) - 11), 12)
    if len(places) > VECTORIZE_FROM:
        tags: NDArray[np.uint16] = np.ndarray(len(places), order + "u2", block, start + 2, 12)
        places = (start + 2 + 12 * np.flatnonzero(tags == ORIENTATION)).tolist()
    for at in places:
        tag, kind, count = struct.unpack_from(order + "HHI", block, at)
        if tag == ORIENTATION:
            yield kind, count, at + 8


def from_info(info: Mapping[Any, Any]) -> int:
    """Return the orientation from the `info` of a Pillow image whose pixels are not loaded."""
    xmp = info.get("xmp")
    return from_metadata(info.get("exif"), xmp if isinstance(xmp, bytes) else None)


def from_raw_profile(text: bytes) -> bytes | None:
    """Return the EXIF block of ImageMagick's text "Raw profile type exif": a name, a length, hexadecimal lines."""
    try:
        return bytes.fromhex(text.split(b"\n", 3)[3].replace(b"\n", b"").decode("latin-1"))
    except (ValueError, IndexError):
        return None


def _find_all(data: bytes, part: bytes) -> Iterator[int]:
    """Yield each offset of `part`."""
    at = data.find(part)
    while at >= 0:
        yield at
        at = data.find(part, at + 1)


def check_exif_blocks(data: bytes) -> None:
    """Raise ValueError for EXIF blocks whose values, copied tag by tag, need far more memory than the file has bytes.

    For formats whose plugin lets Pillow parse EXIF when it opens a file.
    """
    max_value_bytes = 2 * len(data) + (1 << 20)
    for number, at in enumerate(at for start in TIFF_STARTS for at in _find_all(data, start)):
        order = "<" if data[at : at + 1] == b"I" else ">"
        start = at + int.from_bytes(data[at + 4 : at + 8], "little" if order == "<" else "big")
        head = data[start : start + 2]
        count = min(int.from_bytes(head, "little" if order == "<" else "big"), max(0, len(data) - start - 2) // 12)
        entry = np.dtype([("tag", order + "u2"), ("type", order + "u2"), ("count", order + "u4"), ("value", "u4")])
        entries = np.frombuffer(data, entry, count, min(start + 2, len(data)))
        sizes = TYPE_BYTES[np.minimum(entries["type"], 16) % 17] * entries["count"].astype(np.int64)
        if number >= MAX_BLOCKS or int(np.minimum(sizes, len(data)).sum()) > max_value_bytes:
            raise ValueError("EXIF blocks too many or too large")
