"""The costliest known files of each format, at the limits of 20 MB and 25 million pixels."""

import io
import struct
import time
import zlib

import cv2
import numpy as np
import pillow_heif
import tifffile
from PIL import Image

from tests.support.corpus import ADAM7, by_pillow
from tests.support.costly import SIDE, arithmetic_jpeg, jpeg, segment, tiff, tiles
from tests.support.heifs import grid
from tests.support.pictures import chunk
from tta_server.errors import TTAError
from tta_server.imaging.decoding import Limits, Rendering, decode, read_header
from tta_server.imaging.formats.jpeg import MAX_SCANS, MAX_SEGMENTS

MAX_SECONDS = 3.0
"""Target for the CPU time of each file."""
MAX_ON_LOOP_MS = 5.0
"""Target for the CPU time of a header that is read on the event loop."""

TEAL = Rendering(background=(0, 128, 128), levels="auto")
"""The costliest rendering."""


def noisy(height, width, bands=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, bands), dtype=np.uint8).squeeze()


def interlaced():
    """Return a PNG of 16 bits and alpha, all of whose rows have the costliest filter."""
    rows = b""
    for left, top, across, down in ADAM7:
        width, height = len(range(left, SIDE, across)), len(range(top, SIDE, down))
        rows += (b"\4" + b"\5" * 8 * width) * height
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 6, 0, 0, 1)
    pixels = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + pixels + chunk(b"IEND", b"")


def png(header, rows, chunk_bytes=1 << 20, more=b""):
    """Return a PNG; `header` is (width, height, depth, color type), `more` are chunks before IDAT."""
    body = zlib.compress(rows, 1)
    head = struct.pack(">IIBBBBB", *header, 0, 0, 0)
    pixels = b"".join(chunk(b"IDAT", body[at : at + chunk_bytes]) for at in range(0, len(body), chunk_bytes))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + pixels + chunk(b"IEND", b"")


def noise_rows():
    return b"".join(b"\4" + row.tobytes() for row in noisy(2400, 2500))


def progressive_noise():
    options = [
        cv2.IMWRITE_JPEG_PROGRESSIVE,
        1,
        cv2.IMWRITE_JPEG_QUALITY,
        60,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        0x111111,
    ]
    return cv2.imencode(".jpg", noisy(4000, 4000), options)[1].tobytes()


