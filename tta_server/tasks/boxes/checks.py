"""What a detector's outputs for test images show to be wrong in tta.yaml.

Many detectors find nothing on test images, so all rows are looked at, also those with low scores, but not those that
models pad with. Networks with random weights, whose boxes are about as large as the input and all alike, are right too.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.boxes.evidence import (
    SeenBoxes,
    about_head,
    are_inside,
    are_inside_out,
    are_no_padding,
    fitting_formats,
    format_finding,
    units_finding,
)
from tta_server.tasks.boxes.grids import off_grid_finding, undecoded_finding
from tta_server.tasks.boxes.no_object import no_object_finding
from tta_server.tasks.boxes.output import NUMBERED, BoxesOutput
from tta_server.tasks.boxes.reader import BoxReader, RawRows
from tta_server.tasks.boxes.remarks import numbers_finding
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.scores.checks import are_probabilities, type_finding

BACKGROUNDS = {"background", "bg", "noobject", "noobj"}
"""Names of no object, as letters."""
MANY = 16
"""Boxes from which on their distribution shows something."""
SPREAD = 0.1
"""Least standard deviation of places, by the input's size, of boxes that are spread over the input."""
TOO_MANY_BEYOND = 0.25
"""Share of boxes that reach beyond the input, from which on another format is looked for."""
MOST_BEYOND = 0.5
"""The same where the other format differs by half a box only: networks with random weights may be off by that."""
FITS = 0.98
"""Share of boxes inside the input, from which on a format fits."""
TIED = 0.5
"""Least correlation of the two ends of boxes that are spread over the input."""


def find(labels: Sequence[str], output: BoxesOutput, reader: BoxReader, runs: Sequence[CardRun]) -> Iterator[Finding]:
    """At most one finding a check, from the outputs for test images."""
    if not runs:
        return
    wrong_type = type_finding(runs[0].outputs[reader.scores_name])
    with np.errstate(all="ignore"):  # any numbers may come
        found = [wrong_type] if wrong_type else _value_findings(labels, output, reader, runs)
    yield from (about_head(finding, output) for finding in found if finding is not None)


def _value_findings(
    labels: Sequence[str], output: BoxesOutput, reader: BoxReader, runs: Sequence[CardRun]
) -> Sequence[Finding | None]:
    raws = [reader.raw(run.outputs, 0) for run in runs]
    real = _seen(reader, raws, runs).real()
    clear = real.only(real.score >= output.min_score)
    return [
        _background_finding(labels, output, clear) or no_object_finding(output, raws),
        _scores_finding(output, _scores_of(raws)),
        _numbers_finding(len(labels), output, raws, real, reader.background_label) or _nothing_finding(raws),
        undecoded_finding(output, raws, runs)
        or units_finding(real, output)
        or _format_finding(output, real, clear)
        or off_grid_finding(output, raws, runs),
    ]


# ---- what is seen ----


def _seen(reader: BoxReader, raws: Sequence[RawRows], runs: Sequence[CardRun]) -> SeenBoxes:
    """The rows of all runs that are finite."""
    read = [reader.interpret(raw, run.tensor) for raw, run in zip(raws, runs, strict=True)]
    boxes, score, label = (np.concatenate([each[i] for each in read]) for i in range(3))
    sizes = np.concatenate([np.tile(run.tensor, (len(raw.boxes), 1)) for raw, run in zip(raws, runs, strict=True)])
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(score) & np.isfinite(label)
    return SeenBoxes(boxes[finite], score[finite], label[finite], sizes[finite])


def _scores_of(raws: Sequence[RawRows]) -> NDArray[Any]:
    """All finite scores and objectnesses as the model gives them, without those of padding."""
    parts = []
    for raw in raws:
        real = are_no_padding(raw.boxes)
        parts += [values[real].ravel() for values in (raw.scores, raw.objectness) if values is not None]
    scores: NDArray[Any] = np.concatenate(parts)
    finite: NDArray[Any] = scores[np.isfinite(scores)]
    return finite


# ---- scores and classes ----


def _background_finding(labels: Sequence[str], output: BoxesOutput, clear: SeenBoxes) -> Finding | None:
    """A label for no object, which models with class numbers may have as long as they never answer it."""
    for place, index in (("first", 0), ("last", len(labels) - 1)):
        if re.sub("[^a-z]", "", labels[index].lower()) not in BACKGROUNDS or len(labels) == 1:
            continue
        if output.background == place or not output.has_numbers or (clear.label == index).any():
            return Finding(
                "boxes.background",
                f"the {place} of labels, {labels[index]!r}, names no object; leave it out of labels and set "
                f"output.background: {place}, which never answers it and reads logits with a softmax",
            )
    return None


