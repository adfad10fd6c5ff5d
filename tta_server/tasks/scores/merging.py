"""Merges of class scores, for vectors (C,) and maps (C, H, W) alike: the class axis comes first."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError, InvalidInput
from tta_server.tasks.base import FORBID_EXTRA
from tta_server.views.geometry import Size
from tta_server.views.view import Weight

Floats = NDArray[np.float32]
TINY = np.float32(1e-30)


@dataclass(frozen=True, slots=True)
class ScoresOutput:
    """`output:` of a model that scores classes: what its scores are, and the output's name where it has several."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    kind: Literal["logits", "probabilities"]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class LabelsOutput:
    """As `ScoresOutput`, for labels that are each there or not, `threshold` being the least probability of one that
    is."""

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    kind: Literal["logits", "probabilities"]
    name: str | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is a probability between 0 and 1, not {self.threshold:g}")


def log_softmax(z: Floats) -> Floats:
    shifted: Floats = z - z.max(axis=0)
    shifted -= np.log(np.exp(shifted).sum(axis=0))
    return shifted


def softmax(z: Floats) -> Floats:
    p: Floats = z - z.max(axis=0)
    np.exp(p, out=p)
    p /= p.sum(axis=0)
    return p


def sigmoid(z: Floats) -> Floats:
    p: Floats = 0.5 + 0.5 * np.tanh(0.5 * z)
    return p


def one_hot(z: Floats) -> Floats:
    """1 for the largest score of each vector or pixel, ties to the lower class."""
    winners = z.argmax(axis=0)
    won: Floats = (winners == np.arange(len(z)).reshape(-1, *(1,) * winners.ndim)).astype(np.float32)
    return won


def unit_sum(values: Floats) -> Floats:
    shares: Floats = values / np.maximum(values.sum(axis=0), TINY)
    return shares


def is_finite(z: Floats) -> bool:
    """Whether each vector's or pixel's largest score is a number: -inf rules a class out, NaN and +inf spoil all."""
    return bool(np.isfinite(z.max(axis=0)).all())


def are_numbers(z: Floats) -> bool:
    """Of labels that are each there or not: -inf rules one out, or all, NaN and +inf spoil all."""
    return not np.any(np.isnan(z) | (z == np.inf))


def identity(values: Floats) -> Floats:
    return values


@dataclass(frozen=True, slots=True)
class ScoreKind:
    """What a model's scores are: how they become probabilities, and how logits."""

    probabilities: Callable[[Floats], Floats]
    logits: Callable[[Floats], Floats]
    log_probabilities: Callable[[Floats], Floats]


def _log(p: Floats) -> Floats:
    return np.log(np.maximum(p, TINY))


def _logit(p: Floats) -> Floats:
    """Of probabilities, kept EDGE away from 0 and 1."""
    inside = np.clip(p, EDGE, 1 - EDGE)
    z: Floats = np.log(inside) - np.log1p(-inside)
    return z


EDGE = np.float32(1e-6)

CLASS_KINDS = {
    "logits": ScoreKind(softmax, identity, log_softmax),
    "probabilities": ScoreKind(identity, _log, _log),
}
"""Of classes of which one is true."""

LABEL_KINDS = {
    "logits": ScoreKind(sigmoid, identity, lambda z: -np.logaddexp(np.float32(0), -z)),
    "probabilities": ScoreKind(identity, _logit, _log),
}
"""Of labels that are each there or not."""


def check_kind(kind: ScoreKind, scores: Floats) -> None:
    """Raises ConfigError where a model's probabilities are none: what is merged and bounded would be wrong."""
    if kind in (CLASS_KINDS["probabilities"], LABEL_KINDS["probabilities"]) and (
        scores.min() < -SLACK or scores.max() > 1 + SLACK
    ):
        raise ConfigError(
            f"output.kind is probabilities, but the model gives {scores.min():g} to {scores.max():g}; is it logits?"
        )


@dataclass(frozen=True, slots=True)
class Merge:
    """score -> weighted sum (or maximum) over views -> finish. `bounded`: a view adds between 0 and its weight to each
    class, and `finish` keeps the order of the classes. `sums_to_one`: one class is true, so that weights by class are
    evened out."""

    score: Callable[[ScoreKind, Floats], Floats]
    finish: Callable[[Floats], Floats]
    takes_maximum: bool = False
    bounded: bool = False
    sums_to_one: bool = True


MERGES: dict[str, Merge] = {
    "mean_probabilities": Merge(lambda kind, z: kind.probabilities(z), identity, bounded=True),
    "mean_logits": Merge(lambda kind, z: kind.logits(z), softmax),
    "geometric_mean": Merge(lambda kind, z: kind.log_probabilities(z), softmax),
    "max": Merge(lambda kind, z: kind.probabilities(z), unit_sum, takes_maximum=True),
    "vote": Merge(lambda kind, z: one_hot(z), identity, bounded=True),
}


