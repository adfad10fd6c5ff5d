"""TIFF files of any layout, and their pixels by an independent reader."""

import io
import itertools
import struct
from dataclasses import dataclass, replace
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageOps

WHITE, GREY, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5
NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS, ZSTD = 1, 5, 8, 32946, 32773, 50000
COLORS = {WHITE: 1, GREY: 1, RGB: 3, PALETTE: 1, CMYK: 4}
ENCODERS: dict[int, Any] = {
    NONE: bytes,
    LZW: imagecodecs.lzw_encode,
    DEFLATE: imagecodecs.zlib_encode,
    OLD_DEFLATE: imagecodecs.zlib_encode,
    PACKBITS: imagecodecs.packbits_encode,
    ZSTD: imagecodecs.zstd_encode,
}
LETTERS = {1: "u", 2: "i", 3: "f"}


@dataclass(frozen=True)
class Layout:
    """One layout of the table; `block` is (rows, None) for strips or (rows, columns) for tiles."""

    order: str = "<"
    big: bool = False
    photometric: int = GREY
    depth: int = 8
    form: int = 1
    extras: tuple[int, ...] = ()
    separate: bool = False
    compression: int = NONE
    predictor: int = 1
    fill_order: int = 1
    block: tuple[int, int | None] = (7, None)
    orientation: int = 1

    @property
    def bands(self):
        return COLORS[self.photometric] + len(self.extras)

    @property
    def dtype(self):
        width = {1: 8, 2: 8, 4: 8, 12: 16}.get(self.depth, self.depth)
        return np.dtype(f"{LETTERS[self.form]}{width // 8}")


def values(layout, width, height, seed=0):
    """Return random samples, (height, width, bands), over their full range."""
    source = np.random.default_rng(seed)
    shape = (height, width, layout.bands)
    if layout.form == 3:
        return source.normal(0, 1000, shape).astype(layout.dtype)
    half = 1 << layout.depth - 1
    low, high = (0, 2 * half - 1) if layout.form == 1 else (-half, half - 1)
    found = source.integers(low, high, shape, dtype=layout.dtype, endpoint=True)
    if 1 in layout.extras:  # premultiplied: no colour exceeds its alpha
        count = COLORS[layout.photometric]
        alpha = found[..., count + layout.extras.index(1)][..., None]
        found[..., :count] = np.minimum(found[..., :count], alpha)
    return found


def color_map(layout):
    return np.random.default_rng(3).integers(0, 65_536, 3 << min(layout.depth, 16))


