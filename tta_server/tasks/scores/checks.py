"""Checks of scores, of vectors (C,) and maps (C, h, w), against the kind that tta.yaml states."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.base import Floats
from tta_server.tasks.checks import Finding
from tta_server.tasks.scores.kinds import ScoreKind

SLACK = 1e-3
"""How far rounding, also of float16, may take a probability out of [0, 1] or a sum from 1."""
SUM_SLACK = 1e-2
STEPS = 256
"""Of a quantised probability."""


def type_finding(scores: NDArray[Any]) -> Finding | None:
    """A finding about scores that are no floating point numbers."""
    if np.issubdtype(scores.dtype, np.floating):
        return None
    return Finding(
        "scores.type",
        f"the model's scores are of type {scores.dtype}, whose scale is not stated; export it with scores as float32 "
        "(dequantised)",
    )


def score_findings(kind: ScoreKind, scores: Sequence[NDArray[Any]], one_label: str) -> Iterator[Finding]:
    """Checks of each test image's scores (C, ...); `one_label` says what to state for a model of one label."""
    if wrong_type := type_finding(scores[0]):
        yield wrong_type
        return
    if kind.exclusive and len(scores[0]) == 1:
        yield Finding(
            "scores.one_class",
            f"labels has one name, and of classes that exclude each other one is always the answer; {one_label}",
        )
        return
    finite = [values for values in scores if np.isfinite(values).all()]
    if not finite:
        return
    if kind.stated == "logits":
        yield from _activated(kind, finite)
    else:
        yield from _not_probabilities(kind, finite)


def _activated(kind: ScoreKind, scores: Sequence[Floats]) -> Iterator[Finding]:
    """Logits that an activation was applied to already."""
    least, most = _range(scores)
    if least < -SLACK or most > 1 + SLACK or most <= 0:
        return
    if kind.exclusive and all(_sum_to_1(values, SLACK) for values in scores):
        found = "each image's scores sum to 1, as after a softmax"
    elif kind.exclusive and scores[0].ndim == 1:
        return  # scores of a class may happen to lie there
    else:
        found = f"all scores lie in [0, 1] ({least:.3g} to {most:.3g}), as after a sigmoid"
    yield Finding("scores.logits", f"output.kind is logits, but {found}; set output.kind: probabilities")


def _not_probabilities(kind: ScoreKind, scores: Sequence[Floats]) -> Iterator[Finding]:
    least, most = _range(scores)
    if least < -SLACK or most > 1 + SLACK:
        yield out_of_range(least, most)
    elif kind.exclusive and not all(_sum_to_1(values, SUM_SLACK) for values in scores):
        yield _other_sum(max(float(values.sum(axis=0).max()) for values in scores))


def range_remarks(kind: ScoreKind, scores: Floats) -> Sequence[Finding]:
    """Of one prediction (C, ...): probabilities that are none."""
    if kind.stated == "logits":
        return ()
    least, most = float(scores.min()), float(scores.max())
    return [out_of_range(least, most)] if least < -SLACK or most > 1 + SLACK else ()


def vector_remarks(kind: ScoreKind, scores: Floats) -> Sequence[Finding]:
    """Of one prediction (C,): probabilities that are none, or of which one class is true and that don't sum to 1."""
    if kind.stated == "logits":
        return ()
    found = range_remarks(kind, scores)
    if found or not kind.exclusive:
        return found
    total = float(scores.sum())
    return () if abs(total - 1) <= SUM_SLACK or _sum_to_1(scores, SUM_SLACK) else [_other_sum(total)]


def _sum_to_1(values: Floats, slack: float) -> bool:
    """Whether probabilities (C, ...) sum to 1 but for rounding, also to the steps of 8 bits of a quantised softmax."""
    if (values * STEPS == np.rint(values * STEPS)).all() or np.allclose(values * 255, np.rint(values * 255), atol=1e-3):
        slack += len(values) / (2 * STEPS)
    return bool(np.abs(values.sum(axis=0) - 1).max() <= slack)


def _other_sum(total: float) -> Finding:
    return Finding(
        "scores.sum",
        f"output.kind is probabilities, of which one class is true, but the model's sum to {total:.3g}, not to 1; if "
        "several may be true together, the task is multilabel (output.multilabel: true for masks)",
    )


def out_of_range(least: float, most: float) -> Finding:
    if least >= -0.2 and most <= 1.2:
        advice = "limit them to [0, 1] inside the model (an interpolation behind the activation goes beyond)"
    elif least >= -SLACK and 1 < most <= 100.5:
        advice = "for percentages divide by 100 inside the model; if these are logits, set output.kind: logits"
    else:
        advice = "if these are logits, set output.kind: logits"
    return Finding(
        "scores.probabilities",
        f"output.kind is probabilities, but the model gives {least:.5g} to {most:.5g}; {advice}",
    )


def _range(scores: Sequence[Floats]) -> tuple[float, float]:
    return min(float(values.min()) for values in scores), max(float(values.max()) for values in scores)


def are_probabilities(scores: NDArray[Any]) -> bool:
    """Whether scores that should be logits are probabilities of things that are mostly absent.

    All are in [0, 1], most near 0, and some much larger. Logits of such things are negative; those of a network with
    random weights may all be small and positive, but then they are much alike.
    """
    some = scores[scores > 0]
    if len(some) < 100 or scores.min() < 0 or scores.max() > 1:
        return False
    usual = np.median(some)
    return bool(usual < 0.05 and some.max() > 10 * usual)
