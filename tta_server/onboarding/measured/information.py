"""How well a candidate fits images without labels: sure of each, and diverse over all.

The score is the mutual information of image and class, H(mean p) - mean H(p) in nats: wrong colours or a wrong
normalisation make answers less sure, or all alike. On images of few of the model's classes it misleads: there wrong
answers are more diverse than right ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
DRAWS = 400
"""Times that images are drawn again, with replacement, to see by how much a score depends on them."""
SURE = 0.99
"""Share of the draws in which the best option must be the best. With 0.95, 2 of 347 were wrong, on 32 images."""
NEAR = 0.5
"""Share of the best score from which an option's doubt counts."""
SEED = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """Of K candidates: on all images (K,), and on each draw of them (K, DRAWS).

    `doubts` (K,) is mean H(p), `classes` (K,) the effective number of classes of all answers, exp H(mean p).
    """

    all: Floats
    draws: Floats
    doubts: Floats
    classes: Floats


@dataclass(frozen=True, slots=True)
class Verdict:
    """Options by falling score, and whether the first is ahead of all others."""

    ranked: Sequence[tuple[str, float]]
    is_settled: bool


def information(probabilities: Sequence[Floats]) -> Scores:
    """Scores of candidates by the probabilities of each, (images, classes)."""
    doubts = [_entropy(p) for p in probabilities]
    diversity = np.array([_entropy(p.mean(axis=0)) for p in probabilities])
    means = np.array([each.mean() for each in doubts])
    draws = [_drawn(p, each) for p, each in zip(probabilities, doubts, strict=True)]
    return Scores(diversity - means, np.array(draws), means, np.exp(diversity))


def _drawn(p: Floats, doubts: Floats) -> Floats:
    weights = drawn_weights(len(p))
    return np.asarray(_entropy(weights @ p) - weights @ doubts)


def totals(values: Floats) -> Scores:
    """Scores of candidates that are sums over images (K, images)."""
    draws = values @ drawn_weights(values.shape[1]).T * values.shape[1]
    return Scores(values.sum(axis=1), draws, np.zeros(len(values)), np.zeros(len(values)))


def drawn_weights(images: int) -> Floats:
    """The weight of each image in each draw, (DRAWS, images); rows sum to 1."""
    random = np.random.default_rng(SEED)
    return random.multinomial(images, np.full(images, 1 / images), DRAWS) / images


def decide(scores: Scores, groups: Mapping[str, Sequence[int]], ahead: float) -> Verdict:
    """Which option is the best, each by the best of its candidates.

    It must have `ahead` times the score of the next one, be the best in most draws, and no more doubt than any that is
    near: else its answers are diverse because they are wrong.
    """
    names = list(groups)
    best = {name: max(members, key=lambda index: scores.all[index]) for name, members in groups.items()}
    ranked = sorted(((name, float(scores.all[index])) for name, index in best.items()), key=lambda each: -each[1])
    if len(ranked) == 1:
        return Verdict(ranked, True)
    first, most = ranked[0]
    draws = np.stack([scores.draws[list(groups[name])].max(axis=0) for name in names])
    share = float((draws.argmax(axis=0) == names.index(first)).mean())
    surer = [
        name
        for name, score in ranked
        if score >= NEAR * most and scores.doubts[best[name]] < scores.doubts[best[first]]
    ]
    return Verdict(ranked, share >= SURE and most > max(0.0, ahead * ranked[1][1]) and not surer)


def _entropy(p: Floats) -> Floats:
    return np.asarray(-(p * np.log(np.clip(p, 1e-12, 1))).sum(axis=-1))
