"""Resize images as a library does: Pillow, OpenCV or torch, whichever a model was trained with."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_server.imaging.formats.header import Raster
from tta_server.imaging.torch_resizing import TORCH_INTERPOLATIONS, resize_as_torch
from tta_server.views.geometry import Size

PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
OPENCV = {
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
    "nearest": cv2.INTER_NEAREST,
    "area": cv2.INTER_AREA,
}
INTERPOLATIONS = {"pillow": tuple(PILLOW), "opencv": tuple(OPENCV), "torch": TORCH_INTERPOLATIONS}
"""Library -> interpolations that it has here, the default first."""
ALL_INTERPOLATIONS = tuple(dict.fromkeys(name for names in INTERPOLATIONS.values() for name in names))


def resize(raster: Raster, size: Size, like: str, interpolation: str) -> Raster:
    """Resize an image, (H, W) or (H, W, 3) uint8, as a library of INTERPOLATIONS does.

    Pillow antialiases; `area` of OpenCV averages; all others skip pixels where the image shrinks much.
    """
    return RESIZERS[like](raster, size, interpolation)


def to_grey(raster: Raster) -> Image.Image:
    """Return the image in Pillow's mode L, whatever library resizes it."""
    return _as_image(raster).convert("L")


def _as_image(raster: Raster) -> Image.Image:
    return raster if isinstance(raster, Image.Image) else Image.fromarray(raster)


def _with_pillow(raster: Raster, size: Size, interpolation: str) -> Raster:
    return _as_image(raster).resize(size, PILLOW[interpolation])


def _with_opencv(raster: Raster, size: Size, interpolation: str) -> Raster:
    found: Any = cv2.resize(np.asarray(raster), size, interpolation=OPENCV[interpolation])
    pixels: NDArray[np.uint8] = found
    return pixels


def _with_torch(raster: Raster, size: Size, interpolation: str) -> Raster:
    return resize_as_torch(np.asarray(raster), size, interpolation)


RESIZERS: dict[str, Callable[[Raster, Size, str], Raster]] = {
    "pillow": _with_pillow,
    "opencv": _with_opencv,
    "torch": _with_torch,
}
