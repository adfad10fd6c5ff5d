"""Decompress the strips or tiles of a TIFF to rows of bytes; raise if one holds too few."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from tta_server.errors import UnsupportedMedia
from tta_server.imaging.formats import jpeg
from tta_server.imaging.formats.tiff_layout import CCITT, JPEG, TiffLayout
from tta_server.imaging.formats.tiff_tags import Tag, Tags

Rows = NDArray[np.uint8]
ADOBE_SEGMENT = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""Start of the segment whose next byte is the colour space of three components: RGB (0) or YCbCr (1)."""


class Segment(NamedTuple):
    """A strip or tile: offset in the file, number of bytes, number of rows."""

    at: int
    length: int
    rows: int


def decompress(segments: Sequence[Segment], tags: Tags, layout: TiffLayout) -> Rows:
    """Return (rows of all segments, bytes per row) uint8; for CCITT, (rows, columns) of 0 and 1."""
    data = tags.data
    if layout.compression == JPEG:
        return _decode_jpeg(segments, tags, layout)
    if layout.compression in CCITT:
        return _decode_by_libtiff(data, segments, layout, 1, _fax_options(tags, layout))
    if layout.compression == 1:
        return _uncompressed(data, segments, layout.row_bytes)
    if layout.compression in (8, 32946):
        return _inflate(data, segments, layout.row_bytes)
    return _decode_by_libtiff(data, segments, layout, 8, {})


def _uncompressed(data: bytes, segments: Sequence[Segment], row_bytes: int) -> Rows:
    lengths = [segment.rows * row_bytes for segment in segments]
    if any(segment.length < need for segment, need in zip(segments, lengths, strict=True)):
        raise ValueError("a strip or tile is too short")
    first = segments[0].at
    places = np.cumsum([first, *lengths[:-1]]).tolist()
    if places == [segment.at for segment in segments]:  # contiguous: no copy is needed
        return np.frombuffer(data, np.uint8, sum(lengths), first).reshape(-1, row_bytes)
    joined = b"".join(data[s.at : s.at + need] for s, need in zip(segments, lengths, strict=True))
    return np.frombuffer(joined, np.uint8).reshape(-1, row_bytes)


def _inflate(data: bytes, segments: Sequence[Segment], row_bytes: int) -> Rows:
    out = np.empty((sum(segment.rows for segment in segments), row_bytes), np.uint8)
    top = 0
    whole = memoryview(data)
    for at, length, rows in segments:
        stream = zlib.decompressobj()
        found = stream.decompress(whole[at : at + length], rows * row_bytes)
        stream.decompress(stream.unconsumed_tail, 1)  # raises for a wrong checksum
        out[top : top + rows] = np.frombuffer(found, np.uint8).reshape(rows, row_bytes)  # raises for too few bytes
        top += rows
    return out


def _decode_jpeg(segments: Sequence[Segment], tags: Tags, layout: TiffLayout) -> Rows:
    """Decode segments that are JPEG files without the tables, which all share."""
    tables = tags.raw(Tag.JPEG_TABLES) or b"\xff\xd8\xff\xd9"
    ycc = layout.photometric == 6
    head = tables[:2] + ADOBE_SEGMENT + bytes([ycc]) + tables[2:-2]
    out = np.empty((sum(segment.rows for segment in segments), layout.row_bytes), np.uint8)
    top = 0
    color = "GRAY" if layout.bands == 1 else "RGB"
    for at, length, rows in segments:
        found = head + tags.data[at + 2 : at + length]
        marker = found.find(ADOBE_SEGMENT, len(head))
        if marker >= 0 and found[marker + len(ADOBE_SEGMENT) : marker + len(ADOBE_SEGMENT) + 1] != bytes([ycc]):
            raise UnsupportedMedia("the TIFF image has JPEG data of another colour space than its tags state")
        jpeg.check_scans(found, list(jpeg.segments(found)))
        height, width, _, _ = simplejpeg.decode_jpeg_header(found)
        if (height, width) != (rows, layout.block[1]):
            raise ValueError("JPEG data of another size than its strip or tile")
        pixels = simplejpeg.decode_jpeg(found, color, fastdct=False, fastupsample=False)
        out[top : top + rows] = pixels.reshape(rows, layout.row_bytes)
        top += rows
    return out


def _fax_options(tags: Tags, layout: TiffLayout) -> dict[int, int]:
    return {
        Tag.FILL_ORDER: 2 if layout.reversed_bits else 1,
        Tag.T4_OPTIONS: tags.integer(Tag.T4_OPTIONS, 0),
        Tag.T6_OPTIONS: tags.integer(Tag.T6_OPTIONS, 0),
    }


def _decode_by_libtiff(
    data: bytes, segments: Sequence[Segment], layout: TiffLayout, bits: int, more: dict[int, int]
) -> Rows:
    """Let libtiff, through Pillow, read a grey image of `bits` per pixel whose strips are the segments."""
    width = layout.row_bytes if bits == 8 else layout.block[1]
    height = sum(segment.rows for segment in segments)
    tags = {
        Tag.WIDTH: [width],
        Tag.HEIGHT: [height],
        Tag.BITS: [bits],
        Tag.COMPRESSION: [layout.compression],
        Tag.PHOTOMETRIC: [1],
        Tag.SAMPLES: [1],
        Tag.ROWS_PER_STRIP: [layout.block[0]],
        Tag.STRIP_OFFSETS: [segment.at for segment in segments],
        Tag.STRIP_BYTES: [segment.length for segment in segments],
        **{tag: [value] for tag, value in more.items()},
    }
    with TiffImagePlugin.TiffImageFile(io.BytesIO(_with_directory(data, tags))) as image:
        image.im = Image.new(image.mode, (width, height)).im  # without it, Pillow checks its own size limit
        image.load()
        return np.asarray(image).astype(np.uint8, copy=False)


def _with_directory(data: bytes, tags: dict[int, list[int]]) -> bytes:
    """Append a new directory to a file; the offsets of its data stay valid."""
    start = len(data) + len(data) % 2
    entries, rest = [], b""
    free = start + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        raw = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            raw, rest = struct.pack("<I", free + len(rest)), rest + raw
        entries.append(struct.pack("<HHI", tag, 4, len(values)) + raw)
    head = b"II*\0" + struct.pack("<I", start)
    directory = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    return b"".join([head, data[8:], bytes(len(data) % 2), directory, rest])
