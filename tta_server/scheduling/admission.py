"""Whether slots that do all work have time for one more job. Pure."""

import math
from collections.abc import Sequence
from itertools import groupby, islice
from typing import TypeVar

from tta_server.errors import Overloaded
from tta_server.scheduling.arrivals import ExpectedArrivals
from tta_server.scheduling.estimates import EPSILON, Estimates, Slots, assign, assign_all
from tta_server.scheduling.jobs import Bounds, Job, Quote
from tta_server.scheduling.live_jobs import LiveJobs
from tta_server.scheduling.queue import MandatoryQueue

W = TypeVar("W")


class Admission(LiveJobs[W]):
    """Admits a job if list scheduling of all mandatory work makes no job late."""

    def __init__(
        self,
        estimates: Estimates,
        slots: Slots,
        queue: MandatoryQueue[W],
        bounds: Bounds,
        arrivals: ExpectedArrivals,
    ) -> None:
        super().__init__(estimates, slots, queue, bounds)
        self._queue = queue
        self._arrivals = arrivals

    def admit(self, job: Job[W], now: float) -> None:
        try:
            super().admit(job, now)
        except Overloaded as refusal:
            if refusal.reason == "time":
                self._arrivals.refuse(now)
            raise
        self._queue.set_variance(job, now)

    def _seconds_together(self, jobs: Sequence[Job[W]]) -> float:
        free = [0.0] * self._slots.number
        return max(self._estimates.schedule_job(free, job, 0.0, math.inf) for job in jobs)

    def group_wait(self, jobs: Sequence[Job[W]], now: float) -> float:
        free = self._queue.slots_after(now)
        return max(self._estimates.schedule_job(free, job, now, now) - job.deadline for job in jobs)

    def _wait(self, job: Job[W], now: float) -> float:
        job.load = self._queue.mandatory_seconds(job, now)
        idle = not self._jobs and self._slots.idle == self._slots.number
        variance = self._queue.estimates.variance(job, job.dispatched, now)
        if idle or self._queue.trivially_feasible(job.load, variance, now, job.deadline):
            return 0.0
        return self._queue.retry_after(job, now)

    def quote(self, job: Job[W], others: int, now: float) -> Quote:
        wait = self._current_wait(job, now)
        free = self._queue.slots_after(now)
        start = done = self._estimates.schedule_decode(free, job, now, now)
        for seconds, batches in self._estimates.runs(job, 0, job.mandatory, now):
            done = max(done, assign_all(free, start, seconds, batches))
        answer = self._estimates.finishing(job, now) - now
        ends = [done + answer]
        for bucket, views in groupby(islice(job.buckets, job.mandatory, None)):
            seconds = self._estimates.costs.seconds(bucket, 1, now) * (1 + others)
            for _ in views:
                done = max(done, assign(free, start, seconds))
                ends.append(done + answer)
        in_time = sum(now + end <= job.deadline + EPSILON for end in ends)
        return Quote(max(0, job.mandatory - 1 + in_time), wait, tuple(ends))