def label_merges(threshold: float) -> Mapping[str, Merge]:
    """Of labels that are each there or not: a vote is for those whose probability reaches the threshold. `max` takes
    the largest w p, at most 1."""

    def votes(kind: ScoreKind, z: Floats) -> Floats:
        return (kind.probabilities(z) >= np.float32(threshold)).astype(np.float32)

    return {
        "mean_probabilities": Merge(lambda kind, z: kind.probabilities(z), identity, bounded=True, sums_to_one=False),
        "mean_logits": Merge(lambda kind, z: kind.logits(z), sigmoid, sums_to_one=False),
        "max": Merge(lambda kind, z: kind.probabilities(z), _at_most_1, takes_maximum=True, sums_to_one=False),
        "vote": Merge(votes, identity, bounded=True, sums_to_one=False),
    }


def _at_most_1(p: Floats) -> Floats:
    return np.minimum(p, np.float32(1))


LABEL_MERGES = tuple(label_merges(0.5))
BOUNDED = tuple(name for name, merge in MERGES.items() if merge.bounded)
SLACK = 1e-5
"""A merged score's lead below this may be rounding."""


def check_bounded(merge: str) -> None:
    """Raises InvalidInput for a merge of which no view's part is bounded: nothing is certain before its last view."""
    if merge not in BOUNDED:
        raise InvalidInput(f"merge {merge} has no bound that could make an answer certain; {' and '.join(BOUNDED)} do")


def _weighted(scores: Floats, w: Floats, out: Floats) -> Floats:
    """w times scores, written to `out`; 0 where w is, even for -inf, a class ruled out where nothing counts."""
    with np.errstate(invalid="ignore"):
        np.multiply(scores, w, out=out)
    np.copyto(out, 0, where=w <= 0)
    return out


class ScoreAccumulator:
    """Merges scores (C, ...) into probabilities of the same shape; keeps sums, never the views.

    With weights w (one, or one a class) and coverage c (0 to 1 a pixel): sum(w c s) / sum(w c), a class's own weights
    where there are some, and then made to sum to 1. `max` takes the largest w s and makes it sum to 1.
    """

    def __init__(self, merge: Merge, kind: ScoreKind) -> None:
        self._merge = merge
        self._kind = kind
        self._total: Floats | None = None
        self._weight: NDArray[np.float32] = np.zeros((), np.float32)
        self._by_class = False

    def add(self, values: Floats, weight: Weight, coverage: Floats | None = None) -> None:
        """One view's raw scores; `coverage` (...) is None where the view saw everything."""
        scores = self._merge.score(self._kind, values)
        w = self._weights(weight, scores.ndim)
        w = w if coverage is None else w * coverage
        if not np.all(w == 1):
            scores = _weighted(scores, w, np.empty_like(scores) if scores is values else scores)
        if self._total is None:
            self._total = np.array(scores, np.float32)
        elif self._merge.takes_maximum:
            np.maximum(self._total, scores, out=self._total)
        else:
            self._total += scores
        self._weight = self._weight + w

    def add_part(
        self, values: Floats, weight: Weight, coverage: Floats | None, corner: tuple[int, int], cells: Size
    ) -> None:
        """As `add`, of a view that saw only the part (C, h, w) of maps of `cells` that starts at `corner` (x, y).
        Coverage between 0 and 1 blends it with others; a maximum takes it whole."""
        scores = self._merge.score(self._kind, values)
        w = self._weights(weight, scores.ndim) * np.ones(scores.shape[1:], np.float32)
        if coverage is not None:
            w = w * (coverage > 0 if self._merge.takes_maximum else coverage)
        scores = _weighted(scores, w, np.empty_like(scores))
        if self._total is None:
            self._total = np.zeros((len(scores), cells.height, cells.width), np.float32)
            self._weight = np.zeros((cells.height, cells.width), np.float32)
        if w.ndim > self._weight.ndim:
            self._weight = np.repeat(self._weight[None], len(w), axis=0)
        here = (..., slice(corner[1], corner[1] + scores.shape[1]), slice(corner[0], corner[0] + scores.shape[2]))
        if self._merge.takes_maximum:
            np.maximum(self._total[here], scores, out=self._total[here])
        else:
            self._total[here] += scores
        self._weight[here] += w

    def _weights(self, weight: Weight, dimensions: int) -> NDArray[np.float32]:
        if not isinstance(weight, tuple):
            return np.float32(weight)  # type: ignore[return-value]
        self._by_class = self._merge.sums_to_one
        return np.array(weight, np.float32).reshape(-1, *(1,) * (dimensions - 1))

    def result(self) -> Floats:
        """Probabilities (C, ...); vote shares for `vote`."""
        if self._total is None:
            raise ValueError("no prediction was added")
        if self._merge.takes_maximum:
            return self._merge.finish(self._total)
        mean = self._merge.finish(np.divide(self._total, np.maximum(self._weight, TINY), dtype=np.float32))
        return unit_sum(mean * (self._weight > 0)) if self._by_class else mean

    def bounds(self, remaining: Floats) -> tuple[Floats, Floats]:
        """The least and the most that each merged score (C, ...) can come to when views of `remaining` weight in all
        (a number, one a class, or a map) have been merged too. For bounded merges."""
        if self._total is None:
            raise ValueError("no prediction was added")
        whole = np.maximum(self._weight + remaining, TINY)
        return self._total / whole, (self._total + remaining) / whole
