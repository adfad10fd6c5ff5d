"""What a keypoint model's outputs show to be wrong in tta.yaml: for test images, and in an answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.checks import Finding
from tta_server.tasks.scores.checks import are_probabilities

FAR = 4.0
"""A fraction of the input's size beyond which no point lies: it is in pixels."""
NEAR = 1.5
"""Pixels within which all points lie only if they are fractions of the input's size."""
OUTSIDE = 0.2
"""Fraction of the input's size by which few points lie outside of it."""
SMALL = 16
"""Pixels of an input's side under which points within NEAR pixels show nothing."""
SOME = 8
"""Points of test images, of which some are left of the input's middle, or above it."""
SLACK = 0.02
"""Distance from 0 and 1 by which rounding and resizing within a model may move a probability."""


def remarks(xy: NDArray[Any], units: str) -> Sequence[Finding]:
    """Findings about one view's points (J, 2), as the model gives them in `output.units`."""
    if units == "pixels" or not xy.max() > FAR:
        return ()
    finding = _far_finding(xy, units)
    return () if finding is None else (finding,)


# ---- units ----

SIGNED = "for numbers from -1 to 1 across the input set output.units: signed"
NORMALIZED = "for fractions of the input's size set output.units: normalized"


def units_finding(units: str, xy: NDArray[Any], smallest: int) -> Finding | None:
    """What points (R, 2) of test images show about `output.units`; `smallest` is the least side of the inputs."""
    finite = xy[np.isfinite(xy).all(axis=1)]
    if not len(finite):
        return None
    if units == "pixels":
        return _pixels_finding(finite, smallest)
    return _far_finding(finite, units) or _sign_finding(finite, units)


def _pixels_finding(xy: NDArray[Any], smallest: int) -> Finding | None:
    if smallest < SMALL or np.abs(xy).max() > NEAR or (np.rint(xy) == xy).all():
        return None
    fitting = SIGNED if xy.min() < -0.05 else NORMALIZED
    return _within_finding(xy, "pixels", "all points lie", fitting)


def _sign_finding(xy: NDArray[Any], units: str) -> Finding | None:
    """Signed points are on both sides of the input's middle, normalized ones are hardly ever under 0."""
    if np.abs(xy).max() > 1.05:
        return None
    if units == "normalized" and (xy < -OUTSIDE).mean() >= 0.25:
        return _within_finding(xy, units, "points lie", SIGNED)
    if units == "signed" and len(xy) >= SOME and xy.min() >= 0 and (np.rint(xy) != xy).any():
        return _within_finding(xy, units, "all points lie", NORMALIZED)
    return None


def _within_finding(xy: NDArray[Any], units: str, lie: str, fitting: str) -> Finding:
    found = f"output.units is {units}, but {lie} within {xy.min():.3g} to {xy.max():.3g}"
    return Finding("points.units", f"{found}; {fitting}")


def _far_finding(xy: NDArray[Any], units: str) -> Finding | None:
    """Half of the points or more lie far outside of the input."""
    if (np.abs(xy).max(axis=1) > FAR).mean() < 0.5:
        return None
    return Finding(
        "points.units",
        f"output.units is {units}, but the model gives coordinates up to {np.abs(xy).max():.4g}; for pixels of the "
        "input set output.units: pixels",
    )


# ---- scores ----


LOGITS = {"probabilities": (1.5, -0.5), "raw": (4.0, -1.0)}
"""`output.scores` -> scores with one above the first, or a quarter under the second, are before a sigmoid."""


def scores_finding(stated: str, scores: NDArray[Any]) -> Finding | None:
    """What scores of test images, of any shape, show about `output.scores`."""
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return None
    least, most = finite.min(), finite.max()
    if stated in LOGITS and (most > LOGITS[stated][0] or np.quantile(finite, 0.25) < LOGITS[stated][1]):
        fitting = "for scores before a sigmoid set output.scores: logits"
    elif stated == "probabilities" and (least < -SLACK or most > 1 + SLACK):
        fitting = "set output.scores: raw, which clips them to [0, 1], or logits if they are before a sigmoid"
    elif stated == "logits" and are_probabilities(finite):
        return Finding(
            "points.scores",
            f"output.scores is logits, but all of {len(finite)} scores lie in [0, 1], most of them near 0; set "
            "output.scores: probabilities",
        )
    else:
        return None
    return Finding(
        "points.scores", f"output.scores is {stated}, but the model gives {least:.4g} to {most:.4g}; {fitting}"
    )
