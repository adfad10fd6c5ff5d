"""Sizes of resized images, rounded as the usual offline preprocessing rounds them. Pure."""

from tta_server.views.geometry import Size


def scaled(size: Size, scale: float) -> Size:
    """Both sides times `scale`, rounded, at least 1 pixel."""
    return Size(max(1, round(size.width * scale)), max(1, round(size.height * scale)))


def short_side(image: Size, length: int, longest: int = 0) -> Size:
    """The short side resized to `length` pixels, the other in proportion, floored.

    Where the long side would exceed `longest` (0: unlimited), the long side becomes `longest` and the short side
    follows, floored, at least 1 pixel. These are the integers of `torchvision.transforms.Resize(length, max_size=
    longest)`, from `_compute_resized_output_size` in torchvision/transforms/functional.py (0.29): the long side is
    floored first, and the short side is computed from that floored side.
    """
    short, long = sorted(image)
    new_short, new_long = length, int(length * long / short)
    if longest and new_long > longest:
        new_short, new_long = max(1, int(longest * new_short / new_long)), longest
    return Size(new_short, new_long) if image.width <= image.height else Size(new_long, new_short)
