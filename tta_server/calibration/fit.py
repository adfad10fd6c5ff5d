"""Fits a calibration to the runs of images: at which margin to stop, and what further views are worth. Pure.

It takes no labels: an answer is compared with that of all K views.
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
"""Descending, from the safest, and fixed before any image is run.

From 16 to 1, which only several views reach, in steps of 2 %; from 0.999999 to 0 evenly in -log10(1 - margin), by at
most 0.045, since the margins of confident networks crowd below 1.
"""

EDGES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Between the bins of margins for which flip rates are estimated."""


@dataclass(frozen=True, slots=True)
class Run:
    """One image's merged answer after k = 1..K views: margins (K,), top classes (K,)."""

    margins: Sequence[float]
    labels: Sequence[int]


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """The runs of n images: `margins` (n, K), `labels` (n, K)."""

    margins: NDArray[np.float64]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Runs":
        margins, labels = [run.margins for run in runs], [run.labels for run in runs]
        return cls(np.array(margins, np.float64), np.array(labels, np.int64))

    @property
    def images(self) -> int:
        return len(self.margins)

    @property
    def views(self) -> int:
        return len(self.margins[0])

    @property
    def changed(self) -> NDArray[np.bool_]:
        """(n, K): whether the top class after k views is not that of all K."""
        changed: NDArray[np.bool_] = self.labels != self.labels[:, -1:]
        return changed


@dataclass(frozen=True, slots=True)
class ThresholdOutcome:
    """What stopping at a `threshold` does to the images.

    It changes `disagreements` answers, which bounds the rate of changed answers by `bound`, and runs `mean_views`.
    """

    threshold: float
    disagreements: int
    bound: float
    mean_views: float


def fit_calibration(runs: Runs, epsilons: Sequence[float], *, model: str, policy: str, merge: str) -> Calibration:
    """For each epsilon its threshold, and the flip rates; `model` and `policy` are digests.

    Raises InvalidInput if there are too few images for an epsilon.
    """
    thresholds = []
    for epsilon in sorted(set(epsilons)):
        kept = select_threshold(runs, epsilon)
        thresholds.append(
            Threshold(
                epsilon=epsilon,
                threshold=kept.threshold,
                disagreements=kept.disagreements,
                bound=_six_digits(kept.bound),
                mean_views=_six_digits(kept.mean_views),
            )
        )
    return Calibration(
        model=model,
        policy=policy,
        merge=merge,
        images=runs.images,
        views=runs.views,
        confidence=CONFIDENCE,
        thresholds=tuple(thresholds),
        disagreement=tuple(map(_six_digits, runs.changed.mean(axis=0).tolist())),
        edges=EDGES,
        flips=tuple(tuple(map(_six_digits, row)) for row in flip_rates(runs)),
    )


def select_threshold(runs: Runs, epsilon: float) -> ThresholdOutcome:
    """The lowest threshold whose rate of changed answers is at most `epsilon`, with CONFIDENCE. Raises InvalidInput.

    By fixed-sequence testing (Angelopoulos et al. 2021, Learn then Test): thresholds are tested from the safest up to
    the first that fails, so that their number needs no correction.
    """
    check_image_count(runs.images, epsilon)
    kept = apply_threshold(runs, NEVER)
    for threshold in THRESHOLDS:
        tried = apply_threshold(runs, threshold)
        if tried.bound > epsilon:
            break
        kept = tried
    return kept


def check_image_count(images: int, epsilon: float) -> None:
    """Raises InvalidInput if `epsilon` could not be promised even with no answer changed."""
    if images and upper_bound(0, images) <= epsilon:
        return
    needed = math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-epsilon))
    raise InvalidInput(f"epsilon {epsilon:g} takes at least {needed} images (about 3 / epsilon); there are {images}")


def apply_threshold(runs: Runs, threshold: float) -> ThresholdOutcome:
    """Stops every image where the rule `Confident` would, or at its last view."""
    reached = runs.margins * np.sqrt(np.arange(1, runs.views + 1)) >= threshold
    reached[:, -1] = True
    stops = reached.argmax(axis=1)
    wrong = int(np.count_nonzero(runs.changed[np.arange(runs.images), stops]))
    return ThresholdOutcome(threshold, wrong, upper_bound(wrong, runs.images), float(stops.mean()) + 1)


def mean_started_views(runs: Runs, threshold: float, slots: int) -> float:
    """Mean views that are started where an image has that many idle slots, each of which runs a view at a time.

    When the view that ends it is merged, each other slot has started one more.
    """
    reached = runs.margins * np.sqrt(np.arange(1, runs.views + 1)) >= threshold
    reached[:, -1] = True
    return float(np.minimum(reached.argmax(axis=1) + slots, runs.views).mean())


@cache
def upper_bound(count: int, n: int) -> float:
    """The upper confidence bound, at CONFIDENCE, of a binomial rate of which `count` of `n` were observed.

    One-sided and exact (Clopper and Pearson 1934).
    """
    if count >= n:
        return 1.0
    low, high = count / n, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(count, n, middle) > 1 - CONFIDENCE else (low, middle)
    return high


def binomial_cdf(count: int, n: int, rate: float) -> float:
    """The probability of at most `count` of `n`, for a rate in (0, 1)."""
    return math.fsum(
        math.exp(log_ways + k * math.log(rate) + (n - k) * math.log1p(-rate))
        for k, log_ways in enumerate(_log_coefficients(count, n))
    )


@cache
def _log_coefficients(count: int, n: int) -> tuple[float, ...]:
    """Logarithms of the binomial coefficients (n, k) for k = 0..count."""
    whole = math.lgamma(n + 1)
    return tuple(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(count + 1))


def flip_rates(runs: Runs) -> list[list[float]]:
    """For k = 1..K views and each bin of margins, the probability that the top class is not that of all K.

    Each bin gets one more image at the rate of all bins, and rates never rise with the margin (weighted isotonic
    regression), so that a bin without images takes the rate of its neighbours.
    """
    rows = []
    for margins, changed in zip(runs.margins.T, runs.changed.T, strict=True):
        bins = np.searchsorted(EDGES, margins, side="right")
        images = np.bincount(bins, minlength=len(EDGES) + 1)
        wrong = np.bincount(bins, weights=changed, minlength=len(EDGES) + 1)
        rate = (wrong.sum() + 0.5) / (runs.images + 1)
        rows.append(_non_increasing(wrong + rate, images + 1.0))
    return [*rows[:-1], [0.0] * len(rows[-1])]


def _non_increasing(wrong: Floats, images: Floats) -> list[float]:
    """The rates `wrong / images`, pooled until none is larger than the one before it.

    By the min-max formula of isotonic regression (Robertson, Wright and Dykstra 1988).
    """

    def mean(start: int, end: int) -> float:
        return float(wrong[start : end + 1].sum() / images[start : end + 1].sum())

    bins = range(len(images))
    return [min(max(mean(start, end) for end in bins[b:]) for start in bins[: b + 1]) for b in bins]


def _six_digits(value: float) -> float:
    """Rounded to six significant digits."""
    return float(f"{value:.6g}")
