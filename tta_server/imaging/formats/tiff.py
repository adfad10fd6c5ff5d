"""TIFF: tags and strips are read here, so that each byte of an image is known to come from the file.

zlib, libjpeg-turbo and libtiff (through Pillow) decompress. libtiff is given a file of rows of bytes; samples, planes
and byte order are handled by numpy.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import InvalidInput, TooLarge, UnsupportedMedia
from tta_server.imaging.formats.header import Header, Limits, check_size
from tta_server.imaging.formats.orientation import from_metadata, valid_orientation
from tta_server.imaging.formats.samples import SampleKind, Samples
from tta_server.imaging.formats.tiff_codecs import Segment, decompress
from tta_server.imaging.formats.tiff_layout import CCITT, TiffLayout, read_layout
from tta_server.imaging.formats.tiff_tags import Tag, Tags, read_tags
from tta_server.views.geometry import Size

PADDING_PIXELS = 1 << 22
"""Pixels that tiles may have beyond four times those of the image."""

MAX_BYTES_PER_PIXEL = 13
"""Bytes of samples per pixel of `max_pixels`: RGB of 32 bits in tiles, and some padding."""

BLOCK_BYTES = 1 << 20
"""Bytes of floats assembled at a time."""

MAX_SEGMENTS = 1 << 17
MAX_SHARING = 2
"""Bytes of all strips or tiles, in multiples of the file's size: a few writers store equal ones once."""

Integers = NDArray[np.uint64]
DTYPE_KINDS = {1: "u", 2: "i", 3: "f"}
"""TIFF sample format -> numpy's kind."""


def read_header(data: bytes, limits: Limits) -> Header:
    """Read size, layout and orientation; raise UnsupportedMedia, TooLarge, InvalidInput or ValueError."""
    tags = read_tags(data)
    size = check_size(Size(tags.integer(Tag.WIDTH), tags.integer(Tag.HEIGHT)), "TIFF", limits)
    layout = read_layout(tags)
    _check_segments(layout)
    _segment_table(tags, layout)
    sample_bytes, max_bytes = _sample_bytes(layout), 2 * MAX_BYTES_PER_PIXEL * limits.max_pixels
    if sample_bytes > max_bytes:
        raise TooLarge(
            f"the TIFF image has {sample_bytes // 2} bytes of samples; the limit is {max_bytes // 2} "
            f"({MAX_BYTES_PER_PIXEL} for each of --max-pixels)"
        )
    orientation = _orientation(tags)
    upright = size.swapped if orientation >= 5 else size
    return Header("TIFF", upright, orientation, layout.depth, layout.unscaled, sample_bytes)


def _sample_bytes(layout: TiffLayout) -> int:
    """Return the bytes that decoding needs: twice all samples if they are decompressed, rearranged or byte-swapped."""
    down, across = layout.grid
    samples = down * across * layout.block[0] * layout.row_bytes * layout.planes
    return 2 * samples if layout.depth > 8 or layout.tiled or layout.compression != 1 else 0


def _orientation(tags: Tags) -> int:
    try:
        if Tag.ORIENTATION in tags.entries:
            return valid_orientation(tags.integer(Tag.ORIENTATION))
        return from_metadata(None, tags.raw(Tag.XMP))
    except ValueError:
        return 1


def _check_segments(layout: TiffLayout) -> None:
    down, across = layout.grid
    if down * across * layout.planes > MAX_SEGMENTS:
        raise UnsupportedMedia(f"the TIFF image has more than {MAX_SEGMENTS} strips or tiles: save it with larger ones")
    rows, columns = layout.block
    if down * rows * across * columns > 4 * layout.width * layout.height + PADDING_PIXELS:
        raise UnsupportedMedia("the TIFF image has tiles that are far larger than the image: save it in strips")


def decode(data: bytes) -> Samples:
    """Decode to stored samples; raise InvalidInput or ValueError if the file does not hold all of them."""
    tags = read_tags(data)
    layout = read_layout(tags)
    _check_segments(layout)
    planes = [_decode_plane(segments, tags, layout) for segments in _segments(tags, layout)]
    values = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
    if layout.photometric == 3:
        return _apply_palette(values, tags, layout)
    return Samples(values, layout.depth, layout.kind, layout.alpha, layout.premultiplied)


def _segments(tags: Tags, layout: TiffLayout) -> Iterator[list[Segment]]:
    """Yield the strips or tiles of each plane; raises as `_segment_table` does."""
    down, across = layout.grid
    number = down * across
    offsets, counts = (found.tolist() for found in _segment_table(tags, layout))
    rows = [layout.block[0]] * number
    if not layout.tiled:
        rows[-1] = layout.height - layout.block[0] * (number - 1)
    for start in range(0, len(offsets), number):
        plane = slice(start, start + number)
        yield [Segment(*found) for found in zip(offsets[plane], counts[plane], rows, strict=True)]


