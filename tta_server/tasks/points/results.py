"""What keypoints answer, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.base import Result
from tta_server.views.geometry import Size

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class KeypointsResult(Result):
    """J named points in an image of `size`, in the order of `labels`.

    `keypoints` (J, 2) float64: x, y in the image's pixels. `confidence` (J,) float64 in [0, 1]; `visible` (J,) bool:
    whether that is enough. `spread` (J,) float64: how far the views' points lie from the merged one in pixels.
    `visible_in` (J,) intp: how many views could see the point. `view_keypoints` (K, J, 3) float64: each view's own x, y
    and confidence.
    """

    labels: Sequence[str]
    size: Size
    keypoints: Doubles
    confidence: Doubles
    visible: NDArray[np.bool_]
    spread: Doubles
    visible_in: NDArray[np.intp]
    view_keypoints: Doubles
