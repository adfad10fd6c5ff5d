"""Whether a device and its workers have time for one more job. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from tta_server.scheduling.devices.bounds import DeviceQueue
from tta_server.scheduling.devices.ladder import DeviceEstimates
from tta_server.scheduling.devices.slots import DeviceSlots, Workers
from tta_server.scheduling.estimates import EPSILON
from tta_server.scheduling.jobs import Bounds, Job, Quote
from tta_server.scheduling.live_jobs import LiveJobs

W = TypeVar("W")


class DeviceAdmission(LiveJobs[W]):
    """Admits a job if no queued job, nor this one, can be late by its bound; an idle pool always admits."""

    def __init__(
        self, estimates: DeviceEstimates, slots: DeviceSlots, workers: Workers, queue: DeviceQueue[W], bounds: Bounds
    ) -> None:
        super().__init__(estimates, slots, queue, bounds)
        self._prices = estimates
        self._queue = queue
        self._workers = workers
        self._urgent: Job[W] | None = None
        """A job that only an idle pool can answer in time: none is admitted until its mandatory views run."""

    def _wait(self, job: Job[W], now: float) -> float:
        self._queue.price(job, now)
        if not self._jobs and self._slots.idle == self._slots.number and self._workers.idle == self._workers.number:
            self._urgent = job if self._queue.retry_after(job, now) else None
            return 0.0
        if self._urgent is not None and self._queue.is_queued(self._urgent):
            return max(EPSILON, self._queue.wait_behind_queue(job, now))
        return self._queue.retry_after(job, now)

    def _seconds_together(self, jobs: Sequence[Job[W]]) -> float:
        prices, now = self._prices, math.inf
        decodes = [prices.decoding(job, now) for job in jobs]
        answers = [prices.finishing(job, now) for job in jobs]
        chores = (sum(decodes) + sum(answers)) / self._workers.number + max(decodes) + max(answers)
        views = sum((Counter(job.buckets[: job.mandatory]) for job in jobs), Counter())
        return chores + sum(self._prices.batches(bucket, number, now) for bucket, number in views.items())

    def group_wait(self, jobs: Sequence[Job[W]], now: float) -> float:
        return max(0.0, self._queue.free_by(now) + self._seconds_together(jobs) - jobs[0].deadline)

    def quote(self, job: Job[W], others: int, now: float) -> Quote:
        """Optional views at their marginal cost: full batches, in rounds with the other open jobs."""
        wait = self._current_wait(job, now)
        self._queue.price(job, now)
        first = self._queue.end_of(job, now) - now
        ends = [first + seconds for seconds in self._more_seconds(job, others, now)]
        in_time = sum(now + end <= job.deadline + EPSILON for end in ends)
        return Quote(max(0, job.mandatory - 1 + in_time), wait, tuple(ends))

    def _more_seconds(self, job: Job[W], others: int, now: float) -> list[float]:
        """Seconds after the mandatory views for each number of optional views, from none on."""
        own = Counter(job.buckets[: job.mandatory])
        least = sum(self._prices.batches(bucket, n, now) for bucket, n in own.items())
        seconds, shared = [0.0], 0.0
        for bucket in job.buckets[job.mandatory :]:
            own[bucket] += 1
            shared += (1 + others) * self._prices.share(bucket, now) if others else 0.0
            alone = sum(self._prices.batches(bucket, n, now) for bucket, n in own.items()) - least
            seconds.append(max(alone, shared))
        return seconds
