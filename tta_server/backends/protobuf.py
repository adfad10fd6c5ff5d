"""Protocol Buffers' encoding: the fields of a message, without its schema."""

from collections.abc import Iterator

Bytes = bytes | memoryview


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and value of each varint and each length-delimited field; raise ValueError for other bytes."""
    for number, value, _, _ in spans(message):
        if value is not None:
            yield number, value


def spans(message: memoryview) -> Iterator[tuple[int, int | memoryview | None, int, int]]:
    """Yield number, value, start and end of each field; the value is None for numbers of fixed width and groups' ends.

    Raises ValueError, or IndexError, for other bytes.
    """
    at = 0
    while at < len(message):
        start = at
        tag, at = varint(message, at)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview | None = None
        if wire == 0:
            value, at = varint(message, at)
        elif wire == 2:
            length, at = varint(message, at)
            value = message[at : at + length]
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire not in (3, 4):  # the ends of a group, of which the fields between are read as any
            raise ValueError(f"wire type {wire}")
        yield number, value, start, at
    if at > len(message):
        raise ValueError("the message is cut off")


def text(value: int | memoryview | None) -> str:
    """Return the text of a field; empty for one that is missing. Raises ValueError for bytes that are no UTF-8."""
    return bytes(value).decode() if isinstance(value, memoryview) else ""


def varint(message: Bytes, at: int) -> tuple[int, int]:
    """Return the number that starts at a position, and the position after it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number is too long")


def to_varint(value: int) -> bytes:
    """Return the encoding of a number."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def length_delimited(number: int, content: bytes) -> bytes:
    """Return the encoding of a field of bytes."""
    return to_varint(number << 3 | 2) + to_varint(len(content)) + content
