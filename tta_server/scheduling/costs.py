"""Estimates in seconds of what work costs: measured at warm-up, corrected by observation. Pure."""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from math import ceil, inf, nan
from typing import NamedTuple

from tta_server.scheduling.recent_mean import RecentMean

MARGIN = 1.3
"""Factor on warm-up's median, which is the estimate until there are MIN_OBSERVATIONS."""
MIN_OBSERVATIONS = 20
"""The fewest observations whose 95th percentile is not just their maximum."""
WINDOW = 64
"""Observations from which the 95th percentile is taken."""
HALF_LIFE_SECONDS = 2.0
"""Without observations an estimate decays towards its warm-up value with this half-life."""
PAUSE_SECONDS = 2 * HALF_LIFE_SECONDS
"""After a pause of this length older observations are discarded, for the load has changed since."""
KNEE_TOLERANCE = 1.1
"""The knee is the smallest batch whose cost per view is within 10 % of the best."""
SURE_SHARE = 0.9
"""Share of the rounds of a measurement in which a larger batch has to be better, lest noise decides."""
MAX_BUCKETS = 512
"""Input sizes without a warm-up measurement whose observations are kept."""
OVERHEAD_PIXELS = 65_536
"""The fixed cost of decoding or finishing an image, in pixels that cost as much (about 0.1 ms)."""


class Bucket(NamedTuple):
    """Views of one bucket share a batch: the model and the size of its input."""

    model: str
    height: int
    width: int

    @property
    def area(self) -> int:
        return self.height * self.width


class CostEstimate:
    """Estimates of one cost: the warm-up value first.

    The upper estimate is then the 95th percentile of recent observations. `least` is the lowest one so far: what the
    work costs on an idle pool, even if warm-up ran on a busy machine.
    """

    __slots__ = ("_high", "_last", "_mean", "_mean_at", "_recent", "_sorted", "_usual", "least", "warm")

    def __init__(self, warm: float) -> None:
        self.warm = self.least = warm * MARGIN
        self._high = self.warm
        self._usual = RecentMean(self.warm)
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._last = 0.0
        self._mean, self._mean_at = self.warm, nan  # at the time that was asked for last

    def observe(self, seconds: float, now: float) -> None:
        """Records that the work took this many seconds."""
        if now - self._last > PAUSE_SECONDS:
            self._high = self.estimate(now)
            self._usual.decay(self.warm, self._left(now))
            self._recent.clear()
            self._sorted.clear()
        if len(self._recent) == WINDOW:
            oldest = self._recent.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._recent.append(seconds)
        insort(self._sorted, seconds)
        self._usual.observe(seconds, now)
        self._last, self._mean_at = now, nan
        if len(self._sorted) >= MIN_OBSERVATIONS:
            self._high = self._sorted[ceil(0.95 * len(self._sorted)) - 1]
            self.least = min(self.least, self._high)

    def estimate(self, now: float) -> float:
        """Seconds that the work exceeds once in twenty times; at `now` = infinity the lowest estimate so far."""
        if now == inf:
            return self.least
        if self._high == self.warm:
            return self.warm
        return self.warm + (self._high - self.warm) * self._left(now)

    def mean(self, now: float) -> float:
        """Seconds that the work takes on average, outside stalls; at `now` = infinity the lowest upper estimate."""
        if now == inf:
            return self.least
        if now != self._mean_at:
            mean = self._usual.mean
            self._mean = mean if mean == self.warm else self.warm + (mean - self.warm) * self._left(now)
            self._mean_at = now
        return self._mean

    def deviation(self, now: float) -> float:
        """The standard deviation of the work around its mean; 0 before there are observations."""
        return self._usual.deviation * self._left(now) if self._usual.deviation else 0.0

    def _left(self, now: float) -> float:
        """The share of what was observed that still counts."""
        left: float = 0.5 ** (max(0.0, now - self._last) / HALF_LIFE_SECONDS)
        return left