def _scores_finding(output: BoxesOutput, scores: NDArray[Any]) -> Finding | None:
    if not len(scores):
        return None
    low, high = scores.min(), scores.max()
    if output.kind == "probabilities" and (low < -0.01 or high > 1.01):
        return Finding(
            "boxes.scores",
            f"output.kind is probabilities, but scores come to {low:g} to {high:g}, outside of [0, 1]; for scores "
            "before a sigmoid or softmax set output.kind: logits",
        )
    if output.kind == "logits" and are_probabilities(scores):
        return Finding(
            "boxes.scores",
            f"output.kind is logits, but all {len(scores)} scores lie in [0, 1], most of them near 0; set "
            "output.kind: probabilities",
        )
    return None


def _numbers_finding(
    classes: int, output: BoxesOutput, raws: Sequence[RawRows], real: SeenBoxes, background: int | None
) -> Finding | None:
    """Class numbers beyond the labels, or that are no whole numbers."""
    if not output.has_numbers or not len(real.label):
        return None
    labels = real.label[real.label != background]
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        return numbers_finding(output, classes, labels)
    numbers = np.concatenate([raw.numbers[raw.scores > 0] for raw in raws if raw.numbers is not None])
    broken = numbers[np.abs(numbers - np.rint(numbers)) > 0.01]
    if 10 * len(broken) > len(numbers):
        where = "output.labels" if output.labels else f"the {NUMBERED[output.holds]} column of output.rows"
        return Finding(
            "boxes.classes",
            f"{where} should have class numbers, but the model gives {broken[0]:g}; are score and class in another "
            "order or place?",
        )
    return None


def _nothing_finding(raws: Sequence[RawRows]) -> Finding | None:
    """Objectness where no class ever has a score: of one label, the numbers of the first class."""
    for raw in raws:
        if raw.objectness is None or raw.scores.any():
            return None
    if not any((raw.objectness > 0).any() for raw in raws if raw.objectness is not None):
        return None
    return Finding(
        "boxes.classes",
        "the model gives objectness, but every score of a class is 0, so that no box is ever found; if its last two "
        "columns are score and class number, set output.head: yolov10",
    )


# ---- boxes ----


def _format_finding(output: BoxesOutput, real: SeenBoxes, clear: SeenBoxes) -> Finding | None:
    """Boxes that are inside out, or many that reach beyond the input while all lie inside in another format."""
    judged = clear if len(clear.boxes) else real
    if what := are_inside_out(judged, output):
        fitting = fitting_formats(real, output.units, 0.5) or fitting_formats(judged, output.units, 0.5)
        if fitting or judged is clear:
            return format_finding(output, what, fitting)
    many = clear if _are_spread(clear, output) else real
    return _beyond_finding(output, many) if _are_spread(many, output) else None


def _are_spread(seen: SeenBoxes, output: BoxesOutput) -> bool:
    """Whether there are many boxes at many places."""
    if len(np.unique(seen.boxes[:, 0])) < MANY or len(np.unique(seen.boxes[:, 1])) < MANY:
        return False
    corners = seen.corners(output.format, output.units)
    return bool((corners[:, :2].std(axis=0) > SPREAD).all())


def _beyond_finding(output: BoxesOutput, seen: SeenBoxes) -> Finding | None:
    beyond = ~are_inside(seen.corners(output.format, output.units))
    if beyond.mean() < TOO_MANY_BEYOND:
        return None
    fitting = [
        form for form in fitting_formats(seen, output.units, FITS) if _could_be(form, output, seen, beyond.mean())
    ]
    if not fitting:
        return None
    return format_finding(output, f"{beyond.sum()} of {len(beyond)} boxes reach beyond the input", fitting)


def _could_be(form: str, output: BoxesOutput, seen: SeenBoxes, beyond: float) -> bool:
    """Whether boxes, of which the share `beyond` reaches beyond the input, could have been stated in a wrong format.

    Of corners that are taken for a place and sides, the two ends are near each other; place and sides of boxes are
    independent.
    """
    if form == output.format:
        return False
    if form.endswith("wh"):
        return beyond > MOST_BEYOND
    corners = seen.corners(form, output.units)
    return not output.format.endswith("wh") or all(
        np.corrcoef(corners[:, axis], corners[:, axis + 2])[0, 1] > TIED for axis in (0, 1)
    )
