"""What a keypoint model's outputs show to be wrong in tta.yaml: for test images, and in an answer."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.points.output import PointsOutput
from tta_server.tasks.scores.checks import are_probabilities, type_finding
from tta_server.tasks.shapes import Outputs

FAR = 4.0
"""A fraction of the input's size beyond which no point lies: it is in pixels."""
NEAR = 1.5
"""Pixels within which all points lie only if they are fractions of the input's size."""
OUTSIDE = 0.2
"""Fraction of the input's size by which few points lie outside of it."""
SMALL = 16
"""Pixels of an input's side under which points within NEAR pixels show nothing."""


def find(output: PointsOutput, name: str, runs: Sequence[CardRun]) -> Iterator[Finding]:
    """At most one finding a check, from the outputs `name` for test images."""
    if not runs:
        return
    found: list[Finding | None] = []
    if output.kind == "heatmaps" and (wrong_type := type_finding(runs[0].outputs[name])):
        yield wrong_type
        return
    if output.kind == "coordinates":
        xy = np.concatenate([_points(run.outputs, name) for run in runs])
        smallest = min(min(run.tensor) for run in runs)
        found.append(_pixels_finding(xy, smallest) if output.units == "pixels" else _normalized_finding(xy))
    found.append(_scores_finding(output, _finite(np.concatenate([_scores(output, run.outputs[name]) for run in runs]))))
    yield from (finding for finding in found if finding is not None)


def remarks(xy: NDArray[Any], output: PointsOutput) -> Sequence[Finding]:
    """Findings about one view's points (J, 2), as the model gives them."""
    if output.units == "pixels" or not xy.max() > FAR:
        return ()
    finding = _far_finding(xy)
    return () if finding is None else (finding,)


def _points(outputs: Outputs, name: str) -> NDArray[Any]:
    """The finite points (J, 2) of one image."""
    xy = outputs[name][0, :, :2].astype(np.float64)
    return xy[np.isfinite(xy).all(axis=1)]


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    kept: NDArray[Any] = values[np.isfinite(values)]
    return kept


def _scores(output: PointsOutput, found: NDArray[Any]) -> NDArray[Any]:
    return (found[0] if output.kind == "heatmaps" else found[0, :, 2:]).ravel()


# ---- units ----

EXPORT = "export the model so that it gives pixels of the input or fractions of its size: [-1, 1] is not read"


def _pixels_finding(xy: NDArray[Any], smallest: int) -> Finding | None:
    """`smallest` is the least side of the inputs."""
    if smallest < SMALL or not len(xy) or np.abs(xy).max() > NEAR or (np.rint(xy) == xy).all():
        return None
    found = f"output.units is pixels, but all points lie within {xy.min():.3g} to {xy.max():.3g}"
    if xy.min() < -0.05:
        return Finding("points.units", f"{found}; {EXPORT}")
    return Finding("points.units", f"{found}; for fractions of the input's size set output.units: normalized")


def _normalized_finding(xy: NDArray[Any]) -> Finding | None:
    """What points (R, 2) show that should be fractions of the input's size."""
    if not len(xy):
        return None
    if np.abs(xy).max() <= 1.05 and (xy < -OUTSIDE).mean() >= 0.25:
        found = f"output.units is normalized, but points lie within {xy.min():.3g} to {xy.max():.3g}"
        return Finding("points.units", f"{found}; {EXPORT}")
    return _far_finding(xy)


def _far_finding(xy: NDArray[Any]) -> Finding | None:
    """Half of the points or more lie far outside of the input."""
    if (np.abs(xy).max(axis=1) > FAR).mean() < 0.5:
        return None
    return Finding(
        "points.units",
        f"output.units is normalized, but the model gives coordinates up to {np.abs(xy).max():.4g}; for pixels of the "
        "input set output.units: pixels",
    )


# ---- scores ----


def _scores_finding(output: PointsOutput, scores: NDArray[Any]) -> Finding | None:
    """Networks that are trained to give heat maps of [0, 1] may give less than 0 here and there."""
    if not len(scores):
        return None
    if output.scores == "probabilities" and (scores.max() > 1.5 or np.quantile(scores, 0.25) < -0.5):
        return Finding(
            "points.scores",
            f"output.scores is probabilities, but the model gives {scores.min():.4g} to {scores.max():.4g}; for scores "
            "before a sigmoid set output.scores: logits",
        )
    if output.scores == "logits" and are_probabilities(scores):
        return Finding(
            "points.scores",
            f"output.scores is logits, but all of {len(scores)} scores lie in [0, 1], most of them near 0; set "
            "output.scores: probabilities",
        )
    return None
