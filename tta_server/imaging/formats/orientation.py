"""Orientation from EXIF and XMP, with the values and the precedence of Pillow's `ImageOps.exif_transpose`."""

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.imaging.formats.header import Pixels

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

EXIF = b"Exif\0\0"
BLOCKS = (b"II*\0", b"II\0*", b"MM\0*", b"MM*\0")
"""How the TIFF block of EXIF starts; Pillow takes the two wrong orders too."""

ORIENTATION = 274
NUMBERS = {3: "H", 4: "I", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q"}
"""TIFF type -> its struct code, of the types that hold one number."""

WIDTHS = np.array([1, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 1, 1, 8])
"""Bytes of a value of each TIFF type."""

MAX_BLOCKS = 64
MANY_TAGS = 64
"""From here on numpy looks through a directory faster."""


def stated(value: float | None) -> int:
    """A known orientation, or 1."""
    return int(value) if value in UPRIGHT and value is not None else 1


def from_metadata(exif: bytes | None, xmp: bytes | None) -> int:
    """Orientation 1 to 8 from an EXIF block and an XMP packet; XMP counts where EXIF has no orientation."""
    found, value = _from_exif(exif or b"")
    if not found and xmp and (match := XMP.search(xmp)):
        return stated(int(match[1]))
    return stated(value)


def _from_exif(block: bytes) -> tuple[bool, float | None]:
    """Whether the first directory states an orientation, and its value if that is one number. Read here because
    Pillow's parser copies the values of all tags, of which hostile ones claim the whole file each."""
    block = block.removeprefix(EXIF).removeprefix(EXIF)
    for kind, count, at in _entries(block):
        return True, _number(block, kind, count, at)
    return False, None


def _number(block: bytes, kind: int, count: int, at: int) -> float | None:
    """The one number that an entry holds, None where it holds another thing."""
    code, order = NUMBERS.get(kind), "<" if block[:2] == b"II" else ">"
    if code is None or count != 1:
        return None
    width = struct.calcsize(code)
    place = at if width <= 4 else struct.unpack_from(order + "I", block, at)[0]
    if place + width > len(block):
        return None
    number: float = struct.unpack_from(order + code, block, place)[0]
    return number


def _entries(block: bytes) -> Iterator[tuple[int, int, int]]:
    """(type, count, place of the value or of its offset) of each ORIENTATION in a block's first directory."""
    if len(block) < 10 or not block.startswith(BLOCKS):
        return
    order = "<" if block[:2] == b"II" else ">"
    start = struct.unpack_from(order + "I", block, 4)[0]
    if start + 2 > len(block):
        return
    number = struct.unpack_from(order + "H", block, start)[0]
    places: Sequence[int] = range(start + 2, min(start + 2 + 12 * number, len(block) - 11), 12)
    if len(places) > MANY_TAGS:
        tags: NDArray[np.uint16] = np.ndarray(len(places), order + "u2", block, start + 2, 12)
        places = (start + 2 + 12 * np.flatnonzero(tags == ORIENTATION)).tolist()
    for at in places:
        tag, kind, count = struct.unpack_from(order + "HHI", block, at)
        if tag == ORIENTATION:
            yield kind, count, at + 8


def from_info(info: Mapping[Any, Any]) -> int:
    """Orientation from the `info` of a Pillow image whose pixels are not loaded."""
    xmp = info.get("xmp")
    return from_metadata(info.get("exif"), xmp if isinstance(xmp, bytes) else None)


def from_raw_profile(text: bytes) -> bytes | None:
    """The EXIF block in the text "Raw profile type exif" of ImageMagick: a name, a length, then hexadecimal lines."""
    try:
        return bytes.fromhex(text.split(b"\n", 3)[3].replace(b"\n", b"").decode("latin-1"))
    except (ValueError, IndexError):
        return None


def _places(data: bytes, part: bytes) -> Iterator[int]:
    at = data.find(part)
    while at >= 0:
        yield at
        at = data.find(part, at + 1)


def check_blocks(data: bytes) -> None:
    """Raises ValueError for a file with EXIF blocks whose values, copied tag by tag, would be far larger than itself.
    For plugins that have Pillow parse EXIF when they open a file."""
    most = 2 * len(data) + (1 << 20)
    for number, at in enumerate(at for start in BLOCKS for at in _places(data, start)):
        order = "<" if data[at : at + 1] == b"I" else ">"
        start = at + int.from_bytes(data[at + 4 : at + 8], "little" if order == "<" else "big")
        head = data[start : start + 2]
        count = min(int.from_bytes(head, "little" if order == "<" else "big"), max(0, len(data) - start - 2) // 12)
        entry = np.dtype([("tag", order + "u2"), ("type", order + "u2"), ("count", order + "u4"), ("value", "u4")])
        entries = np.frombuffer(data, entry, count, min(start + 2, len(data)))
        sizes = WIDTHS[np.minimum(entries["type"], 16) % 17] * entries["count"].astype(np.int64)
        if number >= MAX_BLOCKS or int(np.minimum(sizes, len(data)).sum()) > most:
            raise ValueError("EXIF blocks too many or too large")
