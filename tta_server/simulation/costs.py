"""What work costs in a simulation. Pure; times are in seconds."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from tta_server.errors import Overloaded
from tta_server.scheduling.costs import MARGIN, Bucket, CostModel
from tta_server.scheduling.devices.ladder import on_ladder
from tta_server.serving.deadline import largest_work


@dataclass(frozen=True, slots=True)
class Noise:
    """A factor on durations: lognormal with median 1, times `factor` in a `share` of all runs."""

    sigma: float = 0.0
    share: float = 0.0
    factor: float = 1.0

    def draw(self, random: Random) -> float:
        drawn = random.lognormvariate(0.0, self.sigma) if self.sigma else 1.0
        return drawn * self.factor if self.share and random.random() < self.share else drawn


class RecordedNoise:
    """Factors on durations as they were recorded, over and over, so that slow spells and stalls stay together."""

    def __init__(self, factors: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        """`factors` has, by step (`decode`, `view`, `finish`), when each started and its factor, in order of time."""
        self._times = {step: [seconds for seconds, _ in rows] for step, rows in factors.items()}
        self._factors = {step: [factor for _, factor in rows] for step, rows in factors.items()}
        self._start = min(times[0] for times in self._times.values())
        self._length = max(times[-1] for times in self._times.values()) - self._start

    def factor(self, step: str, now: float) -> float:
        """Of the last recorded step of this kind that had started by `now`; 1 if none was recorded."""
        if step not in self._times:
            return 1.0
        at = self._start + (now % self._length if self._length else 0.0)
        return self._factors[step][max(0, bisect_right(self._times[step], at) - 1)]


@dataclass(frozen=True, slots=True)
class ModelCost:
    """Medians of one model: a batch of n views of a bucket, decoding and answering an image of `pixels`.

    `buckets` has one entry a view; the last stands for all further views. `default_budget` is the model's own.
    True durations vary by `noise`, or as `recorded`.
    """

    curves: Mapping[Bucket, Mapping[int, float]]
    buckets: tuple[Bucket, ...]
    decode: float
    finish: float
    pixels: int
    default_budget: float = math.inf
    noise: Noise = Noise()
    recorded: RecordedNoise | None = None

    def view_buckets(self, views: int) -> tuple[Bucket, ...]:
        return (self.buckets + self.buckets[-1:] * views)[:views]

    @property
    def chore_seconds(self) -> float:
        """Of decoding and answering."""
        return self.decode + self.finish

    def view_seconds(self, views: int) -> float:
        """Of one slot, for these views in the cheapest batches."""
        return sum(map(self._cheapest_view, self.view_buckets(views)))

    def _cheapest_view(self, bucket: Bucket) -> float:
        return min(seconds / n for n, seconds in self.curves[bucket].items())


REFUSAL_SHARE = 0.15
"""Of a request's core time in the front end, if that refuses it by its head.

Making and logging a refusal took 65 us of a busy core; a request is estimated to take about 0.4 ms.
"""


@dataclass(frozen=True, slots=True)
class Overhead:
    """What the front end (HTTP, parsing, clients on the same machine) adds to a request.

    `core` is time of a core, half of it before admission and half for the answer; it takes precedence over the slots.
    `wait` is the median of an answer's further delay, which takes no core. With `bounded`, requests are refused at once
    while the front end is too far behind for their budgets.
    """

    core: float = 0.0
    wait: float = 0.0
    noise: Noise = Noise()
    bounded: bool = True

    def refusal(self, work: float, budget: float) -> Overloaded | None:
        """Why a request is refused by its head, while the front end has `work` seconds to do."""
        if self.bounded and work > largest_work(budget):
            return Overloaded("the front end is busy", work, "api")
        return None

    def start(self, arrival: float, now: float) -> float:
        """From when the budget of a request counts that is admitted now: its wait for the front end is charged."""
        return arrival + self.core / 2 if self.bounded else now

    def draw_wait(self, random: Random) -> float:
        return self.wait * self.noise.draw(random) if self.wait else 0.0


def on_device(costs: Mapping[str, ModelCost]) -> dict[str, ModelCost]:
    """The same costs at the sizes of batches that a device runs."""
    return {
        name: replace(cost, curves={bucket: on_ladder(curve) for bucket, curve in cost.curves.items()})
        for name, cost in costs.items()
    }


def warmed_up(costs: Mapping[str, ModelCost], margin: float = MARGIN) -> CostModel:
    """A cost model as warm-up leaves it: its estimates are the medians times `margin`."""
    model, scale = CostModel(), margin / MARGIN
    for name, cost in costs.items():
        for bucket, curve in cost.curves.items():
            model.warm(bucket, {n: seconds * scale for n, seconds in curve.items()})
        model.warm_stage("decode", name, cost.pixels, cost.decode * scale)
        model.warm_stage("finish", name, cost.pixels, cost.finish * scale)
    return model
