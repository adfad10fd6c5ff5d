"""The queue of jobs whose mandatory work waits, and a simulation of when a pool answers them. Pure.

The answer of a job whose mandatory views are merged is mandatory work too, until a slot makes it.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, takewhile
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tta_server.scheduling.estimates import EPSILON, Occupancy, Slots
from tta_server.scheduling.jobs import Job, Phase
from tta_server.scheduling.mean_estimates import MeanEstimates, Variances, margin

W = TypeVar("W")
EXACT_LIMIT = 64
"""The longest queue that is simulated job by job: 1,000 jobs took 5 ms. For longer ones, see `_lateness_bound`."""

NONE: Mapping[Any, float] = {}


class MandatoryQueue(Generic[W]):
    """Interactive jobs in deadline order, then batch jobs in deadline order.

    List scheduling in this order predicts which jobs are late. Answers at the end of the interactive jobs delay no
    interactive view, so they are scheduled among the batch jobs, by deadline. Work takes its mean time; a job counts as
    late from the time on at which the margin of all that is done before it, and of itself, is used up.
    """

    def __init__(self, estimates: MeanEstimates, slots: Slots) -> None:
        self.estimates = estimates
        self._slots = slots
        self._jobs: list[Job[W]] = []
        self.waiting: dict[Job[W], None] = {}
        """The queued jobs that are not open: a slot could do mandatory work of them."""
        self._ranks: list[tuple[bool, float, int]] = []
        self._sequence = count(1)
        self._total = 0.0
        self._variances: Variances[W] = Variances(slots.number)
        self._loads = array("d")
        self._deadlines = array("d")

    def __iter__(self) -> Iterator[Job[W]]:
        return iter(self._schedule_order(self._jobs))

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def load(self) -> float:
        """Slot seconds of all waiting mandatory work."""
        return self._total

    def add(self, job: Job[W]) -> None:
        """Adds a job with `job.load` slot seconds of mandatory work."""
        job.rank = (job.is_batch, job.deadline, job.rank[2] or next(self._sequence))
        index = bisect_left(self._ranks, job.rank)
        self._ranks.insert(index, job.rank)
        self._jobs.insert(index, job)
        self._loads.insert(index, job.load)
        self._deadlines.insert(index, job.deadline)
        self._total += job.load
        if not job.is_open:
            self.waiting[job] = None

    def set_variance(self, job: Job[W], now: float) -> None:
        """Updates by how much a queued job's work may stray from `job.load`."""
        self._variances.set(job, self.estimates.variance(job, job.dispatched, now))

    def mark_closed(self, job: Job[W]) -> None:
        """Records that no more views of a queued job may run, so that a slot can make its answer."""
        self.waiting[job] = None

    def remove(self, job: Job[W]) -> None:
        """Removes a job; does nothing if it is not queued."""
        index = self._index(job)
        if index is None:
            return
        del self._ranks[index], self._jobs[index], self._loads[index], self._deadlines[index]
        self.waiting.pop(job, None)
        self._variances.set(job, 0.0)
        self._total = self._total - job.load if self._jobs else 0.0

    def mandatory_seconds(self, job: Job[W], now: float) -> float:
        """Slot seconds that a job's mandatory work takes.

        If several slots share its views, all but one may be idle until the image is decoded, which counts.
        """
        seconds = self.estimates.load(job, job.mandatory, now)
        if job.mandatory == 1 or job.phase is Phase.READY or self._slots.number == 1:
            return seconds
        batches = sum(number for _, number in self.estimates.runs(job, job.dispatched, job.mandatory, now))
        shared = min(self._slots.number, batches)
        return seconds + (shared - 1) * self.estimates.decoding(job, now)

    def reprice(self, job: Job[W], now: float) -> None:
        """Updates a queued job's load after a part of its work was dispatched."""
        index = self._index(job)
        if index is not None:
            self._total -= job.load
            job.load = self._loads[index] = self.mandatory_seconds(job, now)
            self._total += job.load
            self.set_variance(job, now)

    def _index(self, job: Job[W]) -> int | None:
        index = bisect_left(self._ranks, job.rank)
        return index if index < len(self._jobs) and self._jobs[index] is job else None

    @staticmethod
    def _schedule_order(jobs: list[Job[W]]) -> list[Job[W]]:
        """Jobs that are sorted by rank, in the order in which they are scheduled."""
        batch = bisect_left(jobs, True, key=lambda job: job.is_batch)
        last = batch
        while last and jobs[last - 1].mandatory_dispatched:
            last -= 1
        if last == batch or batch == len(jobs):
            return jobs
        return [*jobs[:last], *sorted(jobs[last:], key=lambda job: job.deadline)]

    def trivially_feasible(self, more: float, variance: float, now: float, deadline: float = math.inf) -> bool:
        """True if one slot alone, once all are free, could do the queue and `more` seconds before the first deadline.

        Then no job is late in any schedule, and none has to be simulated. `variance` is that of the `more` seconds.
        """
        end = self._slots.all_free(now) + self._total + more + margin(self._variances.total + variance)
        return end <= min(deadline, self._first_deadline())

    def is_done_by(self, time: float, step: Occupancy[W], now: float) -> bool:
        """True if one slot alone could do the whole queue and this step by that time."""
        spread = margin(self._variances.total + step.variance)
        return self._slots.all_free(now) + self._total + step.total + spread <= time

    def _first_deadline(self) -> float:
        if not self._jobs:
            return math.inf
        first_batch = bisect_left(self._ranks, (True, -math.inf, 0))
        return min(rank[1] for rank in (self._ranks[0], self._ranks[min(first_batch, len(self._ranks) - 1)]))

    def first_delayed(self, head: Job[W], step: Occupancy[W], now: float) -> Job[W] | None:
        """The first job that would be late, or later, if the slot that is free first did this step of `head`."""
        if len(self._jobs) > EXACT_LIMIT:
            return self._first_delayed_bounded(head, step, now)
        free, late, before = self._slots.free(now, step), {}, step.variance
        for job in self:
            if job in step.views:
                first = job.dispatched + step.views[job]
                if first >= job.mandatory:
                    continue
                end = self.estimates.schedule_views(free, job, first, now, now, now + step.seconds)
            elif job is head:
                end = self.estimates.schedule_views(free, job, job.dispatched, now + step.busy, now)
            else:
                end = self.estimates.schedule_job(free, job, now, now)
            own = self._variances.of(job)
            end, before = end + self._variances.margin(before, own), before + own
            if end > job.deadline + EPSILON:
                late[job] = end
        if not late:
            return None
        without = dict(self._schedule(self, self._slots.free(now), now))
        return next((job for job, end in late.items() if end > without[job] + EPSILON), None)

    def is_late(self, now: float) -> bool:
        """True if a queued job misses its deadline as things stand."""
        if self.trivially_feasible(0.0, 0.0, now):
            return False
        if len(self._jobs) > EXACT_LIMIT:
            order, loads, deadlines = self._arrays()
            late = self._lateness_bound(loads, deadlines, 0.0, now) + self._variances.margins(order)
            return bool(np.any(late > EPSILON))
        return any(end > job.deadline + EPSILON for job, end in self._schedule(self, self._slots.free(now), now))

    def retry_after(self, job: Job[W], now: float) -> float:
        """Seconds until a job would be admitted; 0 for now.

        If only the job itself would be late: until it would be in time behind the whole queue, whose jobs may all run
        by then. If it would make another job late, or later: until the whole queue is done.
        """
        index = bisect_left(self._ranks, (job.is_batch, job.deadline, math.inf))  # behind jobs of the same deadline
        if len(self._jobs) >= EXACT_LIMIT:
            return self._retry_after_bounded(job, index, now)
        order = self._schedule_order([*self._jobs[:index], job, *self._jobs[index:]])
        variance = self.estimates.variance(job, job.dispatched, now)
        ends = dict(self._schedule(order, self._slots.free(now), now, {job: variance}))
        own = ends.pop(job) - job.deadline
        late = [other for other, end in ends.items() if end > other.deadline + EPSILON]
        without = dict(self._schedule(self, self._slots.free(now), now)) if late else {}
        if all(ends[other] <= without[other] + EPSILON for other in late):
            return max(own, self.wait_behind_queue(job, now)) if own > EPSILON else 0.0
        return max(without.values()) - now

    def wait_behind_queue(self, job: Job[W], now: float) -> float:
        """Seconds until a job would be admitted behind the whole queue."""
        free = self.slots_after(now)
        late = self.estimates.schedule_job(free.copy(), job, now, now) - job.deadline
        then = self.estimates.schedule_job(free.copy(), job, now + max(0.0, late), now)
        return late if then <= job.deadline + late + EPSILON else max(free) - now

    def free_after_queue(self, now: float) -> float:
        """When the first slot is free after the whole queue is scheduled."""
        return self.slots_after(now)[0]

    def free_for_next(self, step: Occupancy[W], deadline: float, now: float) -> float:
        """When a slot is free for an interactive job with that deadline if the slot free first did this step."""
        if len(self._jobs) > EXACT_LIMIT:
            spread = self._variances.margin(self._variances.total + step.variance)
            return self._slots.mean_free(now) + (self._total + step.total) / self._slots.number + spread
        free, variance = self._slots.free(now, step), step.variance
        before = takewhile(lambda job: not job.is_batch and job.deadline <= deadline, self._jobs)
        for job, _ in self._schedule((job for job in before if job not in step.views), free, now):
            variance += self._variances.of(job)
        return free[0] + self._variances.margin(variance)

    def slots_after(self, now: float) -> list[float]:
        """The time at which each slot is free after the whole queue is scheduled, in ascending order."""
        if len(self._jobs) > EXACT_LIMIT:
            return [self._slots.all_free(now) + self._total / self._slots.number] * self._slots.number
        free = self._slots.free(now)
        for _ in self._schedule(self, free, now):
            pass
        return free

    def _schedule(
        self, jobs: Iterable[Job[W]], free: list[float], now: float, others: Mapping[Job[W], float] = NONE
    ) -> Iterator[tuple[Job[W], float]]:
        """Each job with the time of its answer, scheduled on slots that are `free` at these times; updates `free`.

        The time includes a margin, `free` does not. `others` has the variances of jobs that are not queued.
        """
        before = 0.0
        for job in jobs:
            end = self.estimates.schedule_job(free, job, now, now)
            own = self._variances.of(job) or others.get(job, 0.0)
            yield job, end + self._variances.margin(before, own)
            before += own

    # ---- long queues: bounds instead of a simulation ----

    def _lateness_bound(
        self, loads: NDArray[np.float64], deadlines: NDArray[np.float64], lead: float, now: float
    ) -> NDArray[np.float64]:
        """The most seconds by which each job can be late, negative if it is early.

        List scheduling leaves no slot idle, so a job starts at the latest when the slots together have done the running
        work and all jobs before it (Graham 1969).
        """
        before = np.cumsum(loads) - loads + lead
        late: NDArray[np.float64] = self._slots.mean_free(now) + before / self._slots.number + loads - deadlines
        return late

    def _first_delayed_bounded(self, head: Job[W], step: Occupancy[W], now: float) -> Job[W] | None:
        """As `first_delayed`, by upper bounds: a job that is returned may still be in time."""
        order, loads, deadlines = self._arrays()
        margins = self._variances.margins(order)
        before = self._lateness_bound(loads, deadlines, 0.0, now) + margins
        left, waits = loads.copy(), np.ones(len(order), bool)
        for job in step.views or [head]:
            if self._index(job) is not None:
                index, first = order.index(job), job.dispatched + step.views.get(job, 0)
                left[index] = (
                    self.estimates.remaining_mandatory(job, first, now) if step.views else job.load - step.busy
                )
                waits[index] = not step.views or first < job.mandatory
        after = self._lateness_bound(left, deadlines, step.total, now) + margins
        delayed = waits & (after > EPSILON) & (after > before + EPSILON)
        return order[int(np.argmax(delayed))] if delayed.any() else None

    def _arrays(self) -> tuple[list[Job[W]], NDArray[np.float64], NDArray[np.float64]]:
        """The jobs in the order in which they are scheduled, with their loads and deadlines."""
        order = self._schedule_order(self._jobs)
        if order is self._jobs:
            return order, np.array(self._loads), np.array(self._deadlines)
        loads, deadlines = zip(*((job.load, job.deadline) for job in order), strict=True)
        return order, np.array(loads), np.array(deadlines)

    def _retry_after_bounded(self, job: Job[W], index: int, now: float) -> float:
        """As `retry_after`, by upper bounds, for a job that would be queued at `index`."""
        loads = np.insert(np.array(self._loads), index, job.load)
        deadlines = np.insert(np.array(self._deadlines), index, job.deadline)
        late = self._lateness_bound(loads, deadlines, 0.0, now)
        late += self._variances.margins([*self._jobs[:index], job, *self._jobs[index:]])
        if np.all(late[index + 1 :] <= EPSILON):  # jobs before it are not delayed
            own = float(late[index])
            return max(own, self.wait_behind_queue(job, now)) if own > EPSILON else 0.0
        return self._slots.all_free(now) + self._total / self._slots.number - now
