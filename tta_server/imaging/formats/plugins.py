"""BMP, GIF, AVIF, HEIC and the pixels of WebP by Pillow's plugins.

Plugins are called by their class: `Image.open` would hold every size against Pillow's own limit, a global of the user's
program, where the server has limits of its own.
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
from tta_server.imaging.formats.header import Header, Limits, bounded
from tta_server.imaging.formats.orientation import check_blocks, from_info
from tta_server.views.geometry import Size

MODES = frozenset(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"])
AVIF_BRANDS = frozenset([b"avif", b"avis"])
HEIC_BRANDS = frozenset([b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"])


def brand(head: bytes) -> str | None:
    """AVIF, HEIC or None by a file's first box (ISO/IEC 14496-12, ftyp)."""
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    major, others = head[8:12], {head[at : at + 4] for at in range(16, end, 4)}
    if major in AVIF_BRANDS or (major in (b"mif1", b"msf1") and others & AVIF_BRANDS):
        return "AVIF"
    return "HEIC" if major in HEIC_BRANDS else None


def _heic(file: io.BytesIO) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise UnsupportedMedia(
            "HEIC images are taken where the server has the extra for them: pip install 'tta-server[heif]'"
        ) from None
    image: ImageFile.ImageFile = HeifImageFile(file)  # type: ignore[no-untyped-call]
    return image


def _avif(file: io.BytesIO) -> ImageFile.ImageFile:
    if not AvifImagePlugin.SUPPORTED:
        raise UnsupportedMedia("AVIF images are taken where the server's Pillow was built with AVIF, as its wheels are")
    return AvifImagePlugin.AvifImageFile(file)


OPENERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "AVIF": _avif,
    "HEIC": _heic,
}


def _check_bmp(data: bytes) -> None:
    """Pillow unpacks RLE in Python, at half a second for each megabyte."""
    if int.from_bytes(data[14:18], "little") >= 40 and int.from_bytes(data[30:34], "little") in (1, 2):
        raise UnsupportedMedia("the BMP image is compressed (RLE), which is not taken; taken: BMP without compression")


CHECKS: dict[str, Callable[[bytes], None]] = {
    "BMP": _check_bmp,
    "GIF": gif.check_blocks,
    "AVIF": check_blocks,
    "HEIC": check_blocks,
}
"""What Pillow's plugins would not refuse before it costs too much; raise errors of our own or ValueError."""


def read_header(name: str, data: bytes, limits: Limits) -> Header:
    CHECKS[name](data)
    with OPENERS[name](io.BytesIO(data)) as image:
        size = bounded(Size(*image.size), name, limits)
        if name == "HEIC":
            heif.check_tiles(data, size, limits)
        if getattr(image, "is_animated", False):
            raise UnsupportedMedia(f"the {name} image has several frames or pages; send one")
        if image.mode not in MODES:
            raise UnsupportedMedia(
                f"the {name} image has pixels of kind {image.mode!r}; grey, palette and RGB are taken"
            )
        orientation = 1 if name == "HEIC" else from_info(image.info)  # its decoder turns it
    return Header(name, size.swapped if orientation >= 5 else size, orientation)


READERS = {name: partial(read_header, name) for name in OPENERS if name != "WEBP"}


def decode(data: bytes, name: str) -> Image.Image:
    """The image as stored, loaded."""
    try:
        image = OPENERS[name](io.BytesIO(data))
    except Image.DecompressionBombError:  # the plugin of WebP, and it alone, asks for Pillow's own limit
        return _decode_opencv(data)
    image.load()
    return image


def _decode_opencv(data: bytes) -> Image.Image:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if found is None or found.ndim != 3 or found.dtype != np.uint8:
        raise ValueError("OpenCV can't read it")
    order = [2, 1, 0, 3][: found.shape[2]]
    return Image.fromarray(np.ascontiguousarray(found[..., order]))
