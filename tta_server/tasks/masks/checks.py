"""Checks of maps against the model's input, and of class numbers and queries against what tta.yaml states."""

from collections.abc import Iterator, Sequence
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.scores.checks import SLACK, type_finding
from tta_server.views.geometry import Size

STRIDES = (1, 2, 4, 7, 8, 12, 14, 16, 28, 32, 64, 128)
"""Pixels a cell of networks that take sizes which these do not divide."""


def stride_findings(runs: Sequence[CardRun], sizes: Sequence[Size]) -> Iterator[Finding]:
    """A finding, from the size of each run's maps, if no stride explains a map's size: which pixels do its cells show?

    A convolution without padding gives a map of the input's middle, which would be stretched over the whole image. A
    map of one size for inputs of any size, or larger than the first, was resized inside the model from the whole.
    """
    usual, first = runs[0].tensor, sizes[0]
    for run, cells in zip(runs, sizes, strict=True):
        odd = run.tensor != usual
        if (odd and cells == first) or all(_is_explained(p, c, odd) for p, c in zip(run.tensor, cells, strict=True)):
            continue
        found = f"the model gives {cells} scores for an input of {run.tensor}, which no whole stride explains"
        yield Finding("maps.stride", f"{found}: {_advice(run.tensor, cells, odd)}")
        return


def _is_explained(pixels: int, cells: int, odd: bool) -> bool:
    """Whether cells of a whole number of pixels, the last rounded up or down, cover the input, or are more than it."""
    if cells > pixels:
        return not odd or cells % pixels == 0
    return pixels % cells == 0 or any(cells in (pixels // stride, -(-pixels // stride)) for stride in STRIDES)


def _advice(tensor: Size, cells: Size, odd: bool) -> str:
    if not odd:
        return (
            "if its convolutions are not padded, it shows only the input's middle; export it with padding, so that it "
            "scores the whole input"
        )
    for multiple in reversed(STRIDES[1:]):
        if all(_rounded(p, multiple, c) for p, c in zip(tensor, cells, strict=True)):
            return f"it rounds the size to a multiple of {multiple}; set input.multiple: {multiple}"
    return "set input.multiple to what the model's input is divided by, or a fixed input.size"


def _rounded(pixels: int, multiple: int, cells: int) -> bool:
    """Whether the number of cells is the number of pixels, rounded to a multiple."""
    return cells in (pixels // multiple * multiple, -(-pixels // multiple) * multiple)


# ---- what an output is instead ----


def other_layout(shape: Sequence[int | None], labels: int, layout: str) -> str:
    """What to set if an output's shape, which does not fit `layout`, fits the other one; else nothing."""
    other, axis = ("NHWC", 3) if layout == "NCHW" else ("NCHW", 1)
    return f"; set output.layout: {other}" if len(shape) == 4 and shape[axis] == labels else ""


def other_kind(shape: Sequence[int | None]) -> str:
    """What to set for an output of one map instead of scores; else nothing."""
    if len(shape) != 3 and not (len(shape) == 4 and 1 in (shape[1], shape[3])):
        return ""
    return (
        "; for class numbers set output.kind: classes; for the mask of one label give labels one name and set "
        "output.multilabel: true"
    )


def map_type_finding(maps: NDArray[Any]) -> Finding | None:
    """A finding about scores (C, h, w) that are no floating point numbers."""
    found = type_finding(maps)
    if found is None or len(maps) > 1:
        return found
    return Finding(
        "scores.type",
        f"the model's output is one map of type {maps.dtype}: for class numbers set output.kind: classes, with a name "
        "in labels for each number, also for the background; for quantised scores export it with float32",
    )


def _one_class(advice: str) -> Finding:
    found = "labels has one name, and of classes that exclude each other one is always the answer"
    return Finding("scores.one_class", f"{found}; {advice}")


# ---- class numbers ----


def class_findings(maps: Sequence[NDArray[Any]], unknown: Sequence[float | None], labels: int) -> Iterator[Finding]:
    """Checks of each test image's class numbers (h, w); `unknown` has a number of each that is no label's."""
    if labels == 1:
        yield _one_class("give labels a name for each class number, also for the background")
        return
    others = [number for number in unknown if number is not None and not isnan(number)]
    if not others:
        return
    (finding,) = class_remarks(next((n for n in others if not n.is_integer()), others[0]), labels)
    starts_at_1 = min(each.min() for each in maps) == 1 and max(each.max() for each in maps) == labels
    begin = "; its numbers begin with 1: put a name for 0 before the others" if starts_at_1 else ""
    yield Finding(finding.check, finding.sentence + begin)


def class_remarks(number: float | None, labels: int) -> Sequence[Finding]:
    """Of a number of one prediction that is no label's, None if there is none."""
    if number is None:
        return ()
    if not number.is_integer():
        return [
            Finding(
                "maps.classes",
                f"output.kind is classes, but the model gives {number:.5g}, which is no class number; for the scores "
                "of one label set output.kind: logits or probabilities, output.multilabel: true and one name in labels",
            )
        ]
    return [
        Finding(
            "maps.classes",
            f"the model gives the class number {number:.0f}, but labels has {labels} names, for 0 to {labels - 1}; "
            "give labels a name for each number, also for the background",
        )
    ]


# ---- queries ----


def query_findings(scores: Sequence[NDArray[Any]], masks: Sequence[NDArray[Any]]) -> Iterator[Finding]:
    """Checks of each test image's class logits (Q, C + 1) and mask logits (Q, h, w)."""
    for output in (scores[0], masks[0]):
        if wrong_type := type_finding(output):
            yield wrong_type
            return
    if scores[0].shape[1] == 2:
        yield _one_class("export the model with its masks as scores, one for each label, and state their kind")
        return
    if all(_in_0_to_1(each) and np.allclose(each.sum(axis=1), 1, atol=SLACK) for each in scores):
        yield Finding(
            "scores.logits",
            "output.kind: queries takes logits, but each query's class scores sum to 1, as after a softmax; export the "
            "model without it",
        )
    elif all(_in_0_to_1(each) for each in masks) and max(float(each.max()) for each in masks) > 0:
        yield Finding(
            "scores.logits",
            "output.kind: queries takes logits, but all masks lie in [0, 1], as after a sigmoid; export the model "
            "without it",
        )


def _in_0_to_1(values: NDArray[Any]) -> bool:
    return bool(values.min() >= -SLACK and values.max() <= 1 + SLACK)