class CostModel:
    """Seconds for a batch of n views of a bucket, and for decoding and finishing an image."""

    def __init__(self) -> None:
        self._batches: dict[Bucket, dict[int, CostEstimate]] = {}
        self._observed: OrderedDict[Bucket, dict[int, CostEstimate]] = OrderedDict()  # sizes without warm-up
        self._knees: dict[Bucket, int] = {}
        self._rungs: dict[Bucket, list[int]] = {}
        self._stages: dict[tuple[str, str], CostEstimate] = {}

    def warm(self, bucket: Bucket, medians: Mapping[int, float], knee: int = 0) -> None:
        """Sets a bucket's estimates from warm-up: median seconds by batch size, with all slots busy.

        The knee is that of the medians if none is given.
        """
        self._batches[bucket] = {n: CostEstimate(s) for n, s in sorted(medians.items())}
        self._rungs[bucket] = sorted(medians)
        best = min(seconds / n for n, seconds in medians.items())
        self._knees[bucket] = knee or min(n for n, seconds in medians.items() if seconds / n <= best * KNEE_TOLERANCE)

    def warm_stage(self, stage: str, model: str, pixels: int, seconds: float) -> None:
        """Sets the estimate of `decode` or `finish` from warm-up: seconds for an image of that many pixels."""
        self._stages[stage, model] = CostEstimate(seconds / (pixels + OVERHEAD_PIXELS))

    def replace_model(self, model: str, other: "CostModel") -> None:
        """Replaces all estimates of a model by those of `other`, which has no other model's."""
        for table in (self._batches, self._observed, self._knees, self._rungs):
            for bucket in [bucket for bucket in table if bucket.model == model]:
                del table[bucket]
        for key in [key for key in self._stages if key[1] == model]:
            del self._stages[key]
        self._batches |= other._batches
        self._knees |= other._knees
        self._rungs |= other._rungs
        self._stages |= other._stages

    def observe(self, bucket: Bucket, n: int, seconds: float, now: float) -> None:
        """Records that a batch of n views took this many seconds."""
        estimates = self._estimates(bucket)
        if estimates is None:
            if len(self._observed) >= MAX_BUCKETS:
                self._observed.popitem(last=False)
            near = self._nearest(bucket)
            warm = self._batches[near][1].warm * bucket.area / near.area
            estimates = self._observed[bucket] = {1: CostEstimate(warm / MARGIN)}
        if n in estimates:
            estimates[n].observe(seconds, now)

    def observe_rung(self, bucket: Bucket, rung: int, seconds: float, now: float) -> None:
        """Records that a batch that was padded to `rung` views took this many seconds."""
        if self._estimates(bucket) is None:
            near = self._nearest(bucket)
            share = bucket.area / near.area / MARGIN
            if len(self._observed) >= MAX_BUCKETS:
                self._observed.popitem(last=False)
            known = self._batches[near].items()
            self._observed[bucket] = {n: CostEstimate(estimate.warm * share) for n, estimate in known}
        self.observe(bucket, rung, seconds, now)

    def observe_stage(self, stage: str, model: str, pixels: int, seconds: float, now: float) -> None:
        """Records that a stage of an image of that many pixels took this many seconds."""
        if (stage, model) not in self._stages:
            self._stages[stage, model] = CostEstimate(self._base(stage, model).warm / MARGIN)
        self._stages[stage, model].observe(seconds / (pixels + OVERHEAD_PIXELS), now)

    def seconds(self, bucket: Bucket, n: int, now: float) -> float:
        """Upper estimate for a batch of n views. A bucket without observations is priced by its area."""
        estimates = self._estimates(bucket)
        if estimates is not None:
            if n in estimates:
                return estimates[n].estimate(now)
            return _interpolated(estimates, n, lambda estimate: estimate.estimate(now))
        near = self._nearest(bucket)
        return self.seconds(near, n, now) * bucket.area / near.area

    def mean_seconds(self, bucket: Bucket, n: int, now: float) -> float:
        """The mean instead of an upper estimate: for sums."""
        estimates = self._estimates(bucket)
        if estimates is not None:
            if n in estimates:
                return estimates[n].mean(now)
            return _interpolated(estimates, n, lambda estimate: estimate.mean(now))
        near = self._nearest(bucket)
        return self.mean_seconds(near, n, now) * bucket.area / near.area

    def variance(self, bucket: Bucket, n: int, now: float) -> float:
        """The variance of a batch of n views, in seconds squared."""
        estimates = self._estimates(bucket)
        if estimates is not None:
            if n in estimates:
                return estimates[n].deviation(now) ** 2
            return _interpolated(estimates, n, lambda estimate: estimate.deviation(now)) ** 2
        near = self._nearest(bucket)
        return self.variance(near, n, now) * (bucket.area / near.area) ** 2

    def stage_seconds(self, stage: str, model: str, pixels: int, now: float) -> float:
        """Upper estimate in seconds for `decode` or `finish` of an image of that many pixels.

        `finish+...`, an answer with more in it, costs like `finish` until it has been observed.
        """
        return self._stage(stage, model).estimate(now) * (pixels + OVERHEAD_PIXELS)

    def mean_stage_seconds(self, stage: str, model: str, pixels: int, now: float) -> float:
        """The mean instead of an upper estimate: for sums."""
        return self._stage(stage, model).mean(now) * (pixels + OVERHEAD_PIXELS)

    def stage_variance(self, stage: str, model: str, pixels: int, now: float) -> float:
        """The variance of a stage, in seconds squared."""
        deviation = self._stage(stage, model).deviation(now) * (pixels + OVERHEAD_PIXELS)
        return deviation * deviation

    def _stage(self, stage: str, model: str) -> CostEstimate:
        return self._stages.get((stage, model)) or self._base(stage, model)

    def _base(self, stage: str, model: str) -> CostEstimate:
        return self._stages[stage.partition("+")[0], model]

    def knee(self, bucket: Bucket) -> int:
        """The smallest batch size whose measured cost per view is within 10 % of the best."""
        knee = self._knees.get(bucket)
        return self._knees[self._nearest(bucket)] if knee is None else knee

    def no_slower(self, bucket: Bucket) -> int:
        """The largest batch size that warm-up measured in which a view cost no more than alone."""
        known = self._batches.get(bucket) or self._batches[self._nearest(bucket)]
        return max(n for n, estimate in known.items() if estimate.warm / n <= known[1].warm)

    def rungs(self, bucket: Bucket) -> list[int]:
        """The batch sizes that warm-up measured, ascending: a device pads batches to them."""
        return self._rungs.get(bucket) or self._rungs[self._nearest(bucket)]

    def rung(self, bucket: Bucket, n: int) -> int:
        """The smallest measured batch size that holds n views; the largest if none does."""
        rungs = self.rungs(bucket)
        return rungs[0] if n <= rungs[0] else rungs[min(bisect_left(rungs, n), len(rungs) - 1)]

    def warmed(self, bucket: Bucket, n: int) -> float:
        """The estimate for a measured batch size before any observation.

        Sizes are compared by this: the estimates of those that run fall, those of others keep their margin.
        """
        known = self._batches.get(bucket) or self._batches[self._nearest(bucket)]
        return known[n].warm

    def limit_batches(self, model: str, largest: int) -> None:
        """Takes batch sizes over `largest` off a model's rungs, for its device has no memory for them."""
        for bucket, rungs in self._rungs.items():
            if bucket.model == model:
                self._rungs[bucket] = [n for n in rungs if n <= largest] or rungs[:1]
                self._knees[bucket] = min(self._knees[bucket], self._rungs[bucket][-1])

    def _estimates(self, bucket: Bucket) -> dict[int, CostEstimate] | None:
        return self._batches.get(bucket) or self._observed.get(bucket)

    def _nearest(self, bucket: Bucket) -> Bucket:
        return min(
            (b for b in self._batches if b.model == bucket.model),
            key=lambda b: abs(b.area - bucket.area),
        )


def _interpolated(estimates: Mapping[int, CostEstimate], n: int, price: Callable[[CostEstimate], float]) -> float:
    """Linear between measured batch sizes; beyond the largest, by its cost per view."""
    below = max(k for k in estimates if k < n)
    low = price(estimates[below])
    above = min((k for k in estimates if k > n), default=None)
    if above is None:
        return low * n / below
    return low + (price(estimates[above]) - low) * (n - below) / (above - below)


def sure_knee(rounds: Sequence[Mapping[int, float]]) -> int:
    """The knee of batch sizes, from the seconds of each in rounds that measured all: the smallest unless noise is less.

    A size is better than a smaller one if a view costs over 10 % less in SURE_SHARE of the rounds. So a model whose
    views cost nearly the same in any batch has the same knee at each start.
    """

    def is_better(size: int, than: int) -> bool:
        wins = sum(seconds[size] / size * KNEE_TOLERANCE < seconds[than] / than for seconds in rounds)
        return wins >= SURE_SHARE * len(rounds)

    sizes = list(rounds[0])
    return next(n for n in sizes if not any(is_better(larger, n) for larger in sizes if larger > n))
