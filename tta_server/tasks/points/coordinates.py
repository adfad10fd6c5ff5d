"""Points as coordinates: a row of numbers for each, or all of them in one row."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError
from tta_server.imaging.placement import Placement
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.points.checks import remarks, scores_finding, units_finding
from tta_server.tasks.points.output import PointsOutput
from tta_server.tasks.points.reader import FoundPoints, confidence_of
from tta_server.tasks.shapes import Outputs, Shapes, fits, format_shape, output_name
from tta_server.views.geometry import Size


class CoordinateReader:
    """Reads coordinates (N, J, 2), or (N, J, 3) with a score, or the same numbers flat: (N, 2 J) or (N, 3 J).

    Pixels are continuous: pixel u covers [u, u + 1), and the input's edges are 0 and its size. Normalized points are
    fractions of that size; signed ones are -1 and 1 at the edges, as torch's grid_sample has it without align_corners.
    """

    def __init__(self, labels: Sequence[str], output: PointsOutput, outputs: Shapes) -> None:
        self._points = len(labels)
        self._output = output
        self._name = output_name(output.name, "name", outputs)
        self.reads: Sequence[str] = (self._name,)
        self._check_shape(outputs[self._name])

    def _check_shape(self, found: Sequence[int | None]) -> None:
        points = self._points
        allowed: list[Sequence[int | str]] = [["N", points, n] for n in (2, 3)]
        allowed += [["N", n * points] for n in (2, 3)]
        if not any(fits(found, shape) for shape in allowed):
            raise ConfigError(
                f"keypoints with {points} labels needs an output {self._name} of shape "
                f"{', '.join(map(format_shape, allowed[:3]))} or {format_shape(allowed[3])}; the model gives "
                f"{format_shape(found)}{_what_is_held(found)}"
            )

    def check(self, outputs: Outputs, tensor: Size) -> None:
        self._check_shape(outputs[self._name].shape)

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        if not runs:
            return
        rows = np.concatenate([self._rows(run.outputs[self._name][0]) for run in runs]).astype(np.float64)
        found = units_finding(self._output.units, rows[:, :2], min(min(run.tensor) for run in runs))
        if found is not None:
            yield found
        found = scores_finding(self._output.scores, rows[:, 2:])
        if found is not None:
            yield found

    def read(self, outputs: Outputs, row: int, placement: Placement) -> FoundPoints:
        rows = self._rows(outputs[self._name][row])
        xy = rows[:, :2].astype(np.float64)
        doubts = remarks(xy, self._output.units)
        if self._output.order == "yx":
            xy = xy[:, ::-1]
        if self._output.units == "signed":
            xy = (xy + 1) / 2
        if self._output.units != "pixels":
            xy = xy * placement.tensor
        confidence = np.ones(len(xy)) if rows.shape[1] == 2 else confidence_of(rows[:, 2], self._output.scores)
        return FoundPoints(xy, confidence, remarks=doubts)

    def _rows(self, found: NDArray[Any]) -> NDArray[Any]:
        """One view's numbers as (J, 2 or 3)."""
        return found.reshape(self._points, -1)


def _what_is_held(found: Sequence[int | None]) -> str:
    """What an output of another shape may hold, and what to do; empty if it holds no points."""
    count = found[1] if len(found) > 1 else None
    if len(found) == 3 and found[2] in (2, 3) and count is not None:
        held = [f"{count} points of {'x and y' if found[2] == 2 else 'x, y and confidence'}"]
    elif len(found) == 2 and count:
        of_two = [f"{count // 2} points of x and y"] if count % 2 == 0 else []
        of_three = [f"{count // 3}{' points' * (not of_two)} of x, y and confidence"] if count % 3 == 0 else []
        held = of_two + of_three
    else:
        held = []
    return f", which may be {', or '.join(held)}: state as many labels" if held else ""
