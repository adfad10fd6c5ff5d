"""Encoded bytes to upright RGB: format and size from the header first, pixels after admission."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image

from tta_server.errors import InvalidInput, TooLarge, UnsupportedMedia
from tta_server.geometry import Size

Pixels = NDArray[np.uint8]
"""(height, width, 3), RGB, upright."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest image that is taken. `input_*` bound what a model is given at once, `canvas_*` the resized image."""

    max_bytes: int = 20_000_000
    max_pixels: int = 25_000_000
    input_pixels: int = 16_000_000
    input_side: int = 16_384
    canvas_side: int = 65_535

    @property
    def canvas_pixels(self) -> int:
        """The whole canvas is memory, which a job reserves; the model may look at it in tiles."""
        return max(self.input_pixels, self.max_pixels)


@dataclass(frozen=True, slots=True)
class Header:
    """What an image's header tells; `size` is the upright one."""

    format: str
    size: Size
    orientation: int = 1
    depth: int = 8
    inverted: bool = False


MAGIC: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda b: b.startswith(b"\xff\xd8\xff"),
    "PNG": lambda b: b.startswith(b"\x89PNG\r\n\x1a\n"),
    "WEBP": lambda b: b[:4] == b"RIFF" and b[8:12] == b"WEBP",
    "BMP": lambda b: b.startswith(b"BM"),
    "TIFF": lambda b: b[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
"""The formats that we take, by their first bytes."""

UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
"""EXIF orientation -> what makes the stored pixels upright (Exif 2.32, 4.6.4 A)."""

METADATA = 131_072
"""Bytes at the head of a JPEG that may hold EXIF or XMP: two segments of the largest size."""

MODES = frozenset(["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"])
MODES_16 = frozenset(["I;16", "I;16L", "I;16B", "I"])

# What Pillow's parsers raise on hostile bytes, besides its own OSErrors.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def sniff(data: bytes) -> str:
    """The format's name; raises UnsupportedMedia for any that is not ours."""
    for name, matches in MAGIC.items():
        if matches(data[:12]):
            return name
    raise UnsupportedMedia(f"this is not an image in {', '.join(MAGIC)}")


def read_header(data: bytes, limits: Limits) -> Header:
    """Format, upright size and orientation without decoding a pixel.

    Raises UnsupportedMedia, TooLarge, or InvalidInput for a header that makes no sense.
    """
    if not data:
        raise InvalidInput("the image is empty: send the bytes of an image file")
    if len(data) > limits.max_bytes:
        raise TooLarge(f"the image has {len(data)} bytes; at most {limits.max_bytes} are taken (--max-bytes)")
    name = sniff(data)
    try:
        if name == "JPEG" and not _may_be_turned(data):
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            return Header(name, _bounded(Size(width, height), name, limits))
        with Image.open(io.BytesIO(data), formats=[name]) as image:
            return _checked(image, name, data, limits)
    except BROKEN as error:
        raise InvalidInput(f"the {name} image is broken: its header can't be read") from error


def _checked(image: Image.Image, name: str, data: bytes, limits: Limits) -> Header:
    size = _bounded(Size(*image.size), name, limits)
    if name != "JPEG" and _has_more_frames(image):  # phones put previews behind a JPEG
        raise UnsupportedMedia(f"the {name} image has several frames or pages; send one")
    depth = _depth(image, name, data)
    if image.mode not in MODES and not (image.mode in MODES_16 and depth == 16):
        raise UnsupportedMedia(
            f"the {name} image has pixels of kind {image.mode!r}; 8 and 16 bit grey, palette, RGB and CMYK are taken"
        )
    orientation = _orientation(image, name)
    inverted = name == "TIFF" and image.tag_v2.get(262) == 0  # type: ignore[attr-defined]  # WhiteIsZero
    return Header(name, size.swapped if orientation >= 5 else size, orientation, depth, inverted)


def _bounded(size: Size, name: str, limits: Limits) -> Size:
    if size.area == 0:
        raise InvalidInput(f"the {name} image is empty: its size is {size}")
    if size.area > limits.max_pixels:
        raise TooLarge(f"the image is {size}, {size.area} pixels; at most {limits.max_pixels} are taken (--max-pixels)")
    return size


def _may_be_turned(data: bytes) -> bool:
    """Whether a JPEG's first segments could hold an orientation; most hold none, and skip Pillow's parser."""
    head = data[:METADATA]
    return b"Exif\0" in head or b"rientation" in head


def _has_more_frames(image: Image.Image) -> bool:
    if image.format != "TIFF":  # seeking would decode the first frame
        return bool(getattr(image, "n_frames", 1) > 1)
    try:
        image.seek(1)
    except EOFError:
        return False
    image.seek(0)
    return True


def _depth(image: Image.Image, name: str, data: bytes) -> int:
    if name == "PNG":
        return 16 if data[24] == 16 else 8
    if name == "TIFF":
        return int(max(image.tag_v2.get(258, (8,))))  # type: ignore[attr-defined]  # BitsPerSample
    return 8


def _orientation(image: Image.Image, name: str) -> int:
    if name == "TIFF":  # Pillow and OpenCV turn it themselves
        return 1
    if name == "PNG":  # getexif() would decode the pixels to look for a chunk behind them
        exif = Image.Exif()
        if isinstance(image.info.get("exif"), bytes):
            exif.load(image.info["exif"])
    else:
        exif = image.getexif()
    value = exif.get(ExifTags.Base.Orientation, 1)
    return value if value in UPRIGHT else 1


def decode(data: bytes, header: Header) -> Pixels:
    """Upright RGB, (height, width, 3) uint8; alpha is dropped, 16 bit becomes round(v / 257).

    Raises InvalidInput for an image that breaks off or makes no sense.
    """
    try:
        stored = _decode_jpeg(data) if header.format == "JPEG" else _decode_other(data, header)
    except (*BROKEN, cv2.error) as error:
        raise InvalidInput(f"the {header.format} image is broken: its pixels can't be read") from error
    pixels = UPRIGHT[header.orientation](stored) if header.orientation > 1 else stored
    if Size(pixels.shape[1], pixels.shape[0]) != header.size:
        raise InvalidInput(f"the {header.format} image is broken: its header gives another size")
    return np.ascontiguousarray(pixels)


def _decode_jpeg(data: bytes) -> Pixels:
    """libjpeg-turbo without Pillow's copies (a third of the time, the same pixels); Pillow where it balks."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
        return pixels
    except ValueError:  # CMYK, or a warning that Pillow lets pass
        return _decode_pillow(data, "JPEG")


def _decode_other(data: bytes, header: Header) -> Pixels:
    if header.depth != 16:
        return _decode_pillow(data, header.format)
    pixels = _decode_16(data)
    return 255 - pixels if header.inverted else pixels


def _decode_pillow(data: bytes, name: str) -> Pixels:
    with Image.open(io.BytesIO(data), formats=[name]) as image:
        image.load()
        image.info.pop("transparency", None)  # alpha is dropped, and Pillow would warn about a palette's
        return np.asarray(image.convert("RGB"))


def _decode_16(data: bytes) -> Pixels:
    """16 bits a channel, which Pillow would cut to 8 by dropping bits."""
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if found is None:
        raise ValueError("OpenCV can't read it")
    planes: Any = found.reshape(*found.shape[:2], -1)
    planes = planes[..., [0, 0, 0]] if planes.shape[2] < 3 else planes[..., 2::-1]
    if planes.dtype != np.uint16:
        return np.ascontiguousarray(planes)
    pixels = np.empty(planes.shape, np.uint8)
    for row, wide in zip(pixels, planes, strict=True):  # a row at a time, so that 32 bits are never needed for all
        row[...] = (wide.astype(np.uint32) + 128) // 257
    return pixels