def _segment_table(tags: Tags, layout: TiffLayout) -> tuple[Integers, Integers]:
    """Return the offsets and byte counts of all strips or tiles.

    Raises InvalidInput unless they cover the image, lie in the file, and have together at most MAX_SHARING times its
    bytes: decoding costs time for each.
    """
    down, across = layout.grid
    offsets = tags.array(Tag.TILE_OFFSETS if layout.tiled else Tag.STRIP_OFFSETS, MAX_SEGMENTS)
    counts = tags.array(Tag.TILE_BYTES if layout.tiled else Tag.STRIP_BYTES, MAX_SEGMENTS)
    if counts is None and layout.compression == 1 and offsets is not None and offsets.size == 1 and not layout.tiled:
        counts = np.array([layout.height * layout.row_bytes], np.uint64)  # old writers omit it for a single strip
    if offsets is None or counts is None or not offsets.size == counts.size == down * across * layout.planes:
        raise InvalidInput("the TIFF image is broken: its strips or tiles do not cover the image")
    size = np.uint64(len(tags.data))
    if np.any((offsets < 8) | (offsets > size) | (counts == 0) | (counts > size - np.minimum(offsets, size))):
        raise InvalidInput("the TIFF image is broken: strips or tiles are missing or lie outside the file")
    if int(counts.sum()) > MAX_SHARING * len(tags.data):
        raise InvalidInput(
            "the TIFF image is broken: its strips or tiles overlap and have far more bytes than the file"
        )
    return offsets, counts


def _decode_plane(segments: Sequence[Segment], tags: Tags, layout: TiffLayout) -> NDArray[Any]:
    """Decode one plane to (height, width, bands of the plane) in native byte order."""
    raw = decompress(segments, tags, layout)
    bands = layout.bands // layout.planes
    values: NDArray[Any] = raw if layout.compression in CCITT else _to_samples(raw, tags.order, layout)
    values = values.reshape(len(raw), layout.block[1], bands)
    if layout.predictor == 2:
        values = np.cumsum(values, axis=1, dtype=values.dtype)
    if not layout.tiled:
        return values
    down, across = layout.grid
    rows, columns = layout.block
    tiles = values.reshape(down, across, rows, columns, bands).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(down * rows, across * columns, bands)[: layout.height, : layout.width]


def _to_samples(raw: NDArray[np.uint8], order: str, layout: TiffLayout) -> NDArray[Any]:
    """Convert rows of bytes to rows of samples."""
    count = layout.block[1] * (layout.bands // layout.planes)
    if layout.depth == 1:
        return np.unpackbits(raw, axis=1, count=count, bitorder="little" if layout.reversed_bits else "big")
    if layout.depth in (2, 4):
        shifts = np.arange(8 - layout.depth, -1, -layout.depth, dtype=np.uint8)
        parts = (raw[..., None] >> shifts) & ((1 << layout.depth) - 1)
        return parts.reshape(len(raw), -1)[:, :count]
    if layout.depth == 12:
        return _unpack_12_bit(raw)[:, :count]
    if layout.predictor == 3:
        return _undo_float_predictor(raw, layout)
    dtype = np.dtype(f"{order}{DTYPE_KINDS[layout.format]}{layout.depth // 8}")
    return raw.view(dtype).astype(dtype.newbyteorder("="), copy=False)


def _unpack_12_bit(raw: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Unpack two samples from three bytes, high bits first."""
    padded = np.pad(raw, ((0, 0), (0, -raw.shape[1] % 3))).astype(np.uint16)
    first, second, third = padded[:, ::3], padded[:, 1::3], padded[:, 2::3]
    pairs = np.stack([first << 4 | second >> 4, (second & 15) << 8 | third], axis=2)
    return pairs.reshape(len(raw), -1)


def _undo_float_predictor(raw: NDArray[np.uint8], layout: TiffLayout) -> NDArray[Any]:
    """Undo predictor 3: byte differences, all high bytes of a row first (Adobe Photoshop TIFF Technical Note 3)."""
    bands, width = layout.bands // layout.planes, layout.depth // 8
    values = np.empty((len(raw), raw.shape[1] // width), f"<f{width}")
    low_first = values.view(np.uint8).reshape(len(raw), -1, width)
    step = max(1, BLOCK_BYTES // raw.shape[1])
    for top in range(0, len(raw), step):
        steps = raw[top : top + step].reshape(-1, raw.shape[1] // bands, bands)
        plain = np.cumsum(steps, axis=1, dtype=np.uint8).reshape(len(steps), width, -1)
        for place in range(width):
            low_first[top : top + step, :, place] = plain[:, width - 1 - place]
    return values.astype(f"=f{width}", copy=False)


def _apply_palette(values: NDArray[Any], tags: Tags, layout: TiffLayout) -> Samples:
    """Look up a palette's colours: the high 8 of 16 bits, as in Pillow; some writers store 8 bits."""
    colors = np.array(tags.integers(Tag.COLOR_MAP, 3 << 8) or ())
    if colors.size != 3 << layout.depth or colors.max() > 65_535:
        raise InvalidInput("the TIFF image is broken: its palette has no colour for some values")
    colors = (colors if colors.max() < 256 else colors >> 8).astype(np.uint8).reshape(3, -1).T
    rgb = colors[values[..., 0]]
    if layout.alpha is None:
        return Samples(rgb, 8, SampleKind.RGB)
    opacity = values[..., layout.alpha :][..., :1].astype(np.uint8)
    return Samples(np.concatenate([rgb, opacity], axis=2), 8, SampleKind.RGB, alpha=3)
