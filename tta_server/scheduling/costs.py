"""What work costs: measured at warm-up, corrected by observation, always an upper estimate in seconds.

Pure: time is an argument.
"""

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Mapping
from math import ceil, inf
from typing import NamedTuple

MARGIN = 1.3
"""Warm-up's median times this stands until there are MIN_OBSERVATIONS observations."""
MIN_OBSERVATIONS = 20
WINDOW = 64
"""Observations from which the 95th percentile is taken."""
HALF_LIFE_SECONDS = 2.0
"""Seconds without an observation in which an estimate goes half the way back to its warm-up value."""
PAUSE_SECONDS = 2 * HALF_LIFE_SECONDS
"""After so long without an observation the ones before say nothing any more."""
KNEE_TOLERANCE = 1.1
"""The knee is the smallest batch whose cost per view is within 10 % of the best."""
MAX_BUCKETS = 512
OVERHEAD_PIXELS = 65_536
"""Decoding and finishing cost as much for an image of no pixels as for this many more pixels (about 0.1 ms)."""


class Bucket(NamedTuple):
    """Views of one bucket share a batch: the model and the size of its input."""

    model: str
    height: int
    width: int

    @property
    def area(self) -> int:
        return self.height * self.width


class CostEstimate:
    """One cost: the warm-up value, then the 95th percentile of what was seen lately.

    `least` is the lowest of these so far: what an idle pool may hope for, whatever kept the machine busy at warm-up.
    """

    __slots__ = ("_high", "_last", "_recent", "_sorted", "least", "warm")

    def __init__(self, warm: float) -> None:
        self.warm = self.least = warm * MARGIN
        self._high = self.warm
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._last = 0.0

    def observe(self, seconds: float, now: float) -> None:
        if now - self._last > PAUSE_SECONDS:
            self._high = self.estimate(now)
            self._recent.clear()
            self._sorted.clear()
        if len(self._recent) == WINDOW:
            oldest = self._recent.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._recent.append(seconds)
        insort(self._sorted, seconds)
        self._last = now
        if len(self._sorted) >= MIN_OBSERVATIONS:
            self._high = self._sorted[ceil(0.95 * len(self._sorted)) - 1]
            self.least = min(self.least, self._high)

    def estimate(self, now: float) -> float:
        """At `now` = infinity the least."""
        if now == inf:
            return self.least
        if self._high == self.warm:
            return self.warm
        left: float = 0.5 ** (max(0.0, now - self._last) / HALF_LIFE_SECONDS)
        return self.warm + (self._high - self.warm) * left


class CostModel:
    """Seconds for a batch of n views of a bucket, and for decoding and finishing an image."""

    def __init__(self) -> None:
        self._batches: dict[Bucket, dict[int, CostEstimate]] = {}
        self._observed: OrderedDict[Bucket, dict[int, CostEstimate]] = OrderedDict()  # free sizes, bounded
        self._knees: dict[Bucket, int] = {}
        self._stages: dict[tuple[str, str], CostEstimate] = {}

    def warm(self, bucket: Bucket, medians: Mapping[int, float]) -> None:
        """What warm-up measured: batch size -> median seconds, all slots busy."""
        self._batches[bucket] = {n: CostEstimate(s) for n, s in sorted(medians.items())}
        best = min(seconds / n for n, seconds in medians.items())
        self._knees[bucket] = min(n for n, seconds in medians.items() if seconds / n <= best * KNEE_TOLERANCE)

    def warm_stage(self, stage: str, model: str, pixels: int, seconds: float) -> None:
        self._stages[stage, model] = CostEstimate(seconds / (pixels + OVERHEAD_PIXELS))

    def replace_model(self, model: str, other: "CostModel") -> None:
        """Forgets a model, and takes what `other`, which knows no others, knows of it."""
        for table in (self._batches, self._observed, self._knees):
            for bucket in [bucket for bucket in table if bucket.model == model]:
                del table[bucket]
        for key in [key for key in self._stages if key[1] == model]:
            del self._stages[key]
        self._batches |= other._batches
        self._knees |= other._knees
        self._stages |= other._stages

    def observe(self, bucket: Bucket, n: int, seconds: float, now: float) -> None:
        tracks = self._tracks(bucket)
        if tracks is None:
            if len(self._observed) >= MAX_BUCKETS:
                self._observed.popitem(last=False)
            near = self._nearest(bucket)
            warm = self._batches[near][1].warm * bucket.area / near.area
            tracks = self._observed[bucket] = {1: CostEstimate(warm / MARGIN)}
        if n in tracks:
            tracks[n].observe(seconds, now)

    def observe_stage(self, stage: str, model: str, pixels: int, seconds: float, now: float) -> None:
        if (stage, model) not in self._stages:
            self._stages[stage, model] = CostEstimate(self._base(stage, model).warm / MARGIN)
        self._stages[stage, model].observe(seconds / (pixels + OVERHEAD_PIXELS), now)

    def seconds(self, bucket: Bucket, n: int, now: float) -> float:
        """Upper estimate for a batch of n views. A bucket not met yet costs by its area."""
        tracks = self._tracks(bucket)
        if tracks is not None:
            return tracks[n].estimate(now) if n in tracks else _interpolated(tracks, n, now)
        near = self._nearest(bucket)
        return self.seconds(near, n, now) * bucket.area / near.area

    def stage_seconds(self, stage: str, model: str, pixels: int, now: float) -> float:
        """Upper estimate for `decode` or `finish` of an image of that many pixels. `finish+...`, an answer with more in
        it, costs like `finish` until it has been met."""
        track = self._stages.get((stage, model)) or self._base(stage, model)
        return track.estimate(now) * (pixels + OVERHEAD_PIXELS)

    def _base(self, stage: str, model: str) -> CostEstimate:
        return self._stages[stage.partition("+")[0], model]

    def knee(self, bucket: Bucket) -> int:
        """The smallest batch whose measured cost per view is within 10 % of the best."""
        knee = self._knees.get(bucket)
        return self._knees[self._nearest(bucket)] if knee is None else knee

    def _tracks(self, bucket: Bucket) -> dict[int, CostEstimate] | None:
        return self._batches.get(bucket) or self._observed.get(bucket)

    def _nearest(self, bucket: Bucket) -> Bucket:
        return min(
            (b for b in self._batches if b.model == bucket.model),
            key=lambda b: abs(b.area - bucket.area),
        )


def _interpolated(tracks: Mapping[int, CostEstimate], n: int, now: float) -> float:
    """Between measured batch sizes linear; beyond the largest, its cost per view."""
    below = max(k for k in tracks if k < n)
    low = tracks[below].estimate(now)
    above = min((k for k in tracks if k > n), default=None)
    if above is None:
        return low * n / below
    return low + (tracks[above].estimate(now) - low) * (n - below) / (above - below)
