"""Boxes, points and their names on an image."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tta_server.imaging.decoding import Pixels

Color = tuple[int, int, int]
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


class Drawing:
    """A copy of an image, to paint on; lines and letters are sized by the image."""

    def __init__(self, pixels: Pixels) -> None:
        self._image = Image.fromarray(pixels)
        self._draw = ImageDraw.Draw(self._image)
        side = min(self._image.size)
        self._line = max(1, round(side / 200))
        self._font = ImageFont.load_default(float(np.clip(side / 28, 10, 56)))

    @property
    def pixels(self) -> Pixels:
        return np.asarray(self._image)

    def box(self, xyxy: Sequence[float], color: Color, text: str) -> None:
        left, top, right, bottom = xyxy
        self._draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=self._line)
        self._label((left, top), color, text, above=True)

    def points(self, points: Sequence[tuple[float, float, Color, str]]) -> None:
        """Paints points given as x, y, colour and label; no label hides a point."""
        r = 3 * self._line
        for x, y, color, text in points:
            self._label((x + 1.5 * r, y - r), color, text, above=False)
        for x, y, color, _ in points:
            self._draw.ellipse((x - r, y - r, x + r, y + r), fill=color, outline=BLACK, width=max(1, self._line // 2))

    def _label(self, at: tuple[float, float], color: Color, text: str, above: bool) -> None:
        """Writes a label on a ground of that colour, moved to be inside the image."""
        left, top, right, bottom = self._draw.textbbox((0, 0), text, self._font)
        width, height = right - left + 4, bottom - top + 4
        x = min(max(at[0], 0), max(0, self._image.width - width))
        y = min(max(at[1] - height if above else at[1], 0), max(0, self._image.height - height))
        self._draw.rectangle((x, y, x + width, y + height), fill=color)
        ink = BLACK if sum(color) > 380 else WHITE
        self._draw.text((x + 2 - left, y + 2 - top), text, ink, self._font)
