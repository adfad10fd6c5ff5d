"""What segmentation answers, as arrays at the image's own size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.base import Floats, ImageFrame, Result
from tta_server.tasks.masks.maps import OutputGrid, image_strips


@dataclass(frozen=True, slots=True)
class ProbabilityMaps:
    """Merged probabilities (C, h, w) on the plain view's grid, interpolated at the size of the image."""

    grid_probabilities: Floats
    grid: OutputGrid
    frame: ImageFrame

    def strips(self, labels: slice) -> Iterator[tuple[slice, Floats]]:
        """The image's rows, a strip at a time, and what they have of these labels: (labels, rows, W) in [0, 1]."""
        for rows, strip in image_strips(self.grid_probabilities[labels], self.grid, self.frame):
            yield rows, np.clip(strip, 0, 1)

    def whole(self) -> Floats:
        """(C, H, W) float32."""
        size = self.frame.image
        maps = np.empty((len(self.grid_probabilities), size.height, size.width), np.float32)
        for rows, strip in self.strips(slice(None)):
            maps[:, rows] = strip
        return maps


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskResult(Result):
    """What the masks of an image of H rows and W columns have in common.

    `area` (C,) int64: pixels of each label. `agreement` (H, W) float32: the share of the views' votes that a pixel has
    on its side, None unless included. `view_agreements`: the share of the cells that a view shows where its own class
    is the merged one, None where it shows none. `probability_maps` is None unless the request includes probabilities.
    """

    labels: Sequence[str]
    area: NDArray[np.int64]
    agreement: Floats | None
    view_agreements: Sequence[float | None]
    probability_maps: ProbabilityMaps | None

    @cached_property
    def probabilities(self) -> Floats | None:
        """(C, H, W) float32, interpolated when first read; None unless the request includes probabilities."""
        return None if self.probability_maps is None else self.probability_maps.whole()


@dataclass(frozen=True, eq=False, kw_only=True)
class SegmentationResult(MaskResult):
    """`mask` (H, W): each pixel's index in `labels`, uint8, or uint16 for more than 256 of them.

    It is 255 where a model of fewer than 256 classes, which gives their numbers, gave this number in every view.
    """

    mask: NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class MultilabelSegmentationResult(MaskResult):
    """`masks` (C, H, W) bool: where each of `labels` is; they may overlap."""

    masks: NDArray[np.bool_]
