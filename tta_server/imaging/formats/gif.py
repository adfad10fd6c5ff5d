"""The blocks of a GIF: how many frames it has, in a bounded number of steps."""

from collections.abc import Iterator

from tta_server.errors import InvalidInput, UnsupportedMedia

EXTENSION, FRAME, END = 0x21, 0x2C, 0x3B
MAX_BLOCKS = 16_384
"""Blocks that a file may have besides one for each BLOCK bytes; Pillow goes from each to the next in Python."""

BLOCK = 200
"""Most writers fill blocks up to 255 bytes."""


def check_blocks(data: bytes) -> None:
    """Raises UnsupportedMedia for several frames, and InvalidInput for blocks that are far too many."""
    most = MAX_BLOCKS + len(data) // BLOCK
    frames = 0
    for number, kind in enumerate(_blocks(data)):
        frames += kind == FRAME
        if frames > 1:
            raise UnsupportedMedia("the GIF image has several frames or pages; send one")
        if number > most:
            raise InvalidInput(f"the GIF image has more than {most} blocks, which is far too many for its bytes")


def _blocks(data: bytes) -> Iterator[int]:
    """The kind of each block, 0 for a part of one or a byte between them, as Pillow goes through them."""
    at = 13 + _palette(data[10])
    while at < len(data) and data[at] != END:
        kind = data[at]
        yield kind
        at += 1
        if kind == EXTENSION:
            at += 1
        elif kind == FRAME:
            at += 10 + _palette(data[at + 8])
        else:
            continue
        while at < len(data) and data[at]:
            yield 0
            at += 1 + data[at]
        at += 1


def _palette(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0
