"""PNG: header and metadata from the chunks, samples of up to 16 bits by Pillow's decoder."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from tta_server.errors import InvalidInput, UnsupportedMedia
from tta_server.imaging.formats.header import Header, Limits, check_size
from tta_server.imaging.formats.orientation import from_metadata, from_raw_profile
from tta_server.imaging.formats.samples import SampleKind, Samples
from tta_server.views.geometry import Size

MAX_CHUNKS = 65_536
MAX_TEXT_BYTES = 1 << 20
"""Bytes of a text chunk, inflated; larger metadata is ignored."""

TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
XMP = b"XML:com.adobe.xmp"
RAW_PROFILE = b"Raw profile type "
ORIENTATION_KEYWORDS = frozenset([XMP, *(RAW_PROFILE + name for name in (b"exif", b"app1", b"APP1", b"xmp"))])
"""Keywords of text chunks that may hold an orientation."""

MAX_KEYWORD_BYTES = 79
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS")
"""The chunks besides IDAT that define pixels: no gamma, ICC profile, animation or text."""


@dataclass(slots=True)
class Metadata:
    """EXIF block, and `texts`: keyword -> (chunk type, bytes behind the keyword), inflated on access."""

    exif: bytes | None = None
    texts: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)

    @property
    def orientation(self) -> int:
        """By Pillow's precedence: eXIf, raw profile, XMP. ImageMagick's profile APP1 holds either of the last two."""
        exif, app1 = self.exif, self._profile(b"app1") or self._profile(b"APP1") or b""
        if exif is None:
            exif = self._profile(b"exif") or (app1 if app1.startswith(b"Exif\0") else None)
        xmp = self._text(XMP) or self._profile(b"xmp") or app1
        return from_metadata(exif, xmp)

    def _profile(self, name: bytes) -> bytes | None:
        text = self._text(RAW_PROFILE + name)
        return None if text is None else from_raw_profile(text)

    def _text(self, name: bytes) -> bytes | None:
        return _text(*self.texts[name]) if name in self.texts else None


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start, length) of each chunk up to IEND or the end of the file.

    Raises InvalidInput for more than MAX_CHUNKS chunks.
    """
    at = 8
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):
            return
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        yield kind, at + 8, length
        if kind == b"IEND":
            return
        at += 12 + length
    raise InvalidInput(f"the PNG image has more than {MAX_CHUNKS} chunks: save it with fewer")


