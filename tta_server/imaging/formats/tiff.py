"""TIFF: tags and strips are read here, so that each byte of a picture is known to come from the file.

Compressed data are unpacked by zlib, libjpeg-turbo and libtiff (through Pillow). libtiff is given a file of rows of
bytes and knows nothing of samples, planes or byte order: those are numpy's work.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import InvalidInput, TooLarge, UnsupportedMedia
from tta_server.imaging.formats.header import Header, Limits, bounded
from tta_server.imaging.formats.orientation import from_metadata, stated
from tta_server.imaging.formats.samples import SampleKind, Samples
from tta_server.imaging.formats.tiff_codecs import Segment, unpacked
from tta_server.imaging.formats.tiff_layout import CCITT, Tag, TiffLayout, read_layout
from tta_server.imaging.formats.tiff_tags import Tags, read_tags
from tta_server.views.geometry import Size

PADDING = 1 << 22
"""Pixels that tiles may have beyond four times the picture's."""

MOST_BYTES = 13
"""Bytes of samples for each of the pixels that are taken: those of RGB of 32 bits in tiles, and some padding."""

BLOCK = 1 << 20
"""Bytes of floats put together at a time."""

MAX_SEGMENTS = 1 << 17
MOST_SHARED = 2
"""Times of the file's bytes that all strips or tiles may have: a few writers store equal ones once."""

Places = NDArray[np.uint64]
DTYPES = {1: "u", 2: "i", 3: "f"}


def read_header(data: bytes, limits: Limits) -> Header:
    tags = read_tags(data)
    size = bounded(Size(tags.integer(Tag.WIDTH), tags.integer(Tag.HEIGHT)), "TIFF", limits)
    layout = read_layout(tags)
    _check_blocks(layout)
    _places(tags, layout)
    unpacked, most = _unpacked(layout), 2 * MOST_BYTES * limits.max_pixels
    if unpacked > most:
        raise TooLarge(
            f"the TIFF image has {unpacked // 2} bytes of samples; at most {most // 2} are taken "
            f"({MOST_BYTES} for each of --max-pixels)"
        )
    orientation = _orientation(tags)
    upright = size.swapped if orientation >= 5 else size
    return Header("TIFF", upright, orientation, layout.depth, layout.unscaled, unpacked)


def _unpacked(layout: TiffLayout) -> int:
    """Bytes of all samples, twice where they are unpacked, rearranged or of one byte order after another."""
    down, across = layout.grid
    whole = down * across * layout.block[0] * layout.row_bytes * layout.planes
    return 2 * whole if layout.depth > 8 or layout.tiled or layout.compression != 1 else 0


def _orientation(tags: Tags) -> int:
    try:
        if Tag.ORIENTATION in tags.entries:
            return stated(tags.integer(Tag.ORIENTATION))
        return from_metadata(None, tags.raw(Tag.XMP))
    except ValueError:
        return 1


def _check_blocks(layout: TiffLayout) -> None:
    down, across = layout.grid
    if down * across * layout.planes > MAX_SEGMENTS:
        raise UnsupportedMedia(f"the TIFF image has more than {MAX_SEGMENTS} strips or tiles")
    rows, columns = layout.block
    if down * rows * across * columns > 4 * layout.width * layout.height + PADDING:
        raise UnsupportedMedia("the TIFF image has tiles that are far larger than the picture")


def decode(data: bytes) -> Samples:
    """Stored samples. Raises InvalidInput or ValueError where the file does not hold them all."""
    tags = read_tags(data)
    layout = read_layout(tags)
    _check_blocks(layout)
    planes = [_plane(segments, tags, layout) for segments in _segments(tags, layout)]
    values = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
    if layout.photometric == 3:
        return _looked_up(values, tags, layout)
    return Samples(values, layout.depth, layout.kind, layout.alpha, layout.premultiplied)


def _segments(tags: Tags, layout: TiffLayout) -> Iterator[list[Segment]]:
    """The strips or tiles of each plane; raises as `_places` does."""
    down, across = layout.grid
    number = down * across
    offsets, counts = (found.tolist() for found in _places(tags, layout))
    rows = [layout.block[0]] * number
    if not layout.tiled:
        rows[-1] = layout.height - layout.block[0] * (number - 1)
    for start in range(0, len(offsets), number):
        plane = slice(start, start + number)
        yield [Segment(*found) for found in zip(offsets[plane], counts[plane], rows, strict=True)]


