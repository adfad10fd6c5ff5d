"""Merges that are sums over views: what a graph beside the model computes of its output, and what it gives."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from numpy.typing import NDArray


class Score(StrEnum):
    """What is summed of each view's output, times its weight."""

    VALUES = "values"
    SOFTMAX = "softmax"
    LOG_SOFTMAX = "log_softmax"
    SIGMOID = "sigmoid"
    CLIPPED = "clipped"
    """The score, between 0 and 1."""
    TOP_CLASS = "top_class"
    """1 for the class with the largest score, else 0; ties to the lower class."""
    OVER_THRESHOLD = "over_threshold"
    """1 for labels whose sigmoid reaches the threshold, else 0."""
    UNIT = "unit"
    """The vector, scaled to length 1; zeros stay zeros."""


class Soundness(StrEnum):
    """What a view's output must be, or it is left out of the sums."""

    TOP_FINITE = "top_finite"
    """The largest score is finite: -inf rules a class out."""
    NO_NAN = "no_nan"
    """Neither NaN nor +inf; -inf may rule out all labels."""
    FINITE = "finite"
    """All are, also after `undo`."""
    PEAKS = "peaks"
    """Of heat maps: no NaN, and each one's largest score is finite."""


@dataclass(frozen=True, slots=True)
class SumSpec:
    """How views are summed: `score` of the model's output named `output`, in `dtype`, over views that are sound.

    `threshold` is that of OVER_THRESHOLD; `undo` names what is undone after merging: values, log or log1p. With
    `by_class` a view may have a weight for each class. Outputs are maps where `offset`, that of their grid, is stated:
    they are moved back onto the plain view's grid first.

    With `mirror_order` they are heat maps: it has for each the one in its place in a mirror image. These are scored
    before they are moved, and each row's own peaks are found too.
    """

    output: str
    score: Score
    soundness: Soundness
    dtype: str = "float32"
    threshold: float = 0.5
    undo: str = "values"
    by_class: bool = False
    offset: float | None = None
    mirror_order: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over several views of one image: `total` of weighted scores, (C, ...), and `weights`.

    These are a number for vectors, or (C,) if any view has a weight for each class; for maps (h, w).
    """

    total: NDArray[Any]
    weights: NDArray[Any]
