"""Image files of all formats: intact, truncated, and with changed bytes. Run as a program, it decodes such files.

    python -m tests.support.corpus FILES [MODULE]

decodes each of the pickled FILES with MODULE, and writes one line each: a digest of the pixels, or the error's name.
An image of one colour is decoded before each file, so that freed memory holds data that could leak.
"""

import hashlib
import importlib
import io
import itertools
import os
import pickle
import struct
import sys
import warnings
import zlib

import cv2
import numpy as np
import tifffile
from PIL import Image

from tests.support.layouts import Layout, table, values, written
from tests.support.patterns import smooth
from tests.support.pictures import chunk

SIZES = [(31, 17), (160, 120), (640, 520)]
"""Width and height: 1.6 kB, 58 kB and 1 MB of pixels; blocks under 1 kB are cached by numpy, not filled by malloc."""

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
"""Left, top, horizontal and vertical step of the passes of an interlaced PNG."""

LONGER = int(os.environ.get("TTA_DECODING_RUNS", "1"))
"""Factor by which the number of files is increased."""


def by_pillow(picture, form, **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def interlaced_png(pixels, depth, color):
    """Return a PNG with Adam7 interlacing, which no library here writes.

    `pixels` (height, width, bands) have 8 or 16 bits.
    """
    height, width = pixels.shape[:2]
    rows = []
    for left, top, across, down in ADAM7:
        part = pixels[top::down, left::across]
        if part.size:
            rows += [b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in part]
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 1)
    body = zlib.compress(b"".join(rows), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def with_opencv(pixels, form):
    return cv2.imencode(form, pixels)[1].tobytes()


def with_tifffile(pixels, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def common(size):
    """Return files as common writers make them: {name: bytes}."""
    picture = Image.fromarray(smooth(size))
    clear = picture.copy()
    clear.putalpha(Image.fromarray(smooth(size)[..., 1]))
    deep = np.concatenate([smooth(size), smooth(size)[..., :1]], axis=2).astype(np.uint16) * 257 + 5
    found = {
        "jpeg": by_pillow(picture, "JPEG"),
        "progressive jpeg": by_pillow(picture, "JPEG", progressive=True),
        "grey jpeg": by_pillow(picture.convert("L"), "JPEG"),
        "cmyk jpeg": by_pillow(picture.convert("CMYK"), "JPEG"),
        "png": by_pillow(picture, "PNG", compress_level=1),
        "rgba png": by_pillow(clear, "PNG", compress_level=1),
        "palette png": by_pillow(picture.convert("P"), "PNG"),
        "1 bit png": by_pillow(picture.convert("1"), "PNG"),
        "interlaced png": interlaced_png(smooth(size), 8, 2),
        "interlaced 16 bit png": interlaced_png(deep[..., :3], 16, 2),
        "interlaced 16 bit la png": interlaced_png(deep[..., :2], 16, 4),
        "lossy webp": by_pillow(picture, "WEBP"),
        "lossless rgba webp": by_pillow(clear, "WEBP", lossless=True, method=0),
        "bmp": by_pillow(picture, "BMP"),
        "palette bmp": by_pillow(picture.convert("P"), "BMP"),
        "32 bit bmp": by_pillow(clear, "BMP"),
        "gif": by_pillow(picture.convert("P"), "GIF"),
        "avif": by_pillow(clear, "AVIF", speed=10),
        "jpeg tiff": with_tifffile(smooth(size), photometric="ycbcr", compression="jpeg", rowsperstrip=16),
        "jpeg tile tiff": with_tifffile(smooth(size), photometric="rgb", compression="jpeg", tile=(16, 16)),
        "separate 16 bit tiff": written(deep[..., :3], Layout(photometric=2, depth=16, separate=True)),
        "tiled tiff of opencv": with_opencv(deep[..., :3], ".tiff"),
    }
    found |= {f"16 bit png {n}": with_opencv(deep[..., :n], ".png") for n in (1, 3, 4)}
    found |= {c: by_pillow(picture.convert("1"), "TIFF", compression=c) for c in ("group3", "group4", "tiff_ccitt")}
    return found | heic(picture)


def heic(picture):
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture).save(buffer, quality=40)
    return {"heic": buffer.getvalue()}


def layouts(size, number):
    """Yield TIFFs of `number` layouts of the table, the same in every run."""
    cells = list(table())
    source = np.random.default_rng(size[0])
    for k in source.choice(len(cells), number, replace=False):
        yield f"tiff {cells[k]}", written(values(cells[k], *size), cells[k])


def damaged(name, data, source, number):
    """Yield the file, `number` truncated copies, and three times as many with up to four changed bytes."""
    yield name, data
    for share in source.uniform(0.05, 1, number):
        yield f"{name} | cut off", data[: int(len(data) * share)]
    for near in [True, False, False] * number:
        changed = bytearray(data)
        reach = min(len(data), 200) if near else len(data)
        for at in source.integers(0, reach, source.integers(1, 5)):
            changed[at] = source.choice([0, 1, 2, 3, 16, 255, source.integers(256)])
        if "tiff" in name and near:  # the tags are at the end
            changed = bytearray(data)
            changed[-int(source.integers(1, min(len(data), 260)))] = source.integers(256)
        yield f"{name} | changed", bytes(changed)


def corpus(longer=LONGER):
    """Return [(name, bytes)], the same for equal `longer`."""
    source = np.random.default_rng(7)
    found = []
    for size, cells, number in zip(SIZES, (100, 24, 3), (2, 1, 1), strict=True):
        for name, data in itertools.chain(common(size).items(), layouts(size, min(cells * longer, 20_000))):
            found += damaged(f"{name} {size[0]}x{size[1]}", data, source, number * longer)
    return found


def secrets(shade):
    """Yield images of one colour in each size, which are decoded in between."""
    for size in SIZES:
        plain = Image.new("RGB", size, (shade,) * 3)
        deep = np.full((size[1], size[0], 3), shade * 257, np.uint16)
        yield from (with_opencv(deep, ".png"), by_pillow(plain, "JPEG"), by_pillow(plain, "TIFF"))


def outcome(module, data):
    levels = {"rendering": module.Rendering(levels="auto")} if hasattr(module, "Rendering") else {}
    try:
        pixels = module.decode(data, module.read_header(data, module.Limits(max_pixels=2_000_000)), **levels)
    except Exception as error:  # noqa: BLE001 - includes unintended errors
        return type(error).__name__
    return f"{pixels.shape} {pixels.dtype} {hashlib.sha256(np.ascontiguousarray(pixels)).hexdigest()}"


def main(files, module="tta_server.imaging.decoding"):
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)
    decoder = importlib.import_module(module)
    hidden = itertools.cycle(secrets(int(os.environ.get("MALLOC_PERTURB_", "85"))))
    with open(files, "rb") as stored:
        for _, data in pickle.load(stored):
            outcome(decoder, next(hidden))
            sys.stdout.write(outcome(decoder, data) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
