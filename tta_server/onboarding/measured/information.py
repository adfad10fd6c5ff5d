"""How well a candidate fits images without labels: sure of each, and diverse over all.

The score is the mutual information of image and class, H(mean p) - mean H(p) in nats: wrong colours or a wrong
normalisation make answers less sure, or all alike. It needs images of several classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
DRAWS = 400
"""Times that images are drawn again, with replacement, to see by how much a score depends on them."""
SURE = 0.95
"""Share of the draws in which the best option must be the best."""
SEED = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """Of K candidates: on all images (K,), and on each draw of them (K, DRAWS)."""

    all: Floats
    draws: Floats


@dataclass(frozen=True, slots=True)
class Verdict:
    """Options by falling score, and whether the first is ahead of all others."""

    ranked: Sequence[tuple[str, float]]
    is_settled: bool


def information(probabilities: Sequence[Floats]) -> Scores:
    """Scores of candidates by the probabilities of each, (images, classes)."""
    each = [_information(p) for p in probabilities]
    return Scores(np.array([score for score, _ in each]), np.array([draws for _, draws in each]))


def _information(p: Floats) -> tuple[float, Floats]:
    weights, doubts = drawn_weights(len(p)), _entropy(p)
    return float(_entropy(p.mean(axis=0)) - doubts.mean()), _entropy(weights @ p) - weights @ doubts


def totals(values: Floats) -> Scores:
    """Scores of candidates that are sums over images (K, images)."""
    return Scores(values.sum(axis=1), values @ drawn_weights(values.shape[1]).T * values.shape[1])


def drawn_weights(images: int) -> Floats:
    """The weight of each image in each draw, (DRAWS, images); rows sum to 1."""
    random = np.random.default_rng(SEED)
    return random.multinomial(images, np.full(images, 1 / images), DRAWS) / images


def decide(scores: Scores, groups: Mapping[str, Sequence[int]], ahead: float) -> Verdict:
    """Which option is the best, each by the best of its candidates.

    It must have `ahead` times the score of the next one, and be the best in most draws.
    """
    names = list(groups)
    best = {name: float(scores.all[list(members)].max()) for name, members in groups.items()}
    ranked = sorted(best.items(), key=lambda each: -each[1])
    if len(ranked) == 1:
        return Verdict(ranked, True)
    draws = np.stack([scores.draws[list(groups[name])].max(axis=0) for name in names])
    share = float((draws.argmax(axis=0) == names.index(ranked[0][0])).mean())
    return Verdict(ranked, share >= SURE and ranked[0][1] > max(0.0, ahead * ranked[1][1]))


def _entropy(p: Floats) -> Floats:
    return np.asarray(-(p * np.log(np.clip(p, 1e-12, 1))).sum(axis=-1))