def packed(block, layout):
    """Convert rows of samples to bytes as the layout stores them, before compression."""
    rows, columns, bands = block.shape
    if layout.depth in (1, 2, 4):
        padded = np.pad(block[..., 0], ((0, 0), (0, -columns % (8 // layout.depth)))).astype(np.uint8)
        bits = (padded[..., None] >> np.arange(layout.depth - 1, -1, -1, dtype=np.uint8)) & 1
        order = "little" if layout.fill_order == 2 else "big"
        return np.packbits(bits.reshape(rows, -1), axis=1, bitorder=order).tobytes()
    if layout.depth == 12:
        bits = (block.reshape(rows, -1)[..., None] >> np.arange(11, -1, -1, dtype=np.uint16)) & 1
        return np.packbits(bits.reshape(rows, -1).astype(np.uint8), axis=1).tobytes()
    if layout.predictor == 2:
        block = np.diff(block, axis=1, prepend=np.zeros((rows, 1, bands), block.dtype))
    if layout.predictor == 3:
        return imagecodecs.floatpred_encode(block.astype(block.dtype.newbyteorder(layout.order)), axis=-2).tobytes()
    return block.astype(block.dtype.newbyteorder(layout.order)).tobytes()


def blocks(array, layout):
    """Yield the strips or tiles of all planes, uncompressed."""
    height, width, bands = array.shape
    planes = [array[..., k : k + 1] for k in range(bands)] if layout.separate else [array]
    rows, columns = layout.block
    for plane in planes:
        for top in range(0, height, rows):
            for left in range(0, width, columns or width):
                cut = plane[top : top + rows, left : left + (columns or width)]
                if columns:
                    cut = np.pad(cut, ((0, rows - cut.shape[0]), (0, columns - cut.shape[1]), (0, 0)))
                yield packed(np.ascontiguousarray(cut), layout)


def written(array, layout, changes=None):
    """Return the bytes of a TIFF; `changes` replaces tags, or omits those that are None."""
    height, width, bands = array.shape
    parts = [ENCODERS[layout.compression](part) for part in blocks(array, layout)]
    head = 16 if layout.big else 8
    offsets = [head + sum(len(part) + len(part) % 2 for part in parts[:k]) for k in range(len(parts))]
    body = b"".join(part + b"\0" * (len(part) % 2) for part in parts)
    tags = {256: [width], 257: [height], 258: [layout.depth] * bands, 259: [layout.compression]}
    tags |= {262: [layout.photometric], 277: [bands], 284: [2 if layout.separate else 1], 339: [layout.form] * bands}
    tags |= {266: [layout.fill_order], 274: [layout.orientation], 317: [layout.predictor]}
    rows, columns = layout.block
    places = (324, 325) if columns else (273, 279)
    tags |= {322: [columns], 323: [rows]} if columns else {278: [rows]}
    tags |= {places[0]: offsets, places[1]: [len(part) for part in parts]}
    if layout.extras:
        tags[338] = list(layout.extras)
    if layout.photometric == PALETTE:
        tags[320] = color_map(layout).tolist()
    tags |= changes or {}
    return _file(body, {tag: found for tag, found in tags.items() if found is not None}, layout)


def _file(body, tags, layout):
    order, big = layout.order, layout.big
    name, magic = (b"II", 42) if order == "<" else (b"MM", 42)
    start = (16 if big else 8) + len(body)
    head = struct.pack(order + "2sH", name, 43 if big else magic)
    head += struct.pack(order + "HHQ", 8, 0, start) if big else struct.pack(order + "I", start)
    entry, room = (20, 8) if big else (12, 4)
    free = start + (8 if big else 2) + entry * len(tags) + room
    entries, rest = b"", b""
    for tag, found in sorted(tags.items()):
        kind, letter = (4, "I") if max(found) > 65_535 or tag in (273, 279, 324, 325) else (3, "H")
        raw = struct.pack(f"{order}{len(found)}{letter}", *found)
        if len(raw) > room:
            raw, rest = (
                struct.pack(order + ("Q" if big else "I"), free + len(rest)),
                rest + raw + b"\0" * (len(raw) % 2),
            )
        entries += struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, len(found)) + raw.ljust(room, b"\0")
    count = struct.pack(order + ("Q" if big else "H"), len(tags))
    return head + body + count + entries + bytes(room) + rest


# ---- the reference ----


def by_tifffile(data, levels=None):
    """Return upright RGB (height, width, 3) of the first page by tifffile; raise tifffile's errors."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        if any(tag.dtype == 1 and tag.code < 340 for tag in page.tags):
            raise ValueError("tifffile reads a number of type BYTE as text")
        samples = page.asarray()
        samples = samples.astype(np.uint8) if samples.dtype == bool else samples
        if samples.ndim == 2:
            samples = samples[..., None]
        elif page.planarconfig == 2 and page.samplesperpixel > 1:
            samples = np.moveaxis(samples, 0, -1)
        seen = Layout(
            photometric=RGB if page.photometric == 6 else int(page.photometric),
            depth=page.bitspersample,
            form=int(page.sampleformat or 1),
            extras=tuple(map(int, page.extrasamples)),
        )
        tag = page.tags.get(274)
        found = as_rgb(samples, seen, levels, page.colormap)
    picture = Image.fromarray(found)
    picture.getexif()[274] = tag.value if tag is not None and isinstance(tag.value, int) else 1
    return np.asarray(ImageOps.exif_transpose(picture))


def as_rgb(samples, layout, levels=None, colors_of=None):
    """Convert samples (height, width, bands) to RGB (height, width, 3), computed in floats and rounded once."""
    count = COLORS[layout.photometric]
    full = (1 << layout.depth) - 1
    if layout.photometric == PALETTE:
        table = np.asarray(color_map(layout) if colors_of is None else colors_of).reshape(3, -1)
        return (table if table.max() < 256 else table >> 8).T[samples[..., 0]].astype(np.uint8)
    colors = samples[..., :count].astype(np.float64)
    if 1 in layout.extras:
        alpha = samples[..., [count + layout.extras.index(1)]].astype(np.float64)
        colors = np.where(alpha > 0, np.minimum(np.floor(colors * full / np.maximum(alpha, 1)), full), 0)
    if levels is None:
        colors *= 255 / full
    else:
        colors = np.nan_to_num(np.clip((colors - levels[0]) * 255 / (levels[1] - levels[0]), 0, 255))
    if layout.photometric == WHITE:
        colors = 255 - colors
    if layout.photometric == CMYK:
        colors = (255 - colors[..., :3]) * (255 - colors[..., 3:]) / 255
    if colors.shape[2] == 1:
        colors = np.repeat(colors, 3, axis=2)
    return np.rint(colors).astype(np.uint8)


# ---- the table ----

SAMPLES = [
    *[(photometric, depth, 1) for photometric in (WHITE, GREY) for depth in (1, 2, 4, 8, 12, 16, 32, 64)],
    *[(GREY, depth, 2) for depth in (8, 16, 32, 64)],
    *[(GREY, depth, 3) for depth in (16, 32, 64)],
    *[(RGB, depth, 1) for depth in (8, 12, 16, 32)],
    (RGB, 16, 2),
    (RGB, 32, 3),
    *[(PALETTE, depth, 1) for depth in (1, 2, 4, 8)],
    (CMYK, 8, 1),
    (CMYK, 16, 1),
]
EXTRAS = {
    GREY: [(), (0,), (1,), (2,)],
    WHITE: [(), (0,), (2,)],
    RGB: [(), (0,), (1,), (2,), (0, 0), (2, 0), (0, 2), (1, 0), (0, 0, 0)],
    PALETTE: [(), (0,), (2,)],
    CMYK: [(), (0,), (2,)],
}
BLOCKS = [(7, None), (1000, None), (16, 16), (32, 48)]


def fits(layout):
    """Return whether the layout is supported."""
    if layout.depth < 8 and layout.extras:
        return False
    if layout.separate and layout.bands == 1:
        return False
    if (layout.depth > 16 or layout.form != 1) and set(layout.extras) - {0}:
        return False
    if layout.predictor == 2 and (layout.depth not in (8, 16, 32, 64) or layout.form == 3):
        return False
    if layout.predictor == 3 and layout.form != 3:
        return False
    return not (layout.predictor > 1 and layout.compression not in (LZW, DEFLATE, OLD_DEFLATE, ZSTD))


def table():
    """Yield every supported layout."""
    arrangements = list(itertools.product("<>", (False, True), (False, True), ENCODERS, (1, 2, 3), BLOCKS))
    for (photometric, depth, form), arrangement in itertools.product(SAMPLES, arrangements):
        order, big, separate, compression, predictor, block = arrangement
        for extras in EXTRAS[photometric]:
            cell = Layout(order, big, photometric, depth, form, extras, separate, compression, predictor, 1, block)
            if fits(cell):
                yield cell
    for cell in (Layout(photometric=p, depth=1, fill_order=2) for p in (WHITE, GREY, PALETTE)):
        yield from (replace(cell, order=order, big=big) for order in "<>" for big in (False, True))
