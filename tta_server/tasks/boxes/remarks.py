"""What one view's boxes show to be wrong in tta.yaml while serving. Costs a few microseconds where nothing is."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from tta_server.tasks.boxes.evidence import (
    FAR,
    NEAR,
    SeenBoxes,
    about_head,
    are_inside_out,
    fitting_formats,
    format_finding,
    sides,
    units_finding,
)
from tta_server.tasks.boxes.frames import CORNERS
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.checks import Finding


class BoxRemarks:
    """Looks at the boxes that count; `background` is the number of the class that is none, from 0."""

    def __init__(self, output: BoxesOutput, classes: int, background: int | None) -> None:
        self._output = output
        self._classes = classes
        self._background = background
        self._corners = CORNERS[output.format]

    def of(self, seen: SeenBoxes) -> Sequence[Finding]:
        """Findings about finite boxes."""
        if not len(seen.score):
            return ()
        found = (self._numbers(seen), self._units(seen) or self._format(seen))
        return tuple(about_head(finding, self._output) for finding in found if finding is not None)

    def _numbers(self, seen: SeenBoxes) -> Finding | None:
        if seen.label.min() >= 0 and seen.label.max() < self._classes:
            return None
        labels = seen.real().label
        unnamed = labels[((labels < 0) | (labels >= self._classes)) & (labels != self._background)]
        return numbers_finding(self._output, self._classes, unnamed) if len(unnamed) else None

    def _units(self, seen: SeenBoxes) -> Finding | None:
        most = seen.boxes.max()
        suspicious = most > FAR if self._output.units == "normalized" else most <= NEAR
        return units_finding(seen.real(), self._output) if suspicious else None

    def _format(self, seen: SeenBoxes) -> Finding | None:
        if sides(self._corners(seen.boxes)).min() > 0:
            return None
        real = seen.real()
        what = are_inside_out(real, self._output)
        return format_finding(self._output, what, fitting_formats(real, self._output.units, 0.5)) if what else None


def numbers_finding(output: BoxesOutput, classes: int, labels: NDArray[Any]) -> Finding:
    """`labels` are all class numbers, from 0, that were seen, some of them beyond the labels."""
    first = output.first_number
    low, high = int(labels.min()) + first, int(labels.max()) + first
    found = f"the model gives class number{f' {low}' if low == high else f's {low} to {high}'}"
    stated = f"{classes} labels with output.first_label {first} are numbered {first} to {first + classes - 1}"
    if first == 0 < low and high == classes:
        advice = "set output.first_label: 1 if that is the first label's number"
    elif first == 1 and low == 0 and high < classes:
        advice = "set output.first_label: 0 if that is the first label's number"
    else:
        advice = "labels takes a name for each number that the model may give, also for unused ones"
    return Finding("boxes.classes", f"{stated}, but {found}; {advice}")
