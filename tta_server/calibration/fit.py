"""Learns from images seen through all views what further views are worth, and at which margin to stop. Pure.

No labels are needed: an answer is compared with that of all K views.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import InvalidInput
from tta_server.repository.calibration import Calibration, Threshold

CONFIDENCE = 0.95
Floats = NDArray[np.floating]

NEVER = 100.0
"""A threshold that no image reaches."""
THRESHOLDS = (
    NEVER,
    *(round(1.02**step, 8) for step in range(140, -1, -1)),
    *(round(1 - 10 ** (-step / 50), 8) for step in range(300, -1, -1)),
)
"""From the safest to the boldest, fixed before any image is seen. Above 1, where only several views reach, from 16 down
in steps of 2 %; below even in -log10(1 - margin), since the margins of sure networks crowd below 1: from 0.999999 down
to 0, steps of at most 0.045."""

EDGES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Between the bins of margins in which chances are learned."""


@dataclass(frozen=True, slots=True)
class Trail:
    """One image's merged answer after k = 1..K views: margins (K,), top classes (K,)."""

    margins: Sequence[float]
    labels: Sequence[int]


@dataclass(frozen=True, slots=True, eq=False)
class Logs:
    """The trails of n images: `margins` (n, K), `labels` (n, K)."""

    margins: NDArray[np.float64]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, trails: Sequence[Trail]) -> "Logs":
        return cls(np.array([t.margins for t in trails], np.float64), np.array([t.labels for t in trails], np.int64))

    @property
    def images(self) -> int:
        return len(self.margins)

    @property
    def views(self) -> int:
        return len(self.margins[0])

    @property
    def changed(self) -> NDArray[np.bool_]:
        """Where the top class after k views is not that of all K, (n, K)."""
        changed: NDArray[np.bool_] = self.labels != self.labels[:, -1:]
        return changed


@dataclass(frozen=True, slots=True)
class Replay:
    """What stopping at a `threshold` came to: how many answers it changed, the share of all images in which
    it does so at most, how many views it took."""

    threshold: float
    disagreements: int
    bound: float
    mean_views: float


def learned(logs: Logs, epsilons: Sequence[float], *, model: str, policy: str, merge: str) -> Calibration:
    """`model` and `policy` are digests. Raises InvalidInput if the images are too few for an epsilon."""
    thresholds = []
    for epsilon in sorted(set(epsilons)):
        kept = select_threshold(logs, epsilon)
        thresholds.append(
            Threshold(
                epsilon=epsilon,
                threshold=kept.threshold,
                disagreements=kept.disagreements,
                bound=_short(kept.bound),
                mean_views=_short(kept.mean_views),
            )
        )
    return Calibration(
        model=model,
        policy=policy,
        merge=merge,
        images=logs.images,
        views=logs.views,
        confidence=CONFIDENCE,
        thresholds=tuple(thresholds),
        disagreement=tuple(map(_short, logs.changed.mean(axis=0).tolist())),
        edges=EDGES,
        flips=tuple(tuple(map(_short, row)) for row in chances(logs)),
    )


def select_threshold(logs: Logs, epsilon: float) -> Replay:
    """The lowest threshold whose rate of changed answers is at most `epsilon`, with CONFIDENCE. Raises InvalidInput.

    Fixed-sequence testing (Angelopoulos et al. 2021, Learn then Test): thresholds are tested from the safest
    to the boldest up to the first that fails, which needs no correction for their number, however many there are.
    """
    check_enough(logs.images, epsilon)
    kept = replay(logs, NEVER)
    for threshold in THRESHOLDS:
        tried = replay(logs, threshold)
        if tried.bound > epsilon:
            break
        kept = tried
    return kept


def check_enough(images: int, epsilon: float) -> None:
    """Raises InvalidInput where not even images without one changed answer could promise `epsilon`."""
    if images and upper_bound(0, images) <= epsilon:
        return
    needed = math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-epsilon))
    raise InvalidInput(f"epsilon {epsilon:g} takes at least {needed} images (about 3 / epsilon); there are {images}")


def replay(logs: Logs, threshold: float) -> Replay:
    """Every image stopped where the rule `Confident` would, or at the last view."""
    reached = logs.margins * np.sqrt(np.arange(1, logs.views + 1)) >= threshold
    reached[:, -1] = True
    stops = reached.argmax(axis=1)
    wrong = int(np.count_nonzero(logs.changed[np.arange(logs.images), stops]))
    return Replay(threshold, wrong, upper_bound(wrong, logs.images), float(stops.mean()) + 1)


@cache
def upper_bound(found: int, of: int) -> float:
    """The rate that is exceeded with a chance of 1 - CONFIDENCE at most, where `found` of `of` were.

    One-sided and exact (Clopper and Pearson 1934): the rate at which so few are found with just that chance.
    """
    if found >= of:
        return 1.0
    low, high = found / of, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(found, of, middle) > 1 - CONFIDENCE else (low, middle)
    return high


def at_most(found: int, of: int, rate: float) -> float:
    """The chance that a binomial count out of `of` is `found` or less, for a rate in (0, 1)."""
    return math.fsum(
        math.exp(ways + k * math.log(rate) + (of - k) * math.log1p(-rate))
        for k, ways in enumerate(_log_ways(found, of))
    )


@cache
def _log_ways(found: int, of: int) -> tuple[float, ...]:
    """Logarithms of the binomial coefficients (of, k) for k = 0..found."""
    whole = math.lgamma(of + 1)
    return tuple(whole - math.lgamma(k + 1) - math.lgamma(of - k + 1) for k in range(found + 1))


def chances(logs: Logs) -> list[list[float]]:
    """For k = 1..K views and each bin of margins, the chance that the top class is not that of all K.

    A bin counts as if it had seen one image more, at the rate of all bins; and a larger margin never means a larger
    chance (weighted isotonic regression), so that bins without images get what lies around them.
    """
    rows = []
    for margins, changed in zip(logs.margins.T, logs.changed.T, strict=True):
        bins = np.searchsorted(EDGES, margins, side="right")
        seen = np.bincount(bins, minlength=len(EDGES) + 1)
        wrong = np.bincount(bins, weights=changed, minlength=len(EDGES) + 1)
        rate = (wrong.sum() + 0.5) / (logs.images + 1)
        rows.append(_falling(wrong + rate, seen + 1.0))
    return [*rows[:-1], [0.0] * len(rows[-1])]


def _falling(wrong: Floats, seen: Floats) -> list[float]:
    """The rates `wrong / seen`, pooled until none is larger than the one before it.

    By the min-max formula of isotonic regression (Robertson, Wright and Dykstra 1988).
    """

    def mean(start: int, end: int) -> float:
        return float(wrong[start : end + 1].sum() / seen[start : end + 1].sum())

    bins = range(len(seen))
    return [min(max(mean(start, end) for end in bins[b:]) for start in bins[: b + 1]) for b in bins]


def _short(value: float) -> float:
    """To six digits."""
    return float(f"{value:.6g}")