def with_tifffile(pixels, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def of_heif(pixels):
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(buffer, quality=80)
    return buffer.getvalue()


def equal_tiles(side, block, compression, one):
    """Return a TIFF of as many tiles as may share their bytes."""
    return tiles(one + bytes(len(one) * side * side // 2), len(one), side, block, compression)


def scans_in_tiff():
    one = jpeg(MAX_SCANS - 1, (4992, 4992), components=1)
    return tiles(one, len(one), 1, 4992, 7)


def overlapping():
    """Return a TIFF that would decode for hours if tiles could share bytes without limit."""
    return tiles(zlib.compress(noisy(4000, 4000, 1).tobytes(), 0), 16_000_000, 360)


def bomb():
    packed = zlib.compress(bytes(1 << 20), 9)
    names = [b"exif", b"app1", b"APP1", b"xmp"] + [b"%05d" % number for number in range(8000)]
    texts = b"".join(chunk(b"zTXt", b"Raw profile type " + name + b"\0\0" + packed) for name in names)
    return png((8, 8, 8, 2), bytes(25 * 8), more=texts)


def exif_jpeg():
    """Return a JPEG with EXIF and XMP in as many segments as are allowed."""
    data = by_pillow(Image.fromarray(noisy(8, 8)), "JPEG")
    exif = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(65_000))
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"tiff:Orientation " * 3800)
    return data[:2] + exif * 150 + xmp * 150 + segment(0xE1, b"") * (MAX_SEGMENTS - 320) + data[2:]


def gif_of_blocks():
    data = by_pillow(Image.fromarray(noisy(8, 8, 1)), "GIF")
    return data[:-1] + b"!\xfe" + (b"\xc8" + bytes(200)) * 98_000 + b"\0;"


def many_tags():
    return tiff(bytes(64), {number: [8] for number in range(1000, 4900)} | {256: [8], 257: [8]})


WORST = {
    "JPEG of the most scans": lambda: jpeg(MAX_SCANS - 1),
    "JPEG of the most scans, not progressive": lambda: jpeg(MAX_SCANS - 1, kind=0xC0),
    "JPEG of the most scans, arithmetic": lambda: arithmetic_jpeg(MAX_SCANS - 1),
    "JPEG of noise, progressive": progressive_noise,
    "JPEG of metadata": exif_jpeg,
    "PNG of 16 bits and alpha": lambda: png((SIDE, SIDE, 16, 6), (b"\4" + b"\5" * 8 * SIDE) * SIDE),
    "PNG of 16 bits, interlaced": interlaced,
    "PNG of 8 bits and alpha": lambda: png((SIDE, SIDE, 8, 6), (b"\4" + b"\5" * 4 * SIDE) * SIDE),
    "PNG of small chunks": lambda: png((2500, 2400, 8, 2), noise_rows(), 320),
    "PNG of empty chunks": lambda: png((8, 8, 8, 2), bytes(25 * 8), more=chunk(b"junk", b"") * 65_000),
    "PNG of packed texts": bomb,
    "WEBP of noise, lossless": lambda: by_pillow(
        Image.fromarray(noisy(2500, 2600)), "WEBP", lossless=True, method=0, quality=0
    ),
    "WEBP of noise, lossy": lambda: by_pillow(Image.fromarray(noisy(2700, 2700)), "WEBP", quality=100, method=0),
    "WEBP of one colour": lambda: by_pillow(Image.new("RGBA", (SIDE, SIDE)), "WEBP", lossless=True, method=0),
    "BMP of 1 bit": lambda: by_pillow(Image.new("1", (SIDE, SIDE)), "BMP"),
    "GIF of noise": lambda: by_pillow(Image.fromarray(noisy(3800, 3800, 1)), "GIF", interlace=1),
    "GIF of one colour": lambda: by_pillow(Image.new("P", (SIDE, SIDE)), "GIF", interlace=1),
    "GIF of blocks": gif_of_blocks,
    "AVIF of noise": lambda: by_pillow(Image.fromarray(noisy(3000, 3200)), "AVIF", quality=90, speed=10),
    "HEIC of noise": lambda: of_heif(noisy(1000, 1000)),
    "HEIC of large tiles": lambda: grid(Image.new("RGB", (4096, 4096)), (SIDE, SIDE), 2, 3),
    "TIFF of one pixel tiles": lambda: equal_tiles(360, 1, 8, zlib.compress(bytes(1))),
    "TIFF of small tiles": lambda: equal_tiles(312, 16, 8, zlib.compress(bytes(256))),
    "TIFF of JPEG tiles": lambda: equal_tiles(160, 16, 7, by_pillow(Image.fromarray(noisy(16, 16, 1)), "JPEG")),
    "TIFF of JPEG of the most scans": scans_in_tiff,
    "TIFF of overlapping tiles": overlapping,
    "TIFF of tags": many_tags,
    "TIFF of 16 bits, LZW": lambda: with_tifffile(
        np.zeros((SIDE, SIDE, 4), np.uint16),
        photometric="rgb",
        compression="lzw",
        predictor=2,
        extrasamples=["assocalpha"],
    ),
    "TIFF of floats": lambda: with_tifffile(
        np.zeros((SIDE, SIDE, 3), np.float32), photometric="rgb", compression="zlib", predictor=3
    ),
    "TIFF of CMYK": lambda: with_tifffile(
        np.zeros((SIDE, SIDE, 4), np.uint16), photometric="separated", compression="zstd"
    ),
    "TIFF of fax": lambda: by_pillow(Image.fromarray(noisy(SIDE, SIDE, 1)).convert("1"), "TIFF", compression="group4"),
}


SMALL = by_pillow(Image.fromarray(noisy(8, 8)), "JPEG")
PROGRESSIVE = by_pillow(Image.fromarray(noisy(8, 8)), "JPEG", progressive=True)
ODD = jpeg(0, (8, 8)).replace(b"\1\x11\0\2\x11\0\3\x11", b"\1\x41\0\2\x14\0\3\x11")
"""A subsampling that only Pillow's parser reads."""

HEADS = {
    "EXIF": segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(65_000)) * 15,
    "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"tiff:Orientation " * 3800) * 15,
    "segments": segment(0xE1, b"Exif\0\0" + bytes(900)) * 1000,
    "fill bytes": b"\xff" * 900_000,
    "quantization": segment(0xDB, (b"\0" + b"\1" * 64) * 480),
    "Photoshop": segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000) * 15,
}
TAILS = {"zeros": b"\xff\0" * 490_000, "fill": b"\xff" * 990_000, "scans": b"\xff\xd9" + b"\xff\xda" * 490_000}
ON_LOOP = {name: SMALL[:2] + head + SMALL[2:] for name, head in HEADS.items()}
ON_LOOP |= {f"{name}, odd": ODD[:2] + head + ODD[2:] for name, head in HEADS.items()}
ON_LOOP |= {name: PROGRESSIVE[:-2] + tail for name, tail in TAILS.items()}
"""JPEGs whose headers are read on the event loop."""


def seconds(data):
    """Return CPU seconds for the header, CPU seconds for the pixels, and `decoded` or `refused: ...`."""
    begin, end = time.process_time(), "decoded"
    try:
        header = read_header(data, Limits(), TEAL)
    except TTAError as error:
        return time.process_time() - begin, 0.0, f"refused: {error}"
    read = time.process_time()
    try:
        decode(data, header, TEAL)
    except TTAError as error:
        end = f"refused: {error}"
    return read - begin, time.process_time() - read, end
