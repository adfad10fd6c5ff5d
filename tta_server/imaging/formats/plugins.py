"""BMP, GIF, AVIF, HEIC and the pixels of WebP by Pillow's plugins.

Plugins are called by their class: `Image.open` checks sizes against Pillow's limit, a global of the user's program,
while the server has its own limits.
"""

import io
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    WebPImagePlugin,
)

from tta_server.errors import UnsupportedMedia
from tta_server.imaging.formats import gif, heif
from tta_server.imaging.formats.header import Header, Limits, check_size
from tta_server.imaging.formats.orientation import check_exif_blocks, from_info
from tta_server.views.geometry import Size

SUPPORTED_MODES = frozenset(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"])
AVIF_BRANDS = frozenset([b"avif", b"avis"])
HEIC_BRANDS = frozenset([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"])


def format_by_brand(head: bytes) -> str | None:
    """Return AVIF, HEIC or None by the brands in the file's first box (ISO/IEC 14496-12, ftyp)."""
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    major, others = head[8:12], {head[at : at + 4] for at in range(16, end, 4)}
    if major in AVIF_BRANDS or (major in (b"mif1", b"msf1") and others & AVIF_BRANDS):
        return "AVIF"
    return "HEIC" if major in HEIC_BRANDS else None


def _open_heic(file: io.BytesIO) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise UnsupportedMedia(
            "HEIC images need an extra of the server: pip install 'tta-server[heif]', or send another format"
        ) from None
    image: ImageFile.ImageFile = HeifImageFile(file)  # type: ignore[no-untyped-call]
    return image


def _open_avif(file: io.BytesIO) -> ImageFile.ImageFile:
    if not AvifImagePlugin.SUPPORTED:
        raise UnsupportedMedia("AVIF images need a Pillow built with AVIF, as its wheels are; send another format")
    return AvifImagePlugin.AvifImageFile(file)


OPENERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "AVIF": _open_avif,
    "HEIC": _open_heic,
}


def _check_bmp(data: bytes) -> None:
    """Refuse RLE: Pillow decodes it in Python, at half a second per megabyte."""
    if int.from_bytes(data[14:18], "little") >= 40 and int.from_bytes(data[30:34], "little") in (1, 2):
        raise UnsupportedMedia("the BMP image is compressed (RLE), which is not supported; supported: uncompressed BMP")


CHECKS: dict[str, Callable[[bytes], None]] = {
    "BMP": _check_bmp,
    "GIF": gif.check_blocks,
    "AVIF": check_exif_blocks,
    "HEIC": check_exif_blocks,
}
"""Format -> check of the raw bytes for what a plugin would accept at too high a cost; raises TTAError or ValueError."""


def read_header(name: str, data: bytes, limits: Limits) -> Header:
    """Read size and orientation; raise UnsupportedMedia for several frames or unsupported pixels, TooLarge."""
    CHECKS[name](data)
    with OPENERS[name](io.BytesIO(data)) as image:
        size = check_size(Size(*image.size), name, limits)
        if name == "HEIC":
            heif.check_tiles(data, size, limits)
        if getattr(image, "is_animated", False):
            raise UnsupportedMedia(f"the {name} image has several frames or pages; send one")
        if image.mode not in SUPPORTED_MODES:
            raise UnsupportedMedia(
                f"the {name} image has pixels of mode {image.mode!r}; supported: grey, palette and RGB"
            )
        orientation = 1 if name == "HEIC" else from_info(image.info)  # the decoder of HEIC makes pixels upright
    return Header(name, size.swapped if orientation >= 5 else size, orientation)


HEADER_READERS = {name: partial(read_header, name) for name in OPENERS if name != "WEBP"}


def decode(data: bytes, name: str) -> Image.Image:
    """Return the loaded image, not yet upright."""
    try:
        image = OPENERS[name](io.BytesIO(data))
    except Image.DecompressionBombError:  # WebP's plugin is the only one that checks Pillow's own limit
        return _decode_by_opencv(data)
    image.load()
    return image


def _decode_by_opencv(data: bytes) -> Image.Image:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if found is None or found.ndim != 3 or found.dtype != np.uint8:
        raise ValueError("OpenCV can't read it")
    order = [2, 1, 0, 3][: found.shape[2]]
    return Image.fromarray(np.ascontiguousarray(found[..., order]))
