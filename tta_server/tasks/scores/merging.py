"""Merges of class scores, for vectors (C,) and maps (C, H, W) alike: the class axis comes first."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import InvalidInput
from tta_server.tasks.scores.kinds import TINY, Floats, ScoreKind, identity, one_hot, sigmoid, softmax, unit_sum
from tta_server.views.geometry import Size
from tta_server.views.view import Weight


@dataclass(frozen=True, slots=True)
class Merge:
    """`score` of each view, weighted sum (or maximum) over views, then `finish`.

    `bounded`: a view adds between 0 and its weight to each class, and `finish` keeps the order of the classes.
    `sums_to_one`: one class is true, so scores merged with weights by class are made to sum to 1.
    """

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
    """Merges of labels that may be present together.

    A view votes for labels whose probability reaches the threshold; `max` takes the largest w p, at most 1.
    """

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


def check_bounded(merge: str) -> None:
    """Raises InvalidInput for a merge without bound: nothing is certain before its last view."""
    if merge not in BOUNDED:
        raise InvalidInput(
            f"merge {merge} has no bound that could make an answer certain; {' and '.join(BOUNDED)} have one"
        )


def _weighted(scores: Floats, w: Floats, out: Floats) -> Floats:
    """Writes w times scores to `out`; 0 where w is 0, even for a score of -inf."""
    with np.errstate(invalid="ignore"):
        np.multiply(scores, w, out=out)
    np.copyto(out, 0, where=w <= 0)
    return out


class ScoreAccumulator:
    """Merges scores s (C, ...) into probabilities of the same shape; keeps sums, never the views.

    With weights w (one, or one a class) and coverage c (0 to 1 a pixel) the merge is sum(w c s) / sum(w c), made to sum
    to 1 after weights by class. `max` takes the largest w s and makes it sum to 1.
    """

    def __init__(self, merge: Merge, kind: ScoreKind) -> None:
        self._merge = merge
        self._kind = kind
        self._total: Floats | None = None
        self._weight: NDArray[np.float32] = np.zeros((), np.float32)
        self._by_class = False

    def add(self, values: NDArray[Any], weight: Weight, coverage: Floats | None = None) -> None:
        """Adds one view's raw scores; `coverage` (...) is None where the view shows everything."""
        scores = self._merge.score(self._kind, values)
        w = self._weights(weight, scores.ndim)
        w = w if coverage is None else w * coverage
        if weight != 1 or coverage is not None:
            scores = _weighted(scores, w, np.empty_like(scores) if scores is values else scores)
        if self._total is None:
            self._total = np.array(scores, np.float32)
        elif self._merge.takes_maximum:
            np.maximum(self._total, scores, out=self._total)
        else:
            self._total += scores
        self._weight = self._weight + w

    def add_sums(self, total: Floats, weights: Floats) -> None:
        """Adds several views: sums (C, ...) of their weighted scores, and of their weights as (), (C,) or (...).

        Weights of as many axes as the scores are by class. Not for a merge that takes the maximum.
        """
        self._by_class |= self._merge.sums_to_one and weights.ndim == total.ndim
        self._total = np.array(total, np.float32) if self._total is None else self._total + total
        self._weight = self._weight + np.asarray(weights, np.float32)

    def add_part(
        self, values: NDArray[Any], weight: Weight, coverage: Floats | None, corner: tuple[int, int], cells: Size
    ) -> None:
        """As `add`, for a view that shows only the part (C, h, w) of maps of `cells` that starts at `corner` (x, y).

        Coverage between 0 and 1 blends it with others; a maximum takes covered cells whole.
        """
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
        """Bounds (least, most) of each merged score (C, ...) after the remaining views; for bounded merges.

        `remaining` is their total weight: a number, one a class, or a map.
        """
        if self._total is None:
            raise ValueError("no prediction was added")
        whole = np.maximum(self._weight + remaining, TINY)
        return self._total / whole, (self._total + remaining) / whole
