"""Merges of class scores, for vectors (C,) and maps (C, H, W) alike: the class axis comes first."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError, InvalidInput
from tta_server.views import Weight

Floats = NDArray[np.float32]
TINY = np.float32(1e-30)


def log_softmax(z: Floats) -> Floats:
    shifted: Floats = z - z.max(axis=0)
    shifted -= np.log(np.exp(shifted).sum(axis=0))
    return shifted


def softmax(z: Floats) -> Floats:
    p: Floats = z - z.max(axis=0)
    np.exp(p, out=p)
    p /= p.sum(axis=0)
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


def same(values: Floats) -> Floats:
    return values


@dataclass(frozen=True, slots=True)
class Kind:
    """What a model's scores are: how they become probabilities, and how logits."""

    probabilities: Callable[[Floats], Floats]
    logits: Callable[[Floats], Floats]
    log_probabilities: Callable[[Floats], Floats]


def _log(p: Floats) -> Floats:
    return np.log(np.maximum(p, TINY))


KINDS = {
    "logits": Kind(softmax, same, log_softmax),
    "probabilities": Kind(same, _log, _log),
}


def check_kind(kind: Kind, scores: Floats) -> None:
    """Raises ConfigError where a model's probabilities are none: what is merged and bounded would be wrong."""
    if kind is KINDS["probabilities"] and (scores.min() < -SLACK or scores.max() > 1 + SLACK):
        raise ConfigError(
            f"output.kind is probabilities, but the model gives {scores.min():g} to {scores.max():g}; is it logits?"
        )


@dataclass(frozen=True, slots=True)
class Merge:
    """score -> weighted sum (or maximum) over views -> finish. `bounded`: a view adds between 0 and its weight to each
    class, and `finish` keeps the order of the classes."""

    score: Callable[[Kind, Floats], Floats]
    finish: Callable[[Floats], Floats]
    takes_maximum: bool = False
    bounded: bool = False


MERGES: dict[str, Merge] = {
    "mean_probabilities": Merge(lambda kind, z: kind.probabilities(z), same, bounded=True),
    "mean_logits": Merge(lambda kind, z: kind.logits(z), softmax),
    "geometric_mean": Merge(lambda kind, z: kind.log_probabilities(z), softmax),
    "max": Merge(lambda kind, z: kind.probabilities(z), unit_sum, takes_maximum=True),
    "vote": Merge(lambda kind, z: one_hot(z), same, bounded=True),
}


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

    With weights w (one, or one a class) and coverage c (0 or 1 a pixel): sum(w c s) / sum(w c), a class's own weights
    where there are some, and then made to sum to 1. `max` takes the largest w s and makes it sum to 1.
    """

    def __init__(self, merge: Merge, kind: Kind) -> None:
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

    def _weights(self, weight: Weight, dimensions: int) -> NDArray[np.float32]:
        if not isinstance(weight, tuple):
            return np.float32(weight)  # type: ignore[return-value]
        self._by_class = True
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
