"""Count the frames of a GIF in a bounded number of steps."""

from collections.abc import Iterator

from tta_server.errors import InvalidInput, UnsupportedMedia

EXTENSION, FRAME, END = 0x21, 0x2C, 0x3B
MAX_BLOCKS = 16_384
"""Blocks that a file may have besides one per BLOCK_BYTES; Pillow walks them in Python."""

BLOCK_BYTES = 200
"""Most writers fill blocks up to 255 bytes."""


def check_blocks(data: bytes) -> None:
    """Raise UnsupportedMedia for several frames, InvalidInput for too many blocks."""
    max_blocks = MAX_BLOCKS + len(data) // BLOCK_BYTES
    frames = 0
    for number, kind in enumerate(_blocks(data)):
        frames += kind == FRAME
        if frames > 1:
            raise UnsupportedMedia("the GIF image has several frames or pages; send one")
        if number > max_blocks:
            raise InvalidInput(f"the GIF image has more than {max_blocks} blocks, too many for its {len(data)} bytes")


def _blocks(data: bytes) -> Iterator[int]:
    """Yield the type of each block as Pillow walks them; 0 for a sub-block or a byte between blocks."""
    at = 13 + _palette_bytes(data[10])
    while at < len(data) and data[at] != END:
        kind = data[at]
        yield kind
        at += 1
        if kind == EXTENSION:
            at += 1
        elif kind == FRAME:
            at += 10 + _palette_bytes(data[at + 8])
        else:
            continue
        while at < len(data) and data[at]:
            yield 0
            at += 1 + data[at]
        at += 1


def _palette_bytes(flags: int) -> int:
    """Return the size of a colour table in bytes."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0
