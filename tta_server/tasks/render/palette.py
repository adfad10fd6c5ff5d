"""Colours of classes."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_server.imaging.decoding import Pixels

COLORS = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115),
    (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
"""Okabe and Ito 2008, which the colour-blind can distinguish too; further classes take hues in turn."""


WHITE = 255, 255, 255


def color_of(index: int) -> tuple[int, int, int]:
    """RGB of a class in masks and drawings."""
    if index < len(COLORS):
        return COLORS[index]
    hue = index * 137.508 % 360  # the golden angle keeps neighbours apart
    sector, part = divmod(hue / 60, 1)
    levels = [230, int(230 * part), int(230 * (1 - part)), 40]
    order = [(0, 1, 3), (2, 0, 3), (3, 0, 1), (3, 2, 0), (1, 3, 0), (0, 3, 2)][int(sector)]
    return levels[order[0]], levels[order[1]], levels[order[2]]


def grey(shares: NDArray[np.float32]) -> Image.Image:
    """Shares (H, W) in [0, 1] as a grey image, white for 1."""
    return Image.fromarray(np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8))


def palette_image(mask: NDArray[np.uint16], classes: int) -> Image.Image:
    """Class indices (H, W) as a palette image, or as 16 bit grey above 256 classes.

    Programs read indices, viewers show colours; an index that is no class's is white.
    """
    if classes > 256:
        return Image.fromarray(mask)
    image = Image.fromarray(mask.astype(np.uint8)).convert("P")
    colors = [color_of(index) for index in range(classes)]
    colors += [WHITE] * (int(mask.max()) + 1 - classes)
    image.putpalette([value for color in colors for value in color])
    return image


def blended(pixels: Pixels, colors: Pixels) -> Pixels:
    """The colours over the pixels (..., 3) uint8, half transparent."""
    return (pixels * 0.45 + colors * 0.55).astype(np.uint8)
