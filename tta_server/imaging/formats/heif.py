"""Bound the pixels that the decoder of a HEIC decodes: a grid may have tiles far larger than itself, or repeat them.

Boxes are those of ISO/IEC 14496-12 and 23008-12.
"""

from collections.abc import Iterator
from itertools import islice

from tta_server.errors import InvalidInput
from tta_server.imaging.formats.header import Limits
from tta_server.views.geometry import Size

MAX_BOXES = 65_536
MAX_PARTS = 4096
MAX_DEPTH = 4
"""Levels of images derived from derived images; cameras write one or two."""

PADDING_PIXELS = 1 << 22
"""Pixels that tiles may have beyond four times those of the image."""

Box = tuple[bytes, int, int]
"""Name, start and end of the content."""


def check_tiles(data: bytes, size: Size, limits: Limits) -> None:
    """Raise InvalidInput if the parts of an image have far more pixels than the image, uncropped or of `size`."""
    meta = [box for box in _boxes(data, 0, len(data)) if box[0] == b"meta"]
    within = [box for _, start, end in meta for box in _boxes(data, start + 4, end)]
    parts: dict[int, list[int]] = {}
    areas: dict[int, int] = {}
    for name, start, end in within:
        if name == b"iref":
            parts |= _sources(data, start, end)
        elif name == b"iprp":
            areas |= _areas(data, start, end)
    if sum(map(len, parts.values())) > MAX_PARTS:
        raise InvalidInput(f"the HEIC image is made of more than {MAX_PARTS} parts")
    unknown, found = limits.max_pixels, dict.fromkeys(parts, 0)
    for _ in range(MAX_DEPTH):  # each round resolves one more level of derived images
        before = dict(found)
        for item, others in parts.items():
            found[item] = sum(before.get(other, areas.get(other, unknown)) for other in others)
    whole = {item: min(max(areas.get(item, 0), size.area), limits.max_pixels) for item in parts}
    if found != before or any(found[item] > 4 * whole[item] + PADDING_PIXELS for item in parts):
        raise InvalidInput("the HEIC image is broken: its tiles have far more pixels than the image")


def _boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    for _ in range(MAX_BOXES):
        if start + 8 > end:
            return
        length, name, head = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        stop = end if length == 0 else min(start + length, end)
        if stop < start + head:
            raise ValueError("a box shorter than its header")
        yield name, start + head, stop
        start = stop


def _sources(data: bytes, start: int, end: int) -> dict[int, list[int]]:
    """Return item -> the items that it is derived from (iref, dimg)."""
    width = 4 if data[start] else 2
    found: dict[int, list[int]] = {}
    for name, at, stop in _boxes(data, start + 4, end):
        if name == b"dimg":
            numbers = _integers(data, at + width + 2, stop, width)
            item, count = (int.from_bytes(data[at : at + width], "big"), data[at + width : at + width + 2])
            found.setdefault(item, []).extend(islice(numbers, int.from_bytes(count, "big")))
    return found


def _integers(data: bytes, start: int, end: int, width: int) -> Iterator[int]:
    for at in range(start, end - width + 1, width):
        yield int.from_bytes(data[at : at + width], "big")


def _areas(data: bytes, start: int, end: int) -> dict[int, int]:
    """Return item -> its number of pixels (ipco, ispe; ipma)."""
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
    """Yield (item, one-based indices of its properties)."""
    wide_item, wide = (4 if data[at] else 2), (2 if data[at + 3] & 1 else 1)
    at += 8
    while at + wide_item < end:
        item, count = int.from_bytes(data[at : at + wide_item], "big"), data[at + wide_item]
        at += wide_item + 1
        numbers = _integers(data, at, min(at + count * wide, end), wide)
        yield item, [number & (0x7FFF if wide == 2 else 0x7F) for number in numbers]
        at += count * wide
