"""The header of a WebP from its chunks: Pillow's plugin would allocate the whole canvas to read it."""

from collections.abc import Iterator

from tta_server.errors import UnsupportedMedia
from tta_server.imaging.formats.header import Header, Limits, check_size
from tta_server.imaging.formats.orientation import from_metadata
from tta_server.views.geometry import Size

MAX_CHUNKS = 65_536


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name, content) of each complete chunk; except for metadata, only the 16 bytes that hold the size."""
    at = 12
    for _ in range(MAX_CHUNKS):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if len(name) < 4 or at + 8 + length > len(data):
            return
        kept = length if name in (b"EXIF", b"XMP ") else min(length, 16)
        yield name, data[at + 8 : at + 8 + kept]
        at += 8 + length + length % 2


def read_header(data: bytes, limits: Limits) -> Header:
    """Read size and orientation; raise UnsupportedMedia for several frames, TooLarge, ValueError."""
    found: dict[bytes, bytes] = {}
    frames = 0
    for name, content in chunks(data):
        if name in (b"EXIF", b"XMP "):
            found.setdefault(name, content)
        frames += name == b"ANMF"
    size = check_size(_size(data), "WEBP", limits)
    if frames > 1:
        raise UnsupportedMedia("the WEBP image has several frames or pages; send one")
    orientation = from_metadata(found.get(b"EXIF"), found.get(b"XMP "))
    return Header("WEBP", size.swapped if orientation >= 5 else size, orientation)


def _size(data: bytes) -> Size:
    """Return the canvas size (RFC 9649, 2.3 to 2.7); raise ValueError if the first chunk has none."""
    name, content = data[12:16], data[20:36]
    if name == b"VP8X" and len(content) >= 10:
        return Size(*(1 + int.from_bytes(content[at : at + 3], "little") for at in (4, 7)))
    if name == b"VP8 " and content[3:6] == b"\x9d\x01\x2a" and len(content) >= 10:
        return Size(*(int.from_bytes(content[at : at + 2], "little") & 0x3FFF for at in (6, 8)))
    if name == b"VP8L" and content[:1] == b"\x2f" and len(content) >= 5:
        bits = int.from_bytes(content[1:5], "little")
        return Size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    raise ValueError("no size")
