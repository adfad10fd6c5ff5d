"""Pixel values as a model takes them: channel order, colour maps, normalisation."""

from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from tta_server.views.color import LUMA, ColorMap


class Channels(StrEnum):
    """Channel order of the model's input."""

    RGB = "RGB"
    BGR = "BGR"
    GREY = "grey"


@dataclass(frozen=True, slots=True)
class Normalization:
    """(x / scale - mean) / std per channel, in the model's channel order."""

    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def apply(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalise planes (C, H, W) in place, and return them."""
        if self.scale != 1:
            planes /= np.float32(self.scale)
        if any(self.mean):
            planes -= _per_channel(self.mean)
        if any(s != 1 for s in self.std):
            planes /= _per_channel(self.std)
        return planes


def _per_channel(values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(-1, 1, 1)


def channel_matrix(colors: ColorMap, channels: Channels) -> NDArray[np.float64]:
    """Return a colour map as a matrix on the model's C channels, (C, C + 1): factors, and an offset."""
    m = colors.matrix
    if channels is Channels.GREY:
        luma = np.array(LUMA)
        return np.array([[luma @ m[:, :3].sum(axis=1), luma @ m[:, 3]]])
    return m[::-1][:, [2, 1, 0, 3]] if channels is Channels.BGR else m


def apply_color(values: NDArray[np.float32], colors: ColorMap, channels: Channels) -> NDArray[np.float32]:
    """Apply a colour map on RGB in [0, 255] to planes (C, H, W) in the model's channels; the result is not clipped."""
    m = channel_matrix(colors, channels)
    if channels is Channels.GREY:
        return values * np.float32(m[0, 0]) + np.float32(m[0, 1])
    rows = cv2.transform(values.reshape(1, 3, -1).transpose(0, 2, 1), m.astype(np.float32))
    return np.ascontiguousarray(rows[0].T).reshape(values.shape)