def read_header(data: bytes, limits: Limits) -> Header:
    """Read size, depth and orientation; raise UnsupportedMedia for several frames, TooLarge or InvalidInput."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise ValueError("no IHDR")
    width, height, depth, color = struct.unpack(">IIBB", data[16:26])
    size = check_size(Size(width, height), "PNG", limits)
    if depth not in DEPTHS.get(color, ()):
        raise ValueError("invalid color type or bit depth")
    found = Metadata()
    for kind, start, length in chunks(data):
        if kind == b"acTL" and length >= 4 and int.from_bytes(data[start : start + 4], "big") > 1:
            raise UnsupportedMedia("the PNG image has several frames or pages; send one")
        _collect(found, kind, data, start, length)
    orientation = found.orientation
    upright, deep = size.swapped if orientation >= 5 else size, depth == 16
    return Header("PNG", upright, orientation, 16 if deep else 8, sample_bytes=12 * size.area if deep else 0)


def _collect(found: Metadata, kind: bytes, data: bytes, start: int, length: int) -> None:
    """Store a chunk that may hold an orientation in `found`."""
    if kind == b"eXIf":
        found.exif = data[start : start + length]
    elif kind in TEXT_CHUNKS and length <= MAX_TEXT_BYTES:
        key, _, _ = data[start : start + min(length, MAX_KEYWORD_BYTES + 1)].partition(b"\0")
        rest = slice(start + len(key) + 1, start + length)
        if key == b"exif" and kind == b"tEXt":
            found.exif = data[rest]
        elif key in ORIENTATION_KEYWORDS:
            found.texts[key] = kind, data[rest]


def _text(kind: bytes, rest: bytes) -> bytes:
    """Return the text behind a chunk's keyword, inflated up to MAX_TEXT_BYTES; empty if it is invalid."""
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = rest[:1] == b"\1"
        parts = rest[2:].split(b"\0", 2)
        rest = rest[1:2] + parts[2] if len(parts) == 3 else b""
        rest = rest if packed else rest[1:]
    if not packed:
        return rest
    if rest[:1] != b"\0":
        return b""
    try:
        return zlib.decompressobj().decompress(rest[1:], MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def strip_metadata(data: bytes, ihdr: bytes | None = None) -> bytes:
    """Return a PNG of PIXEL_CHUNKS and the first run of IDAT; `ihdr`, if given, replaces the 13 bytes of IHDR.

    Raises ValueError for a truncated chunk or a wrong checksum. IDAT is not checked: its zlib stream has its own.
    """
    parts, begun = [data[:8]], False
    for kind, start, length in chunks(data):
        if kind == b"IDAT":
            begun = True
        elif begun:
            break
        elif kind not in PIXEL_CHUNKS:
            continue
        end = start + length
        if end + 4 > len(data):
            raise ValueError("a chunk is truncated")
        if kind != b"IDAT" and zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError("a chunk has a wrong checksum")
        if kind == b"IHDR" and ihdr is not None:
            parts += [data[8:16], ihdr, zlib.crc32(b"IHDR" + ihdr).to_bytes(4, "big")]
        else:
            parts.append(data[start - 8 : end + 4])
    return b"".join([*parts, b"\0\0\0\0IEND\xaeB`\x82"])


def decode(data: bytes) -> Image.Image | Samples:
    """Decode to a loaded Pillow image for up to 8 bits per sample, to `Samples` for 16."""
    if data[24] != 16:
        image = PngImagePlugin.PngImageFile(io.BytesIO(strip_metadata(data)))
        image.load()
        if data[25] == GREY and data[24] in (2, 4) and "transparency" in image.info:
            image.info["transparency"] *= 255 // ((1 << data[24]) - 1)  # Pillow scales the pixels but not the key
        return image
    color = data[25]
    if color == GREY:
        return Samples(_load(strip_metadata(data), None), 16, SampleKind.GREY, key=_transparent_color(data, 1))
    if color == GREY_ALPHA:  # grey and alpha of 16 bits have the layout of RGBA of 8 bits
        pairs = _load(strip_metadata(data, data[16:24] + b"\x08\x06" + data[26:29]), None).astype(np.uint16)
        return Samples(pairs[..., ::2] << 8 | pairs[..., 1::2], 16, SampleKind.GREY, alpha=1)
    mode, alpha = ("RGB", None) if color == RGB else ("RGBA", 3)
    file = strip_metadata(data)
    wide = _load(file, f"{mode};16B").astype(np.uint16)  # the high bytes
    wide <<= 8
    wide |= _load(file, f"{mode};16L")  # the low bytes
    return Samples(wide, 16, SampleKind.RGB, alpha=alpha, key=_transparent_color(data, 3) if color == RGB else None)


def _load(data: bytes, raw: str | None) -> NDArray[np.uint8]:
    """Decode by Pillow to (height, width, bands) uint8; `raw` is Pillow's raw mode, which selects bytes of a sample."""
    with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
        if raw is not None:
            image.tile = [tile._replace(args=raw) for tile in image.tile]
        pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _transparent_color(data: bytes, count: int) -> tuple[int, ...] | None:
    """Return the colour that tRNS makes transparent; None if there is none."""
    for kind, start, length in chunks(data):
        if kind == b"tRNS" and length >= 2 * count:
            return struct.unpack(f">{count}H", data[start : start + 2 * count])
        if kind == b"IDAT":
            return None
    return None
