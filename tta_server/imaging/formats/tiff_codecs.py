"""Unpacks a TIFF's strips or tiles to rows of bytes, and raises where one holds too few."""

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
from tta_server.imaging.formats.tiff_layout import CCITT, JPEG, Tag, TiffLayout
from tta_server.imaging.formats.tiff_tags import Tags

Rows = NDArray[np.uint8]
ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""The segment that says by its next byte whether three components are RGB (0) or YCbCr (1)."""


class Segment(NamedTuple):
    """A strip or tile: its place in the file, its bytes, the rows that it holds."""

    at: int
    length: int
    rows: int


def unpacked(segments: Sequence[Segment], tags: Tags, layout: TiffLayout) -> Rows:
    """(rows of all segments, bytes of a row); of CCITT, samples (rows, columns) of 0 and 1."""
    data = tags.data
    if layout.compression == JPEG:
        return _jpeg(segments, tags, layout)
    if layout.compression in CCITT:
        return _by_libtiff(data, segments, layout, 1, _fax_options(tags, layout))
    if layout.compression == 1:
        return _stored(data, segments, layout.row_bytes)
    if layout.compression in (8, 32946):
        return _inflated(data, segments, layout.row_bytes)
    return _by_libtiff(data, segments, layout, 8, {})


def _stored(data: bytes, segments: Sequence[Segment], row_bytes: int) -> Rows:
    lengths = [segment.rows * row_bytes for segment in segments]
    if any(segment.length < need for segment, need in zip(segments, lengths, strict=True)):
        raise ValueError("a strip or tile is too short")
    first = segments[0].at
    places = np.cumsum([first, *lengths[:-1]]).tolist()
    if places == [segment.at for segment in segments]:  # one after another: no copy is needed
        return np.frombuffer(data, np.uint8, sum(lengths), first).reshape(-1, row_bytes)
    joined = b"".join(data[s.at : s.at + need] for s, need in zip(segments, lengths, strict=True))
    return np.frombuffer(joined, np.uint8).reshape(-1, row_bytes)


def _inflated(data: bytes, segments: Sequence[Segment], row_bytes: int) -> Rows:
    out = np.empty((sum(segment.rows for segment in segments), row_bytes), np.uint8)
    top = 0
    whole = memoryview(data)
    for at, length, rows in segments:
        stream = zlib.decompressobj()
        found = stream.decompress(whole[at : at + length], rows * row_bytes)
        stream.decompress(stream.unconsumed_tail, 1)  # raises where the checksum behind the last byte is wrong
        out[top : top + rows] = np.frombuffer(found, np.uint8).reshape(rows, row_bytes)  # raises where too few came
        top += rows
    return out


def _jpeg(segments: Sequence[Segment], tags: Tags, layout: TiffLayout) -> Rows:
    """Each segment is a JPEG without the tables that all share."""
    tables = tags.raw(Tag.JPEG_TABLES) or b"\xff\xd8\xff\xd9"
    ycc = layout.photometric == 6
    head = tables[:2] + ADOBE + bytes([ycc]) + tables[2:-2]
    out = np.empty((sum(segment.rows for segment in segments), layout.row_bytes), np.uint8)
    top = 0
    color = "GRAY" if layout.bands == 1 else "RGB"
    for at, length, rows in segments:
        found = head + tags.data[at + 2 : at + length]
        marker = found.find(ADOBE, len(head))
        if marker >= 0 and found[marker + len(ADOBE) : marker + len(ADOBE) + 1] != bytes([ycc]):
            raise UnsupportedMedia("the TIFF image has JPEG data of another colour space than its tags say")
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


def _by_libtiff(data: bytes, segments: Sequence[Segment], layout: TiffLayout, bits: int, more: dict[int, int]) -> Rows:
    """A grey picture of `bits` a pixel whose strips are the segments, as Pillow has libtiff read it."""
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
    with TiffImagePlugin.TiffImageFile(io.BytesIO(_file(data, tags))) as image:
        image.im = Image.new(image.mode, (width, height)).im  # or Pillow would hold the size against its own limit
        image.load()
        return np.asarray(image).astype(np.uint8, copy=False)


def _file(data: bytes, tags: dict[int, list[int]]) -> bytes:
    """The file with another directory behind it: what stood at an offset still does."""
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
