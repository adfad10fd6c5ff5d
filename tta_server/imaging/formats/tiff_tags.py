"""Read the tags of the first page of a TIFF or BigTIFF from untrusted bytes."""

import struct
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import UnsupportedMedia

INTEGER_TYPES = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
"""TIFF type -> numpy dtype without byte order: BYTE, SHORT, LONG, IFD, LONG8, IFD8."""

BYTE_TYPES = {1, 2, 7}
"""BYTE, ASCII, UNDEFINED."""

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""TIFF type -> bytes per value."""

MAX_TAGS = 4096


class Tag(IntEnum):
    """Tag numbers (TIFF 6.0 and its supplements)."""

    SUBFILE = 254
    OLD_SUBFILE = 255
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTES = 279
    PLANAR = 284
    T4_OPTIONS = 292
    T6_OPTIONS = 293
    PREDICTOR = 317
    COLOR_MAP = 320
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_BYTES = 325
    INK_SET = 332
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    XMP = 700


@dataclass(slots=True)
class Tags:
    """Byte `order`, `<` or `>`, and `entries`: tag -> (type, count, offset of the values), which are read on access."""

    data: bytes
    order: str
    entries: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def array(self, tag: int, max_count: int) -> NDArray[np.uint64] | None:
        """Return the values of a tag; None if it is missing.

        Raises ValueError for more than `max_count` values, and for values that are not unsigned integers or lie outside
        the file.
        """
        if tag not in self.entries:
            return None
        kind, count, place = self.entries[tag]
        if kind not in INTEGER_TYPES or not 0 < count <= max_count:
            raise ValueError(f"tag {tag} holds no unsigned integers, or too many")
        self._check_bounds(kind, count, place)
        return np.frombuffer(self.data, self.order + INTEGER_TYPES[kind], count, place).astype(np.uint64)

    def integers(self, tag: int, max_count: int = 256) -> tuple[int, ...] | None:
        """Return `array` as a tuple."""
        found = self.array(tag, max_count)
        return None if found is None else tuple(found.tolist())

    def integer(self, tag: int, default: int | None = None) -> int:
        """Return the only value of a tag, or `default` if it is missing; raise ValueError otherwise."""
        found = self.integers(tag)
        if found is None and default is not None:
            return default
        if found is None or len(found) != 1:
            raise ValueError(f"tag {tag} does not hold one number")
        return found[0]

    def raw(self, tag: int) -> bytes | None:
        """Return the bytes of a tag; None if it is missing."""
        if tag not in self.entries:
            return None
        kind, count, place = self.entries[tag]
        if kind not in BYTE_TYPES:
            raise ValueError(f"tag {tag} holds no bytes")
        self._check_bounds(kind, count, place)
        return self.data[place : place + count]

    def _check_bounds(self, kind: int, count: int, place: int) -> None:
        if place + count * TYPE_BYTES[kind] > len(self.data):
            raise ValueError("values of a tag lie outside the file")


def read_tags(data: bytes) -> Tags:
    """Read the first directory; raise ValueError for an invalid one, UnsupportedMedia for several pages."""
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
            raise ValueError(f"tag {tag} is repeated")
        place = at + 4 + width
        if TYPE_BYTES.get(kind, 1) * number > width:
            place = struct.unpack_from(order + ("Q" if big else "I"), data, place)[0]
        tags.entries[tag] = (kind, number, place)
        at += 4 + 2 * width
    if struct.unpack_from(order + ("Q" if big else "I"), data, at)[0]:
        raise UnsupportedMedia("the TIFF image has several frames or pages; send one")
    return tags
