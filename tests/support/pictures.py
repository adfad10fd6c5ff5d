"""Synthetic images for tests, which need different images but no photos."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def pixels(width: int = 160, height: int = 200, seed: int = 0) -> Pixels:
    """Return gradients, a disc and grain, (height, width, 3) uint8; each seed makes another image."""
    source = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    tone = source.uniform(20, 235, (4, 3))
    picture = tone[0] * x[..., None] + tone[1] * (1 - x[..., None]) * y[..., None] + tone[2] * 0.2
    (cx, cy), radius = source.uniform(0.25, 0.75, 2).tolist(), source.uniform(0.15, 0.35)
    picture[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = tone[3]
    grainy: Pixels = np.clip(picture + source.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
    return grainy


def encoded(array: Pixels, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int = 160, height: int = 200, seed: int = 0) -> bytes:
    return encoded(pixels(width, height, seed))


def jpeg(width: int = 160, height: int = 200, seed: int = 0) -> bytes:
    return encoded(pixels(width, height, seed), "JPEG", quality=92)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def nuclei(width: int = 96, height: int = 80, seed: int = 0) -> Pixels:
    """Return bright blobs on a dark background, like cells under a fluorescence microscope."""
    source = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    light = np.full((height, width), 12.0)
    for _ in range(6):
        cx, cy, radius = source.uniform(8, width - 8), source.uniform(8, height - 8), source.uniform(6, 12)
        light = np.maximum(light, 190 * ((x - cx) ** 2 + (y - cy) ** 2 < radius**2))
    return np.repeat(np.clip(light + source.normal(0, 3, light.shape), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_says(width: int, height: int) -> bytes:
    """Return a PNG with that size in its header, but one short row of pixels, so that decoding it fails."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 64)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def true_png(width: int, height: int) -> bytes:
    """Return a valid black PNG of any size, made without its pixels in memory."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (width + 1) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
