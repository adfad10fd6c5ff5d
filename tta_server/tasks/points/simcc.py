"""Points as two vectors of bins, one along each axis: the SimCC heads of RTMPose and DWPose."""

from collections.abc import Iterator, Sequence

import numpy as np

from tta_server.errors import ConfigError
from tta_server.imaging.placement import Placement
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.points.output import PointsOutput
from tta_server.tasks.points.reader import FoundPoints, confidence_of
from tta_server.tasks.scores.checks import type_finding
from tta_server.tasks.shapes import Outputs, Shapes, check_shape, output_name
from tta_server.views.geometry import Affine, Size


class SimccReader:
    """Reads bins across (N, J, W split) and down (N, J, H split), as MMPose's `get_simcc_maximum` and rtmlib do.

    A point is the largest bin of each axis, the first of equal ones; its confidence is the smaller of the two largest
    scores, here clipped to [0, 1]. MMPose gives points whose score is 0 or less the place (-1, -1); here they keep
    their place, with confidence 0.

    Bin i lies at pixel i / split + 0.5: MMPose trains bin round(u split) for the index u of a pixel (SimCCLabel),
    mirrors u as W - 1 - u (`flip_keypoints`), and the centre of pixel u is u + 0.5. So a flip is undone exactly, unlike
    MMPose's own reversal of the bins, which is split - 1 bins off; and points are half a pixel of the input further
    right and down than the indices that MMPose and rtmlib give.
    """

    def __init__(self, labels: Sequence[str], output: PointsOutput, outputs: Shapes) -> None:
        self._split = output.split
        self._task = f"keypoints with {len(labels)} labels"
        self._expected: Sequence[int | str] = ["N", len(labels), "bins"]
        if output.x == output.y:
            raise ConfigError(f"output.x and output.y are both {output.x}; name the output of each axis")
        self._x, self._y = output_name(output.x, "x", outputs), output_name(output.y, "y", outputs)
        self.reads: Sequence[str] = (self._x, self._y)
        for name in self.reads:
            check_shape(self._task, name, outputs[name], self._expected)

    def check(self, outputs: Outputs, tensor: Size) -> None:
        for name in self.reads:
            check_shape(self._task, name, outputs[name].shape, self._expected)
        bins = Size(outputs[self._x].shape[2], outputs[self._y].shape[2])
        if bins != _bins(tensor, self._split):
            raise ConfigError(
                f"output.split is {self._split:g}, but the model gives {bins.width} bins across and {bins.height} down "
                f"for an input of {tensor}; {self._what_fits(bins, tensor)}"
            )

    def _what_fits(self, bins: Size, tensor: Size) -> str:
        across, down = bins.width / tensor.width, bins.height / tensor.height
        if bins == _bins(tensor, across):
            return f"set output.split: {across:g}"
        if Size(bins.height, bins.width) == _bins(tensor, self._split):
            return f"set output.x: {self._y} and output.y: {self._x}"
        return f"that is a split of {across:g} across and {down:g} down, where one is needed for both"

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        found = [type_finding(runs[0].outputs[name]) for name in self.reads] if runs else []
        yield from [finding for finding in found if finding][:1]

    def read(self, outputs: Outputs, row: int, placement: Placement) -> FoundPoints:
        bins = [outputs[name][row] for name in self.reads]
        xy = np.stack([found.argmax(axis=1) for found in bins], axis=1).astype(np.float64)
        tops = np.stack([found.max(axis=1) for found in bins])
        scores = np.where(np.isfinite(tops).all(axis=0), tops.min(axis=0), np.nan)
        to_pixels = Affine.stretch(1 / self._split, 1 / self._split).then(Affine.shift(0.5, 0.5))
        return FoundPoints(xy, confidence_of(scores, "raw"), to_pixels)


def _bins(tensor: Size, split: float) -> Size:
    """How many bins an input of that size has, rounded as MMPose does."""
    return Size(round(tensor.width * split), round(tensor.height * split))
