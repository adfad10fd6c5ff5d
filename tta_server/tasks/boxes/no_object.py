"""Logits of classes of which one is none: whether a softmax or sigmoids belong to them, seen from test images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.boxes.reader import RawRows
from tta_server.tasks.checks import Finding
from tta_server.tasks.scores.kinds import softmax

LEAST_ROWS = 8
"""Rows under which nothing is seen."""
MOST = 0.9
"""Share of rows in which sigmoids with random weights do not all agree."""
RARE = 0.05
"""Probability of no object, by that of an even chance of all classes, under which most rows are not of a softmax."""


def no_object_finding(output: BoxesOutput, raws: Sequence[RawRows]) -> Finding | None:
    """A softmax finds no object in most rows of a test image; of sigmoids that place is never likely."""
    if output.background == "none" or output.kind != "logits" or raws[0].scores.ndim != 2:
        return None
    scores: NDArray[Any] = np.concatenate([raw.scores for raw in raws]).astype(np.float64)
    scores = scores[np.isfinite(scores).all(axis=1)]
    if len(scores) < LEAST_ROWS:
        return None
    slot = 0 if output.background == "first" else scores.shape[1] - 1
    return _sigmoids_finding(output, scores, slot) if output.shape.are_apart else _softmax_finding(scores, slot)


def _sigmoids_finding(output: BoxesOutput, scores: NDArray[Any], slot: int) -> Finding | None:
    likely = int(((scores[:, slot] > 0) & (scores.argmax(axis=1) == slot)).sum())
    if likely < MOST * len(scores):
        return None
    return Finding(
        "boxes.background",
        f"output.head {output.head} never answers the {output.background} class, but that is the likeliest of "
        f"{likely} of {len(scores)} boxes, as is no object in a softmax; set output.head: detr",
    )


def _softmax_finding(scores: NDArray[Any], slot: int) -> Finding | None:
    chance = softmax(scores.T)[slot]
    if (scores.argmax(axis=1) == slot).any() or np.median(chance) * scores.shape[1] >= RARE:
        return None
    return Finding(
        "boxes.background",
        f"none of {len(scores)} boxes for test images is likely to be no object, so its logits are none of a softmax; "
        "if each class has a sigmoid of its own, as in RF-DETR, set output.head: rf_detr",
    )
