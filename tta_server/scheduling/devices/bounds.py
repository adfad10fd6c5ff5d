"""When each queued job of a device pool is answered at the latest. Pure."""

import math
from bisect import bisect_left
from typing import TypeVar

import numpy as np

from tta_server.scheduling.devices.columns import Vector
from tta_server.scheduling.devices.queue import MandatoryViews, count_views
from tta_server.scheduling.estimates import EPSILON
from tta_server.scheduling.jobs import Job

W = TypeVar("W")


class DeviceQueue(MandatoryViews[W]):
    """The queue, with a bound on each job's answer that holds for any order of events.

    As long as device and workers are busy while there is work: until all jobs up to this one are decoded, the device
    may run anything, and then a batch that began just before; then it runs their views in full batches; then workers
    make their answers. So no batch has to be laid out, and a job is not later because of what happens to another.
    """

    def answer_wait(self, now: float) -> float:
        """Seconds that an answer may wait for a worker: for a decoding on each of them, and for other answers."""
        number = self._workers.number
        decoding = self._undecoded[-number] if len(self._undecoded) >= number else 0.0
        return decoding + (self._live_answers - self._columns.answer) / number

    def free_after_queue(self, now: float) -> float:
        """When the device is free for the next batch: mandatory views leave room in it for others."""
        return self._slots.first_free(now)

    def latest_free(self, wanted: float, now: float) -> float:
        """The latest time until which the device may be busy with more work so that no queued job is late.

        If it surely is after `wanted`, any time after that.
        """
        if not self._jobs:
            return math.inf
        decoded = self._all_decoded(now)
        base = self._first_deadline() - self._work(now) - self._all_answers(now)
        if max(decoded, wanted) <= base:
            return base
        bases, times = self._bounds(now)
        return float(bases.min()) if np.all(times <= bases + EPSILON) else -math.inf

    def retry_after(self, job: Job[W], now: float) -> float:
        """Seconds until a priced job would be admitted; 0 if no job is late with it."""
        job.rank = (job.is_batch, job.deadline, math.inf)  # type: ignore[assignment]  # behind jobs of this deadline
        before = None if self._is_surely_early(job, now) else self._lateness(now)
        if before is None:
            return 0.0
        count_views(self._live_views, job.buckets, 1)
        index = self._insert(job)
        late = self._lateness(now)
        seconds = self._end_of_queue(now) - now
        self._delete(job, index)
        count_views(self._live_views, job.buckets, -1)
        own, others = float(late[index]), np.delete(late, index)
        if np.any((others > EPSILON) & (others > before + EPSILON)):
            return seconds
        return own if own > EPSILON else 0.0

    def wait_behind_queue(self, job: Job[W], now: float) -> float:
        """Seconds until a job would be admitted behind the whole queue."""
        return max(0.0, self._end_of_queue(now) + self._alone(job, now) - job.deadline)

    def end_of(self, job: Job[W], now: float) -> float:
        """A bound on when a priced job would be answered behind the whole queue."""
        return self._end_of_queue(now) + self._alone(job, now)

    def free_by(self, now: float) -> float:
        """A bound on when the queue is done."""
        return self._end_of_queue(now)

    def is_queued(self, job: Job[W]) -> bool:
        return self._index(job) is not None

    def _alone(self, job: Job[W], now: float) -> float:
        return self._estimates.on_idle_pool(job, 1)

    def _is_surely_early(self, job: Job[W], now: float) -> bool:
        """True if the whole queue and this job are done before the first deadline."""
        deadline = min(job.deadline, self._first_deadline())
        bucket = job.buckets[job.dispatched]
        more = job.load + self._estimates.full_batch(bucket, now) + 2 * job.answer_seconds
        start = max(self._slots.mean_free(now), self._all_decoded(now) + job.decode_seconds)
        return start + self._work(now) + self._all_answers(now) + more <= deadline

    def _first_deadline(self) -> float:
        if not self._jobs:
            return math.inf
        first_batch = bisect_left(self._ranks, (True, -math.inf, 0))
        return min(rank[1] for rank in (self._ranks[0], self._ranks[min(first_batch, len(self._ranks) - 1)]))

    def _lateness(self, now: float) -> Vector:
        """The most seconds by which each job can be late, negative if it is early."""
        bases, decoded = self._bounds(now)
        late: Vector = np.maximum(decoded, self._slots.mean_free(now)) - bases
        return late

    def _bounds(self, now: float) -> tuple[Vector, Vector]:
        """For each job: when the device may start at the latest with all jobs up to it, and when these are decoded."""
        deadline, share, decode, answer, ready_at, undecoded, _ = self._columns.vectors()
        number = self._workers.number
        answers = self.answer_wait(now) + np.cumsum(answer) / number + answer
        bases = deadline - answers - np.cumsum(share) / self._slots.number - self._partial(now)
        if not self._columns.undecoded:
            return bases, np.full(len(bases), -math.inf)
        began = self._workers.mean_free(now) + (self._live_answers - self._columns.answer) / number
        waiting = np.where(decode > 0, began + np.cumsum(decode) / number + decode, ready_at)
        decoded = np.maximum.accumulate(np.where(undecoded > 0, np.maximum(waiting, ready_at), -math.inf))
        return bases, decoded + self._blocking(now)

    # ---- totals ----

    def _end_of_queue(self, now: float) -> float:
        return max(self._slots.mean_free(now), self._all_decoded(now)) + self._work(now) + self._all_answers(now)

    def _work(self, now: float) -> float:
        """Seconds that the device needs for all queued mandatory views."""
        return self._columns.share / self._slots.number + self._partial(now)

    def _partial(self, now: float) -> float:
        """Seconds by which a last batch that is not full costs more than its share, for every bucket."""
        seconds = longest = 0.0
        for bucket, views in self._views.items():
            if views > 0:
                batch = self._estimates.batch(bucket, min(views, self._estimates.costs.knee(bucket)), now)
                seconds += batch - self._estimates.share(bucket, now)
                longest = max(longest, batch)
        number = self._slots.number
        return seconds / number + longest * (1 - 1 / number)

    def _blocking(self, now: float) -> float:
        """Seconds of the largest batch that may begin before a job is decoded."""
        knee, batch = self._estimates.costs.knee, self._estimates.batch
        return max((batch(b, min(n, knee(b)), now) for b, n in self._live_views.items() if n > 0), default=0.0)

    def _all_decoded(self, now: float) -> float:
        """When the device surely is at the views of a job that is decoded last; minus infinity if all are."""
        if not self._columns.undecoded:
            return -math.inf
        number, longest = self._workers.number, self._undecoded[-1] if self._undecoded else 0.0
        decodes = (self._columns.decode + self._live_answers - self._columns.answer) / number
        return self._workers.all_free(now) + decodes + longest + self._blocking(now)

    def _all_answers(self, now: float) -> float:
        """Seconds for the last answer of the queue."""
        return self.answer_wait(now) + self._columns.answer / self._workers.number + self._longest_answer
