"""The tags of a TIFF's or BigTIFF's first page, read from hostile bytes."""

import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import UnsupportedMedia

INTEGERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
"""TIFF type -> numpy type, without byte order: BYTE, SHORT, LONG, IFD, LONG8, IFD8."""

BYTES = {1, 2, 7}
"""BYTE, ASCII, UNDEFINED."""

WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""TIFF type -> bytes of a value."""

MAX_TAGS = 4096


@dataclass(slots=True)
class Tags:
    """`order` is `<` or `>`; entries are (type, count, place of the values), which are read when they are asked for."""

    data: bytes
    order: str
    entries: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def array(self, tag: int, most: int) -> NDArray[np.uint64] | None:
        """The values of a tag, None where it is missing. Raises ValueError for more than `most` values, and for values
        that are not unsigned integers or lie outside the file."""
        if tag not in self.entries:
            return None
        kind, count, place = self.entries[tag]
        if kind not in INTEGERS or not 0 < count <= most:
            raise ValueError(f"tag {tag} holds no unsigned integers, or too many")
        self._check(kind, count, place)
        return np.frombuffer(self.data, self.order + INTEGERS[kind], count, place).astype(np.uint64)

    def integers(self, tag: int, most: int = 256) -> tuple[int, ...] | None:
        """`array` as numbers."""
        found = self.array(tag, most)
        return None if found is None else tuple(found.tolist())

    def integer(self, tag: int, default: int | None = None) -> int:
        """The only value of a tag; raises ValueError for several, or for none without a default."""
        found = self.integers(tag)
        if found is None and default is not None:
            return default
        if found is None or len(found) != 1:
            raise ValueError(f"tag {tag} does not hold one number")
        return found[0]

    def raw(self, tag: int) -> bytes | None:
        """The bytes of a tag, None where it is missing."""
        if tag not in self.entries:
            return None
        kind, count, place = self.entries[tag]
        if kind not in BYTES:
            raise ValueError(f"tag {tag} holds no bytes")
        self._check(kind, count, place)
        return self.data[place : place + count]

    def _check(self, kind: int, count: int, place: int) -> None:
        if place + count * WIDTHS[kind] > len(self.data):
            raise ValueError("values of a tag lie outside the file")


def read_tags(data: bytes) -> Tags:
    """Raises ValueError for a directory that makes no sense, and UnsupportedMedia for several pages."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    if big and struct.unpack_from(order + "HH", data, 4) != (8, 0):
        raise ValueError("no BigTIFF header")
    at = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
    if not 0 < count <= MAX_TAGS:
        raise ValueError("a directory with no tags or with too many")
    at += 8 if big else 2
    width = 8 if big else 4
    tags = Tags(data, order)
    for _ in range(count):
        tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at)
        if tag in tags.entries:
            raise ValueError(f"tag {tag} stands there twice")
        place = at + 4 + width
        if WIDTHS.get(kind, 1) * number > width:
            place = struct.unpack_from(order + ("Q" if big else "I"), data, place)[0]
        tags.entries[tag] = (kind, number, place)
        at += 4 + 2 * width
    if struct.unpack_from(order + ("Q" if big else "I"), data, at)[0]:
        raise UnsupportedMedia("the TIFF image has several frames or pages; send one")
    return tags
