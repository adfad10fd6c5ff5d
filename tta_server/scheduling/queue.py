"""The line of jobs whose mandatory work waits, laid out on the slots of a pool. Pure.

The answer of a job whose mandatory views are merged is mandatory work too, until a slot makes it.
"""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import count, takewhile
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tta_server.scheduling.estimates import EPSILON, Estimates, Occupancy, Slots
from tta_server.scheduling.jobs import Job, Phase

W = TypeVar("W")
EXACT_LIMIT = 64
"""A longer line is not laid out job by job, but bounded (see `_lateness_bound`): laying out 1,000 jobs took 5 ms."""


class MandatoryQueue(Generic[W]):
    """Interactive jobs in deadline order, then batch jobs in theirs; list scheduling in this order says who would be
    late. Answers that no interactive view has to wait for take their turn among the batch jobs, by deadline."""

    def __init__(self, estimates: Estimates, slots: Slots) -> None:
        self._estimates = estimates
        self._slots = slots
        self._jobs: list[Job[W]] = []
        self.waiting: dict[Job[W], None] = {}
        """Those for which a slot could do mandatory work: all but the open ones."""
        self._ranks: list[tuple[bool, float, int]] = []
        self._sequence = count(1)
        self._total = 0.0
        self._loads = array("d")
        self._deadlines = array("d")

    def __iter__(self) -> Iterator[Job[W]]:
        return iter(self._order(self._jobs))

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def load(self) -> float:
        """Seconds of one slot for all that waits."""
        return self._total

    def join(self, job: Job[W]) -> None:
        job.rank = (job.is_batch, job.deadline, job.rank[2] or next(self._sequence))
        place = bisect_left(self._ranks, job.rank)
        self._ranks.insert(place, job.rank)
        self._jobs.insert(place, job)
        self._loads.insert(place, job.load)
        self._deadlines.insert(place, job.deadline)
        self._total += job.load
        if not job.is_open:
            self.waiting[job] = None

    def close(self, job: Job[W]) -> None:
        """No more views of a job in line may run: its answer is to be made."""
        self.waiting[job] = None

    def leave(self, job: Job[W]) -> None:
        place = self._place(job)
        if place is None:
            return
        del self._ranks[place], self._jobs[place], self._loads[place], self._deadlines[place]
        self.waiting.pop(job, None)
        self._total = self._total - job.load if self._jobs else 0.0

    def mandatory_seconds(self, job: Job[W], now: float) -> float:
        """Seconds of slots that its mandatory work takes: all but one of those that share its views may have to wait
        for its image."""
        seconds = self._estimates.load(job, job.mandatory, now)
        if job.mandatory == 1 or job.phase is Phase.READY or self._slots.number == 1:
            return seconds
        batches = sum(number for _, number in self._estimates.runs(job, job.dispatched, job.mandatory, now))
        shared = min(self._slots.number, batches)
        return seconds + (shared - 1) * self._estimates.decoding(job, now)

    def reprice(self, job: Job[W], now: float) -> None:
        """Some of its work is handed out."""
        place = self._place(job)
        if place is not None:
            self._total -= job.load
            job.load = self._loads[place] = self.mandatory_seconds(job, now)
            self._total += job.load

    def _place(self, job: Job[W]) -> int | None:
        place = bisect_left(self._ranks, job.rank)
        return place if place < len(self._jobs) and self._jobs[place] is job else None

    @staticmethod
    def _order(jobs: list[Job[W]]) -> list[Job[W]]:
        """Those of the line, by rank, in the order in which they are laid out."""
        batch = bisect_left(jobs, True, key=lambda job: job.is_batch)
        last = batch
        while last and jobs[last - 1].mandatory_dispatched:
            last -= 1
        if last == batch or batch == len(jobs):
            return jobs
        return [*jobs[:last], *sorted(jobs[last:], key=lambda job: job.deadline)]

    def trivially_feasible(self, more: float, now: float, deadline: float = math.inf) -> bool:
        """Whether one slot alone could do all of the line, and `more`, from when all are free to the first deadline.

        Then nobody is late on any schedule, and there is no need to lay one out.
        """
        return self._slots.all_free(now) + self._total + more <= min(deadline, self._first_deadline())

    def is_done_by(self, time: float, step: Occupancy[W], now: float) -> bool:
        """Whether one slot alone could do all of the line, and this step, by then."""
        return self._slots.all_free(now) + self._total + step.total <= time

    def _first_deadline(self) -> float:
        if not self._jobs:
            return math.inf
        first_batch = bisect_left(self._ranks, (True, -math.inf, 0))
        return min(rank[1] for rank in (self._ranks[0], self._ranks[min(first_batch, len(self._ranks) - 1)]))

    def first_delayed(self, head: Job[W], step: Occupancy[W], now: float) -> Job[W] | None:
        """The first job that would miss its deadline, or miss it by more, if the first free slot did this step of
        `head`."""
        if len(self._jobs) > EXACT_LIMIT:
            return self._first_delayed_bounded(head, step, now)
        free, late = self._slots.free(now, step), {}
        for job in self:
            if job in step.views:
                first = job.dispatched + step.views[job]
                if first >= job.mandatory:
                    continue
                end = self._estimates.schedule_views(free, job, first, now, now, now + step.seconds)
            elif job is head:
                end = self._estimates.schedule_views(free, job, job.dispatched, now + step.busy, now)
            else:
                end = self._estimates.schedule_job(free, job, now, now)
            if end > job.deadline + EPSILON:
                late[job] = end
        if not late:
            return None
        before = dict(self._laid_out(self, self._slots.free(now), now))
        return next((job for job, end in late.items() if end > before[job] + EPSILON), None)

    def is_late(self, now: float) -> bool:
        """True if a job misses its deadline when all of the line is laid out."""
        if self.trivially_feasible(0.0, now):
            return False
        if len(self._jobs) > EXACT_LIMIT:
            _, loads, deadlines = self._arrays()
            return bool(np.any(self._lateness_bound(loads, deadlines, 0.0, now) > EPSILON))
        return any(end > job.deadline + EPSILON for job, end in self._laid_out(self, self._slots.free(now), now))

    def retry_after(self, job: Job[W], now: float) -> float:
        """In how many seconds a job would be admitted; 0 for at once.

        Where only the job itself would be late, it is to come when it would not be even behind all others, for they may
        have begun by then; where it would make another late, when all that waits now is done.
        """
        place = bisect_left(self._ranks, (job.is_batch, job.deadline, math.inf))  # behind its equals
        if len(self._jobs) >= EXACT_LIMIT:
            return self._retry_after_bounded(job, place, now)
        order = self._order([*self._jobs[:place], job, *self._jobs[place:]])
        late = {other: end - other.deadline for other, end in self._laid_out(order, self._slots.free(now), now)}
        own = late.pop(job)
        if all(seconds <= EPSILON for seconds in late.values()):
            return max(own, self.wait_behind_queue(job, now)) if own > EPSILON else 0.0
        return max(end for _, end in self._laid_out(self, self._slots.free(now), now)) - now

    def wait_behind_queue(self, job: Job[W], now: float) -> float:
        """In how many seconds a job would be admitted even behind all of the line."""
        free = self.slots_after(now)
        late = self._estimates.schedule_job(free.copy(), job, now, now) - job.deadline
        then = self._estimates.schedule_job(free.copy(), job, now + max(0.0, late), now)
        return late if then <= job.deadline + late + EPSILON else max(free) - now

    def free_after_queue(self, now: float) -> float:
        """When the first slot is free once all of the line is placed."""
        return self.slots_after(now)[0]

    def free_for_next(self, step: Occupancy[W], deadline: float, now: float) -> float:
        """When the first slot is free for one more interactive job with that deadline, if the one that is free first
        did this step."""
        if len(self._jobs) > EXACT_LIMIT:
            return self._slots.mean_free(now) + (self._total + step.total) / self._slots.number
        free = self._slots.free(now, step)
        before = takewhile(lambda job: not job.is_batch and job.deadline <= deadline, self._jobs)
        for _ in self._laid_out((job for job in before if job not in step.views), free, now):
            pass
        return free[0]

    def slots_after(self, now: float) -> list[float]:
        """A heap of when each slot is free once all of the line is placed."""
        if len(self._jobs) > EXACT_LIMIT:
            return [self._slots.all_free(now) + self._total / self._slots.number] * self._slots.number
        free = self._slots.free(now)
        for _ in self._laid_out(self, free, now):
            pass
        return free

    def _laid_out(self, jobs: Iterable[Job[W]], free: list[float], now: float) -> Iterator[tuple[Job[W], float]]:
        """Each job with when it is answered on slots that are `free` (a heap) from then on."""
        for job in jobs:
            yield job, self._estimates.schedule_job(free, job, now, now)

    # ---- a crowd ----

    def _lateness_bound(
        self, loads: NDArray[np.float64], deadlines: NDArray[np.float64], lead: float, now: float
    ) -> NDArray[np.float64]:
        """By how much each job is late at most: it starts when the slots together have done what runs and all before
        it, for a list schedule leaves none idle (Graham 1969)."""
        before = np.cumsum(loads) - loads + lead
        late: NDArray[np.float64] = self._slots.mean_free(now) + before / self._slots.number + loads - deadlines
        return late

    def _first_delayed_bounded(self, head: Job[W], step: Occupancy[W], now: float) -> Job[W] | None:
        order, loads, deadlines = self._arrays()
        before = self._lateness_bound(loads, deadlines, 0.0, now)
        left, waits = loads.copy(), np.ones(len(order), bool)
        for job in step.views or [head]:
            if self._place(job) is not None:
                place, first = order.index(job), job.dispatched + step.views.get(job, 0)
                left[place] = self._estimates.rest(job, first, now) if step.views else job.load - step.busy
                waits[place] = not step.views or first < job.mandatory
        after = self._lateness_bound(left, deadlines, step.total, now)
        delayed = waits & (after > EPSILON) & (after > before + EPSILON)
        return order[int(np.argmax(delayed))] if delayed.any() else None

    def _arrays(self) -> tuple[list[Job[W]], NDArray[np.float64], NDArray[np.float64]]:
        """The line as it is laid out, with loads and deadlines."""
        order = self._order(self._jobs)
        if order is self._jobs:
            return order, np.array(self._loads), np.array(self._deadlines)
        loads, deadlines = zip(*((job.load, job.deadline) for job in order), strict=True)
        return order, np.array(loads), np.array(deadlines)

    def _retry_after_bounded(self, job: Job[W], place: int, now: float) -> float:
        loads = np.insert(np.array(self._loads), place, job.load)
        deadlines = np.insert(np.array(self._deadlines), place, job.deadline)
        late = self._lateness_bound(loads, deadlines, 0.0, now)
        if np.all(np.delete(late, place) <= EPSILON):
            own = float(late[place])
            return max(own, self.wait_behind_queue(job, now)) if own > EPSILON else 0.0
        return self._slots.all_free(now) + self._total / self._slots.number - now
