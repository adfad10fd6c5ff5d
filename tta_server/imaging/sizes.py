"""Sizes of resized images, rounded as torchvision rounds them. Pure."""

from tta_server.views.geometry import Size


def scaled(size: Size, scale: float) -> Size:
    """Return both sides times `scale`, rounded, at least 1 pixel."""
    return Size(max(1, round(size.width * scale)), max(1, round(size.height * scale)))


def short_side(image: Size, length: int, longest: int = 0) -> Size:
    """Return the size whose short side is `length` pixels and whose long side is in proportion, floored.

    A long side over `longest` (0: unlimited) becomes `longest`, and the short side follows, floored, at least 1 pixel.
    Equals `torchvision.transforms.Resize(length, max_size=longest)`: `_compute_resized_output_size` in
    torchvision/transforms/functional.py (0.29) floors the long side first, and computes the short side from it.
    """
    short, long = sorted(image)
    new_short, new_long = length, int(length * long / short)
    if longest and new_long > longest:
        new_short, new_long = max(1, int(longest * new_short / new_long)), longest
    return Size(new_short, new_long) if image.width <= image.height else Size(new_long, new_short)