def _places(tags: Tags, layout: TiffLayout) -> tuple[Places, Places]:
    """Where all strips or tiles start, and their numbers of bytes. Raises InvalidInput unless they make up the picture,
    lie in the file, and have together at most MOST_SHARED times its bytes: decoding costs time for each."""
    down, across = layout.grid
    offsets = tags.array(Tag.TILE_OFFSETS if layout.tiled else Tag.STRIP_OFFSETS, MAX_SEGMENTS)
    counts = tags.array(Tag.TILE_BYTES if layout.tiled else Tag.STRIP_BYTES, MAX_SEGMENTS)
    if counts is None and layout.compression == 1 and offsets is not None and offsets.size == 1 and not layout.tiled:
        counts = np.array([layout.height * layout.row_bytes], np.uint64)  # old writers leave it out of one strip
    if offsets is None or counts is None or not offsets.size == counts.size == down * across * layout.planes:
        raise InvalidInput("the TIFF image is broken: its strips or tiles do not make up the picture")
    size = np.uint64(len(tags.data))
    if np.any((offsets < 8) | (offsets > size) | (counts == 0) | (counts > size - np.minimum(offsets, size))):
        raise InvalidInput("the TIFF image is broken: strips or tiles are left out or lie outside the file")
    if int(counts.sum()) > MOST_SHARED * len(tags.data):
        raise InvalidInput(
            "the TIFF image is broken: its strips or tiles overlap, and have far more bytes than the file"
        )
    return offsets, counts


def _plane(segments: Sequence[Segment], tags: Tags, layout: TiffLayout) -> NDArray[Any]:
    """(height, width, bands of the plane), native byte order."""
    raw = unpacked(segments, tags, layout)
    bands = layout.bands // layout.planes
    values: NDArray[Any] = raw if layout.compression in CCITT else _samples(raw, tags.order, layout)
    values = values.reshape(len(raw), layout.block[1], bands)
    if layout.predictor == 2:
        values = np.cumsum(values, axis=1, dtype=values.dtype)
    if not layout.tiled:
        return values
    down, across = layout.grid
    rows, columns = layout.block
    tiles = values.reshape(down, across, rows, columns, bands).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(down * rows, across * columns, bands)[: layout.height, : layout.width]


def _samples(raw: NDArray[np.uint8], order: str, layout: TiffLayout) -> NDArray[Any]:
    """Rows of bytes to rows of samples."""
    count = layout.block[1] * (layout.bands // layout.planes)
    if layout.depth == 1:
        return np.unpackbits(raw, axis=1, count=count, bitorder="little" if layout.reversed_bits else "big")
    if layout.depth in (2, 4):
        shifts = np.arange(8 - layout.depth, -1, -layout.depth, dtype=np.uint8)
        parts = (raw[..., None] >> shifts) & ((1 << layout.depth) - 1)
        return parts.reshape(len(raw), -1)[:, :count]
    if layout.depth == 12:
        return _twelve(raw)[:, :count]
    if layout.predictor == 3:
        return _floats(raw, layout)
    dtype = np.dtype(f"{order}{DTYPES[layout.format]}{layout.depth // 8}")
    return raw.view(dtype).astype(dtype.newbyteorder("="), copy=False)


def _twelve(raw: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Two samples in three bytes, the high bits first."""
    padded = np.pad(raw, ((0, 0), (0, -raw.shape[1] % 3))).astype(np.uint16)
    first, second, third = padded[:, ::3], padded[:, 1::3], padded[:, 2::3]
    pairs = np.stack([first << 4 | second >> 4, (second & 15) << 8 | third], axis=2)
    return pairs.reshape(len(raw), -1)


def _floats(raw: NDArray[np.uint8], layout: TiffLayout) -> NDArray[Any]:
    """Predictor 3 (Adobe Photoshop TIFF Technical Note 3): differences of bytes, all high bytes of a row first."""
    bands, width = layout.bands // layout.planes, layout.depth // 8
    values = np.empty((len(raw), raw.shape[1] // width), f"<f{width}")
    low_first = values.view(np.uint8).reshape(len(raw), -1, width)
    step = max(1, BLOCK // raw.shape[1])
    for top in range(0, len(raw), step):
        steps = raw[top : top + step].reshape(-1, raw.shape[1] // bands, bands)
        plain = np.cumsum(steps, axis=1, dtype=np.uint8).reshape(len(steps), width, -1)
        for place in range(width):
            low_first[top : top + step, :, place] = plain[:, width - 1 - place]
    return values.astype(f"=f{width}", copy=False)


def _looked_up(values: NDArray[Any], tags: Tags, layout: TiffLayout) -> Samples:
    """A palette's colours; 16 bits of which the high 8 are meant, as in Pillow, or 8 bits in files of some writers."""
    colors = np.array(tags.integers(Tag.COLOR_MAP, 3 << 8) or ())
    if colors.size != 3 << layout.depth or colors.max() > 65_535:
        raise InvalidInput("the TIFF image is broken: its palette does not have a colour for each value")
    colors = (colors if colors.max() < 256 else colors >> 8).astype(np.uint8).reshape(3, -1).T
    looked_up = colors[values[..., 0]]
    if layout.alpha is None:
        return Samples(looked_up, 8, SampleKind.RGB)
    opacity = values[..., layout.alpha :][..., :1].astype(np.uint8)
    return Samples(np.concatenate([looked_up, opacity], axis=2), 8, SampleKind.RGB, alpha=3)
