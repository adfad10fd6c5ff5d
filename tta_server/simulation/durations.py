"""How long the steps of a simulation take. Pure; times are in seconds."""

from collections.abc import Mapping
from functools import lru_cache
from random import Random

from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.jobs import Batch, Decode, Finished
from tta_server.scheduling.stopping import StopReason
from tta_server.simulation.costs import ModelCost, warmed_up
from tta_server.simulation.jobs import SimulatedJob

Step = Decode[SimulatedJob] | Batch[SimulatedJob] | Finished[SimulatedJob]


class Durations:
    """Medians of the steps of these models, and draws of their true durations."""

    def __init__(self, costs: Mapping[str, ModelCost], random: Random) -> None:
        self._costs = costs
        self._random = random
        self._medians = warmed_up(costs, margin=1.0)
        self._batch = lru_cache(maxsize=None)(self._batch_median)

    def batch_median(self, batch: Batch[SimulatedJob]) -> float:
        return self._batch(batch.bucket, batch.rows or len(batch.items))

    def _batch_median(self, bucket: Bucket, n: int) -> float:
        return self._medians.seconds(bucket, n, 0.0)

    def draw(self, step: Step, now: float) -> float:
        """How long a step takes this time: its median times noise; an error takes no time."""
        if isinstance(step, Batch):
            median, kind, cost = self.batch_median(step), "view", self._costs[step.bucket.model]
        elif isinstance(step, Decode):
            cost = self._costs[step.job.model]
            median, kind = cost.decode, "decode"
        elif isinstance(step.outcome, StopReason):
            cost = self._costs[step.job.model]
            median, kind = cost.finish, "finish"
        else:
            return 0.0
        return median * (cost.recorded.factor(kind, now) if cost.recorded else cost.noise.draw(self._random))
