"""Replays of stop rules and accumulators on logged or random predictions, view by view as in a request."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tta_server.scheduling.stopping import StopRule
from tta_server.views.view import Weight

BOUNDED = ("mean_probabilities", "vote")
SEED = 11


@dataclass
class Progress:
    """What a stop rule reads: the merged views so far, and the views still to come."""

    accumulator: Any
    remaining: Sequence[tuple[Any, Weight]]
    views: int

    def margin(self) -> float:
        return self.accumulator.margin()

    def views_in_order(self) -> int:
        return self.views

    def undecided(self) -> float:
        return self.accumulator.undecided(self.remaining)


@dataclass(frozen=True)
class Stopped:
    """One image: the views until the rule stopped; the top class then, of all views, and of the plain view."""

    views: int
    label: int
    final: int
    plain: int


def replayed(rule: StopRule, merged: Any, views: Sequence[tuple[Any, Weight]]) -> Stopped:
    """Merge views (prediction, weight) one by one into `merged`, an empty accumulator of classes."""
    remaining = [(None, weight) for _, weight in views]
    stop, labels = len(views), []
    for done, (prediction, weight) in enumerate(views, 1):
        merged.add(prediction, weight)
        labels.append(int(merged.result().argmax()))
        if done < stop and rule.decide(Progress(merged, remaining[done:], done)):
            stop = done
    return Stopped(stop, labels[stop - 1], labels[-1], labels[0])


@dataclass(frozen=True)
class Drawn:
    """A simulated image: how its views are merged and weighted, and each view's (prediction, weight)."""

    merge: str
    weighting: str
    classes: int
    views: list[tuple[Any, Weight]]


def simulated(images: int) -> Iterator[Drawn]:
    """Images of 2 to 16 views and 2 to 20 classes, with small to large margins; each way of weighting for a third."""
    source = np.random.default_rng(SEED)
    for number in range(images):
        views, classes = int(source.integers(2, 17)), int(source.integers(2, 21))
        logits = source.normal(0, source.uniform(0.3, 4), classes)
        logits = logits + source.normal(0, source.uniform(0.1, 2), (views, classes))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        vectors = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        weighting = tuple(WEIGHTS)[number % 3]
        weights = WEIGHTS[weighting](source, views, classes)
        merge = BOUNDED[number // 3 % 2]
        yield Drawn(merge, weighting, classes, list(zip(vectors, weights, strict=True)))


def _by_class(source: np.random.Generator, views: int, classes: int) -> list[Weight]:
    """One weight in ten is 0, but never all of a view's."""
    weights = np.exp(source.normal(0, 1, (views, classes))) * (source.random((views, classes)) < 0.9)
    weights[:, 0] = np.maximum(weights[:, 0], 1e-3)
    return [tuple(row) for row in weights.tolist()]


WEIGHTS: dict[str, Callable[[np.random.Generator, int, int], Sequence[Weight]]] = {
    "equal": lambda source, views, classes: [1.0] * views,
    "by view": lambda source, views, classes: np.exp(source.normal(0, 1, views)).tolist(),
    "by class": _by_class,
}
"""Ways to weight views: (source, views, classes) -> a weight for each view."""
