"""Points as heat maps, a map for each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError
from tta_server.imaging.placement import Placement
from tta_server.tasks.base import Floats
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.masks.maps import crop_to_frame, map_size, output_grid
from tta_server.tasks.points.checks import scores_finding
from tta_server.tasks.points.heatmaps import peaks
from tta_server.tasks.points.output import PointsOutput
from tta_server.tasks.points.poses import HeatMaps
from tta_server.tasks.points.reader import PROBABILITIES, FoundPoints
from tta_server.tasks.scores.checks import type_finding
from tta_server.tasks.shapes import Outputs, Shapes, check_shape, fits, format_shape, output_name
from tta_server.views.geometry import Size

POINTS_AXIS: Mapping[str, int] = {"NCHW": 1, "NHWC": 3}
"""`output.layout` -> the axis of a batch of maps that counts the points."""


class HeatMapReader:
    """Reads heat maps (N, J, h, w), or (N, h, w, J), whose peaks in the view's frame are the points."""

    def __init__(self, labels: Sequence[str], output: PointsOutput, outputs: Shapes) -> None:
        self._output = output
        self._points_last = output.layout == "NHWC"
        self._points = len(labels)
        self._name = output_name(output.name, "name", outputs)
        self.reads: Sequence[str] = (self._name,)
        self._check_shape(outputs[self._name])

    def _check_shape(self, found: Sequence[int | None]) -> None:
        expected: list[int | str] = ["N", "h", "w"]
        expected.insert(POINTS_AXIS[self._output.layout], self._points)
        if len(found) == len(expected) and not fits(found, expected):
            for layout, axis in POINTS_AXIS.items():
                if found[axis] == self._points:
                    raise ConfigError(
                        f"output.layout is {self._output.layout}, but the model gives {self._name} of shape "
                        f"{format_shape(found)}; set output.layout: {layout}"
                    )
        check_shape(f"keypoints with {self._points} labels", self._name, found, expected)

    def check(self, outputs: Outputs, tensor: Size) -> None:
        found = outputs[self._name]
        self._check_shape(found.shape)
        self._check_stride(map_size(self._maps(found[0])), tensor)

    def _check_stride(self, cells: Size, tensor: Size) -> None:
        stride = self._output.stride
        if stride is not None and cells != (round(tensor.width / stride), round(tensor.height / stride)):
            raise ConfigError(
                f"output.stride is {stride:g}, but the model gives {cells} cells for an input of {tensor}: a stride of "
                f"{tensor.width / cells.width:g} by {tensor.height / cells.height:g}"
            )

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        if not runs:
            return
        found = type_finding(runs[0].outputs[self._name])
        if found is None:
            scores = np.concatenate([run.outputs[self._name][0].ravel() for run in runs])
            found = scores_finding(self._output.scores, scores)
        if found is not None:
            yield found

    def read(self, outputs: Outputs, row: int, placement: Placement) -> FoundPoints:
        maps = self._maps(outputs[self._name][row])
        grid = output_grid(map_size(maps), placement, self._output.offset)
        inside, corner = crop_to_frame(maps, placement, grid)
        points, confidence = peaks(inside, PROBABILITIES[self._output.scores])
        return FoundPoints(points + corner, confidence, grid.to_pixels, HeatMaps(maps, placement, grid))

    def _maps(self, found: NDArray[Any]) -> Floats:
        """One view's maps as (J, h, w)."""
        maps = np.ascontiguousarray(found.transpose(2, 0, 1)) if self._points_last else found
        return maps.astype(np.float32, copy=False)
