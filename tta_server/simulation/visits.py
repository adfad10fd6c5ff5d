"""Who comes to a simulated pool, what becomes of them, and what their work really costs. Pure; times are in seconds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from tta_server.calibration.fit import Run
from tta_server.errors import TTAError
from tta_server.scheduling.costs import MARGIN, Bucket, CostModel
from tta_server.scheduling.jobs import Job, Merged, Priority
from tta_server.scheduling.stopping import StopReason, StopRule


@dataclass(frozen=True, slots=True)
class Noise:
    """What a true duration is multiplied by: lognormal with median 1, and `factor` more in a `share` of all runs."""

    sigma: float = 0.0
    share: float = 0.0
    factor: float = 1.0

    def draw(self, random: Random) -> float:
        drawn = random.lognormvariate(0.0, self.sigma) if self.sigma else 1.0
        return drawn * self.factor if self.share and random.random() < self.share else drawn


@dataclass(frozen=True, slots=True)
class Cost:
    """What one model takes, as medians in seconds: a batch of n views of a bucket, decoding and answering an image.

    `buckets` has one entry a view; the last stands for all views beyond. `patience` is the model's default budget.
    """

    curves: Mapping[Bucket, Mapping[int, float]]
    buckets: tuple[Bucket, ...]
    decode: float
    finish: float
    pixels: int
    patience: float = math.inf
    noise: Noise = Noise()

    def of_views(self, views: int) -> tuple[Bucket, ...]:
        return (self.buckets + self.buckets[-1:] * views)[:views]

    def whole(self, views: int) -> float:
        """Seconds of one slot for a request with all its views, in batches as cheap as they get."""
        return self.decode + self.finish + sum(self._cheapest(bucket) for bucket in self.of_views(views))

    def _cheapest(self, bucket: Bucket) -> float:
        return min(seconds / n for n, seconds in self.curves[bucket].items())


@dataclass(frozen=True, slots=True)
class Overhead:
    """What lies between clients and slots, in seconds.

    `core` is the time of a core that a request takes there, half of it before it is admitted and half for its answer;
    it comes before the slots' work. `wait` is the median of how long an answer waits besides, on nobody's core.
    """

    core: float = 0.0
    wait: float = 0.0
    noise: Noise = Noise()

    def waits(self, random: Random) -> float:
        return self.wait * self.noise.draw(random) if self.wait else 0.0


def warmed(costs: Mapping[str, Cost], margin: float = MARGIN) -> CostModel:
    """As warm-up leaves it: estimates are the medians times `margin`."""
    model, scale = CostModel(), margin / MARGIN
    for name, cost in costs.items():
        for bucket, curve in cost.curves.items():
            model.warm(bucket, {n: seconds * scale for n, seconds in curve.items()})
        model.warm_stage("decode", name, cost.pixels, cost.decode * scale)
        model.warm_stage("finish", name, cost.pixels, cost.finish * scale)
    return model


@dataclass(frozen=True, slots=True)
class Ask:
    """What many requests have in common, `budget` in seconds. `worth` takes a margin and the number of views done; each
    request's image shows what one of `images` says."""

    model: str
    budget: float
    views: int
    mandatory: int
    priority: Priority
    rule: StopRule
    worth: Callable[[float, int], float]
    images: Sequence[Run]


@dataclass(frozen=True, slots=True)
class Request:
    """One image that arrives `at`; its client hangs up `leaves` seconds later. `stream` is its place in the traffic."""

    at: float
    stream: int
    ask: Ask
    image: Run
    leaves: float = math.inf


@dataclass(eq=False, slots=True)
class SimulatedJob:
    """A request and what became of it: `outcome` once its answer is being made or it is refused, `made_at` when its
    answer is made, `latency` from its arrival on once its client has that. `highest` is the last view merged, from 1.
    """

    request: Request
    job: "Job[SimulatedJob] | None" = None
    merged: int = 0
    highest: int = 0
    made_at: float = math.nan
    outcome: StopReason | TTAError | None = None
    latency: float = math.nan

    def margin(self) -> float:
        return self.request.image.margins[self.merged - 1]

    def views_in_order(self) -> int:
        return self.merged if self.merged == self.highest else 0

    def undecided(self) -> float:
        """0 or 1: whether views of equal weight that are still to come could make up for the lead."""
        left = self.request.ask.views - self.merged
        return 0.0 if self.margin() * self.merged > left else 1.0

    def standard_error(self) -> float:
        """Infinite: trails are of classes, not of values."""
        return math.inf

    @property
    def agrees(self) -> bool:
        """Whether its top class is that of all the views that it asked for."""
        labels = self.request.image.labels
        return labels[self.merged - 1] == labels[self.request.ask.views - 1]

    def merge(self, view: int) -> Merged:
        """One more view, unless its answer is being made."""
        ask = self.request.ask
        if self.outcome is not None:
            return Merged()
        self.merged += 1
        self.highest = max(self.highest, view + 1)
        if self.merged == ask.views:
            return Merged()
        return Merged(ask.worth(self.margin(), self.merged), ask.rule.decide(self))
