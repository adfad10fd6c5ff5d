"""Sizes of resized images, rounded as the libraries round them that models are trained with. Pure."""

import math
from collections.abc import Callable

from tta_server.views.geometry import Size

ROUNDINGS: dict[str, Callable[[float], int]] = {
    "round": round,
    "half_up": lambda value: math.floor(value + 0.5),
    "floor": math.floor,
}
"""How a side that follows in proportion becomes whole; `round` takes a half to the even number."""


def scaled(size: Size, scale: float, rounding: str = "round") -> Size:
    """Return both sides times `scale`, rounded, at least 1 pixel."""
    whole = ROUNDINGS[rounding]
    return Size(max(1, whole(size.width * scale)), max(1, whole(size.height * scale)))


def covering(image: Size, target: Size, scale: float = 1.0) -> Size:
    """Return the least size with the image's proportions that covers `target`, times `scale`, rounded.

    Equals `ResizeKeepRatio(target)` of timm/data/transforms.py (1.0.31).
    """
    ratio = min(image.height / target.height, image.width / target.width)
    return Size(max(1, round(image.width * scale / ratio)), max(1, round(image.height * scale / ratio)))


def long_side(image: Size, length: int, rounding: str = "round") -> Size:
    """Return the size whose long side is `length` pixels, and whose short side is in proportion, at least 1 pixel."""
    short = max(1, ROUNDINGS[rounding](min(image) * (length / max(image))))
    return Size(short, length) if image.width <= image.height else Size(length, short)


def short_side(image: Size, length: int, longest: int = 0, like: str = "torchvision") -> Size:
    """Return the size whose short side is `length` pixels and whose long side is in proportion, at most `longest`.

    0 is no limit. Beyond it the long side becomes `longest` and the short side follows, at least 1 pixel. `like` is
    the library, of SHORT_SIDES, whose rounding it is.
    """
    short, long = sorted(image)
    new_short, new_long = SHORT_SIDES[like](short, long, length, longest or math.inf)
    new_short, new_long = max(1, new_short), max(1, new_long)
    return Size(new_short, new_long) if image.width <= image.height else Size(new_long, new_short)


def _torchvision(short: int, long: int, length: int, longest: float) -> tuple[int, int]:
    """As `_compute_resized_output_size` of torchvision/transforms/functional.py (0.29).

    The long side is floored first, and the short side is computed from it.
    """
    new_short, new_long = length, int(length * long / short)
    if new_long > longest:
        return int(longest * new_short / new_long), int(longest)
    return new_short, new_long


def _transformers(short: int, long: int, length: int, longest: float) -> tuple[int, int]:
    """As `get_size_with_aspect_ratio` of transformers/image_transforms.py (5.24), for the DETR family."""
    exact: float = length
    if float(long) / float(short) * length > longest:
        exact = longest * float(short) / float(long)
        length = round(exact)
    return (short, long) if short == length else (length, int(exact * long / short))


def _detectron2(short: int, long: int, length: int, longest: float) -> tuple[int, int]:
    """As `ResizeShortestEdge.get_output_shape` of detectron2/data/transforms/augmentation_impl.py (0.6)."""
    new_short, new_long = float(length), length * 1.0 / short * long
    if new_long > longest:
        scale = longest * 1.0 / new_long
        new_short, new_long = new_short * scale, new_long * scale
    return int(new_short + 0.5), int(new_long + 0.5)


def _mmdetection(short: int, long: int, length: int, longest: float) -> tuple[int, int]:
    """As `rescale_size` of mmcv/image/geometric.py (2.2)."""
    scale = min(longest / long, length / short)
    return int(short * scale + 0.5), int(long * scale + 0.5)


SHORT_SIDES: dict[str, Callable[[int, int, int, float], tuple[int, int]]] = {
    "torchvision": _torchvision,
    "transformers": _transformers,
    "detectron2": _detectron2,
    "mmdetection": _mmdetection,
}
"""(short, long) of an image, length of its short side, limit of its long side -> (short, long), both whole."""
