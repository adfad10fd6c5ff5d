"""What rows of boxes show of their format and units, at load as while serving."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.boxes.frames import CORNERS
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.checks import Finding

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

FAR = 4.0
"""A fraction of the input's size beyond which no box reaches: it is in pixels."""
NEAR = 1.5
"""Pixels within which all boxes end only if they are fractions of the input's size."""
SLIP = 0.005
"""Fraction of the input's size by which rounding may turn a box inside out."""
BEYOND = 0.05
"""Fraction of the input's size by which a box inside the input may reach beyond it."""
MOST_FLAT = 3
"""Boxes without area that may be all that a model finds."""


@dataclass(frozen=True, slots=True)
class SeenBoxes:
    """R rows: `boxes` (R, 4) in the model's format and units, `score` (R,), and class numbers `label` (R,) from 0.

    `sizes` are the width and height of the model's input, (2,), or (R, 2) if they differ.
    """

    boxes: Doubles
    score: Doubles
    label: NDArray[Any]
    sizes: Sequence[int] | NDArray[Any]

    def are_finite(self) -> bool:
        return all(bool(np.isfinite(values).all()) for values in (self.boxes, self.score, self.label))

    def only(self, which: Flags) -> "SeenBoxes":
        sizes = np.broadcast_to(self.sizes, (len(self.score), 2))
        return SeenBoxes(self.boxes[which], self.score[which], self.label[which], sizes[which])

    def real(self) -> "SeenBoxes":
        """Without the rows that models pad with, and those without a score."""
        return self.only(are_no_padding(self.boxes) & (self.score > 0))

    def corners(self, form: str, units: str) -> Doubles:
        """Left, top, right, bottom (R, 4) as fractions of the input's size, if format and units are these."""
        xyxy = CORNERS[form](self.boxes)
        return xyxy if units == "normalized" else xyxy / np.tile(self.sizes, 2)


def are_no_padding(boxes: NDArray[Any]) -> Flags:
    """Which boxes (R, 4) are not four equal numbers, with which models pad: (R,)."""
    return np.asarray((boxes != boxes[:, :1]).any(axis=1))


def sides(corners: Doubles) -> Doubles:
    return corners[:, 2:] - corners[:, :2]


def are_inside(corners: Doubles) -> Flags:
    """Which boxes (R, 4), as fractions of the input's size, have an area and lie inside the input: (R,)."""
    within = ((corners >= -BEYOND) & (corners <= 1 + BEYOND)).all(axis=1)
    return np.asarray(within & (sides(corners) > 0).all(axis=1))


def fitting_formats(seen: SeenBoxes, units: str, least: float) -> list[str]:
    """The formats in which the largest share of the boxes lies inside the input, if that is at least `least`."""
    share = {form: float(are_inside(seen.corners(form, units)).mean()) for form in CORNERS}
    best = max(share.values())
    return [form for form in CORNERS if share[form] >= max(least, best - 0.02)]


def are_pixels(seen: SeenBoxes) -> bool:
    """Whether boxes that should be fractions of the input's size, most of which reach far beyond it, are pixels."""
    return bool(len(seen.boxes) and (np.abs(seen.boxes).max(axis=1) > FAR).mean() > 0.5)


def are_fractions(seen: SeenBoxes) -> bool:
    """Whether boxes that should be in pixels are fractions of the input's size: they end within NEAR pixels.

    Whole numbers show nothing: boxes of one pixel in the corner are [0, 0, 1, 1] too. Nor do numbers around 0, which
    are no boxes in any format.
    """
    if not len(seen.boxes) or np.min(seen.sizes) <= 4 * NEAR or (np.rint(seen.boxes) == seen.boxes).all():
        return False
    most = np.abs(seen.boxes).max(axis=1)
    if most.max() > FAR or np.quantile(most, 0.95) > NEAR:
        return False
    return any(_are_in_place(seen.corners(form, "normalized")).mean() >= 0.5 for form in CORNERS)


def _are_in_place(corners: Doubles) -> Flags:
    """Which boxes (R, 4), as fractions of the input's size, have an area and their middle inside the input: (R,)."""
    middle = (corners[:, :2] + corners[:, 2:]) / 2
    return np.asarray(((middle >= 0) & (middle <= 1) & (sides(corners) > 0)).all(axis=1))


def units_finding(seen: SeenBoxes, output: BoxesOutput) -> Finding | None:
    """What is wrong with `output.units`, seen from real boxes."""
    if output.units == "normalized" and are_pixels(seen):
        return Finding(
            "boxes.units",
            f"output.units is normalized, but the model gives boxes up to {np.abs(seen.boxes).max():g}; for pixels of "
            "the input set output.units: pixels",
        )
    if output.units == "pixels" and are_fractions(seen):
        return Finding(
            "boxes.units",
            f"output.units is pixels, but the model's boxes end at {seen.boxes.max():g}; for fractions of the input's "
            "size set output.units: normalized",
        )
    return None


def are_inside_out(seen: SeenBoxes, output: BoxesOutput) -> str:
    """What is wrong if most real boxes end before they begin, or none has an area; empty if nothing is."""
    if not len(seen.boxes):
        return ""
    lengths = sides(seen.corners(output.format, output.units))
    wrong = int((lengths < -SLIP).any(axis=1).sum())
    if 2 * wrong > len(lengths):
        return f"{wrong} of {len(lengths)} boxes end before they begin"
    if len(lengths) > MOST_FLAT and not (lengths > 0).all(axis=1).any():
        return f"none of {len(lengths)} boxes has an area"
    return ""


def format_finding(output: BoxesOutput, what: str, fitting: Sequence[str]) -> Finding:
    advice = f"set output.format: {' or '.join(fitting)}, which fits" if fitting else "no other format fits either"
    return Finding("boxes.format", f"output.format is {output.format}, but {what}; {advice}")


def about_head(finding: Finding, output: BoxesOutput) -> Finding:
    """A finding about a key that `output.head` fixes says so."""
    key = finding.check.removeprefix("boxes.").replace("scores", "kind")
    if key not in output.shape.form:
        return finding
    return replace(
        finding,
        sentence=f"{finding.sentence}; output.head {output.head} fixes that key: name the head that the model was "
        "exported with, or state the output's keys without a head",
    )
