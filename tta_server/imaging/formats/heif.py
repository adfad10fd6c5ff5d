"""How many pixels of a HEIC its decoder would decode: a grid may name tiles that are far larger than itself, or twice.

Boxes are those of ISO/IEC 14496-12 and 23008-12.
"""

from collections.abc import Iterator
from itertools import islice

from tta_server.errors import InvalidInput
from tta_server.imaging.formats.header import Limits
from tta_server.views.geometry import Size

MAX_BOXES = 65_536
MAX_PARTS = 4096
MAX_LEVELS = 4
"""Of parts of parts; cameras write one or two."""

PADDING = 1 << 22
"""Pixels that tiles may have beyond four times the picture's."""

Box = tuple[bytes, int, int]
"""Its name, and where its content starts and ends."""


def check_tiles(data: bytes, size: Size, limits: Limits) -> None:
    """Raises InvalidInput where the parts that a picture is derived from have far more pixels than the picture, before
    or after it is cropped to `size`."""
    meta = [box for box in _boxes(data, 0, len(data)) if box[0] == b"meta"]
    within = [box for _, start, end in meta for box in _boxes(data, start + 4, end)]
    parts: dict[int, list[int]] = {}
    areas: dict[int, int] = {}
    for name, start, end in within:
        if name == b"iref":
            parts |= _parts(data, start, end)
        elif name == b"iprp":
            areas |= _areas(data, start, end)
    if sum(map(len, parts.values())) > MAX_PARTS:
        raise InvalidInput(f"the HEIC image is made of more than {MAX_PARTS} parts")
    unknown, found = limits.max_pixels, dict.fromkeys(parts, 0)
    for _ in range(MAX_LEVELS):  # each round knows one level more of parts of parts
        before = dict(found)
        for item, others in parts.items():
            found[item] = sum(before.get(other, areas.get(other, unknown)) for other in others)
    whole = {item: min(max(areas.get(item, 0), size.area), limits.max_pixels) for item in parts}
    if found != before or any(found[item] > 4 * whole[item] + PADDING for item in parts):
        raise InvalidInput("the HEIC image is broken: its tiles have far more pixels than the picture")


def _boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    for _ in range(MAX_BOXES):
        if start + 8 > end:
            return
        length, name, head = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        stop = end if length == 0 else min(start + length, end)
        if stop < start + head:
            raise ValueError("a box without an end")
        yield name, start + head, stop
        start = stop


def _parts(data: bytes, start: int, end: int) -> dict[int, list[int]]:
    """Item -> the items that it is derived from (iref, dimg)."""
    width = 4 if data[start] else 2
    found: dict[int, list[int]] = {}
    for name, at, stop in _boxes(data, start + 4, end):
        if name == b"dimg":
            numbers = _numbers(data, at + width + 2, stop, width)
            item, count = (int.from_bytes(data[at : at + width], "big"), data[at + width : at + width + 2])
            found.setdefault(item, []).extend(islice(numbers, int.from_bytes(count, "big")))
    return found


def _numbers(data: bytes, start: int, end: int, width: int) -> Iterator[int]:
    for at in range(start, end - width + 1, width):
        yield int.from_bytes(data[at : at + width], "big")


def _areas(data: bytes, start: int, end: int) -> dict[int, int]:
    """Item -> its pixels (ipco, ispe; ipma)."""
    stated: list[int] = []
    found: dict[int, int] = {}
    for name, at, stop in list(_boxes(data, start, end)):
        if name == b"ipco":
            for kind, place, _ in _boxes(data, at, stop):
                width, height = (data[place + k : place + k + 4] for k in (4, 8))
                area = int.from_bytes(width, "big") * int.from_bytes(height, "big")
                stated.append(area if kind == b"ispe" else 0)
        elif name == b"ipma":
            for item, properties in _associations(data, at, stop):
                found[item] = max(stated[number - 1] if 0 < number <= len(stated) else 0 for number in [0, *properties])
    return {item: area for item, area in found.items() if area}


def _associations(data: bytes, at: int, end: int) -> Iterator[tuple[int, list[int]]]:
    """(item, numbers of its properties)."""
    wide_item, wide = (4 if data[at] else 2), (2 if data[at + 3] & 1 else 1)
    at += 8
    while at + wide_item < end:
        item, count = int.from_bytes(data[at : at + wide_item], "big"), data[at + wide_item]
        at += wide_item + 1
        numbers = _numbers(data, at, min(at + count * wide, end), wide)
        yield item, [number & (0x7FFF if wide == 2 else 0x7F) for number in numbers]
        at += count * wide
