"""What the remaining work of jobs costs on average, and by how much a sum of it may stray. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.estimates import Estimates, Occupancy
from tta_server.scheduling.jobs import Job, Phase

W = TypeVar("W")
SAFETY = 2.5
"""Standard deviations by which a sum may exceed its mean and still be in time."""


def margin(variance: float) -> float:
    """Seconds by which a sum of this variance, in seconds squared, may exceed its mean."""
    return SAFETY * sqrt(variance) if variance else 0.0


class Variances(Generic[W]):
    """By how much the work of each queued job may stray from its mean, in seconds squared."""

    def __init__(self, slots: int) -> None:
        self.total = 0.0
        self._slots = slots
        self._of: dict[Job[W], float] = {}  # without those that are 0

    def of(self, job: Job[W]) -> float:
        return self._of.get(job, 0.0)

    def set(self, job: Job[W], variance: float) -> None:
        before = self._of.pop(job, 0.0)
        if variance:
            self._of[job] = variance
        self.total = max(0.0, self.total - before + variance) if self._of else 0.0

    def margin(self, before: float, own: float = 0.0) -> float:
        """Of a job, if slots share the work before it; these are the variances of that work and of its own."""
        return margin(before / self._slots + own) if before or own else 0.0

    def margins(self, jobs: Sequence[Job[W]]) -> NDArray[np.float64]:
        """Of each of these jobs, in this order."""
        own = np.array([self._of.get(job, 0.0) for job in jobs])
        return np.asarray(SAFETY * np.sqrt((np.cumsum(own) - own) / self._slots + own))


class MeanEstimates(Estimates):
    """Means instead of upper estimates, for sums over a queue, and the variances of what is summed.

    Without observations, and while all are equal, means are the upper estimates and variances are 0.
    """

    def batch(self, bucket: Bucket, n: int, now: float) -> float:
        return self.costs.mean_seconds(bucket, n, now)

    def decoding(self, job: Job[W], now: float) -> float:
        return self.costs.mean_stage_seconds("decode", job.model, job.pixels, now)

    def finishing(self, job: Job[W], now: float) -> float:
        return self.costs.mean_stage_seconds(job.finish, job.model, job.pixels, now)

    def variance(self, job: Job[W], first: int, now: float) -> float:
        """Of the mandatory work of a job from view `first` on, in seconds squared."""
        costs = self.costs
        found = costs.stage_variance(job.finish, job.model, job.pixels, now)
        if job.phase is Phase.WAITING:
            found += costs.stage_variance("decode", job.model, job.pixels, now)
        if job.mandatory - first == 1:
            return found + costs.variance(job.buckets[first], 1, now)
        for bucket, n, batches in self.groups(job, first, job.mandatory):
            found += costs.variance(bucket, n, now) * batches
        return found

    def next_step(self, job: Job[W], items: Sequence[tuple[Job[W], int]], now: float) -> "Occupancy[W]":
        """As that of upper estimates, with a variance."""
        step, costs = super().next_step(job, items, now), self.costs
        if items:
            variance = costs.variance(items[0][0].next_bucket, len(items), now)
        else:
            stage = job.finish if job.mandatory_dispatched else "decode"
            variance = costs.stage_variance(stage, job.model, job.pixels, now)
        return replace(step, variance=variance) if variance else step
