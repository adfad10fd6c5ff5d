"""The line of jobs whose mandatory work waits, laid out on the slots of a pool. Pure."""

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, takewhile
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tta_server.jobs import Job, Phase
from tta_server.prices import EPSILON, Prices, Slots

W = TypeVar("W")
CROWD = 64
"""A longer line is not laid out job by job, but bounded (see `_late_in_crowd`): laying out 1,000 jobs took 5 ms."""


class Line(Generic[W]):
    """Interactive jobs in deadline order, then batch jobs in theirs; list scheduling in this order says who would be
    late."""

    def __init__(self, prices: Prices, slots: Slots) -> None:
        self._prices = prices
        self._slots = slots
        self._jobs: list[Job[W]] = []
        self._ranks: list[tuple[bool, float, int]] = []
        self._sequence = count()
        self._total = 0.0
        self._loads = array("d")
        self._deadlines = array("d")

    def __iter__(self) -> Iterator[Job[W]]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def load(self) -> float:
        """Seconds of one slot for all that waits."""
        return self._total

    def join(self, job: Job[W]) -> None:
        job.rank = (job.is_batch, job.deadline, next(self._sequence))
        place = bisect_left(self._ranks, job.rank)
        self._ranks.insert(place, job.rank)
        self._jobs.insert(place, job)
        self._loads.insert(place, job.load)
        self._deadlines.insert(place, job.deadline)
        self._total += job.load

    def leave(self, job: Job[W]) -> None:
        place = self._place(job)
        if place is None:
            return
        del self._ranks[place], self._jobs[place], self._loads[place], self._deadlines[place]
        self._total = self._total - job.load if self._jobs else 0.0

    def work(self, job: Job[W], now: float) -> float:
        """Seconds of slots that its mandatory work takes: all but one of those that share its views may have to wait
        for its image."""
        seconds = self._prices.load(job, job.mandatory, now)
        if job.mandatory == 1 or job.phase is Phase.READY or self._slots.number == 1:
            return seconds
        batches = sum(number for _, number in self._prices.runs(job, job.handed, job.mandatory, now))
        shared = min(self._slots.number, batches)
        return seconds + (shared - 1) * self._prices.decoding(job, now)

    def lightened(self, job: Job[W], now: float) -> None:
        """Some of its work is handed out."""
        place = self._place(job)
        if place is not None:
            self._total -= job.load
            job.load = self._loads[place] = self.work(job, now)
            self._total += job.load

    def _place(self, job: Job[W]) -> int | None:
        place = bisect_left(self._ranks, job.rank)
        return place if place < len(self._jobs) and self._jobs[place] is job else None

    def is_relaxed(self, more: float, now: float, deadline: float = math.inf) -> bool:
        """Whether one slot alone could do all of the line, and `more`, from when all are free to the first deadline.

        Then nobody is late on any schedule, and there is no need to lay one out.
        """
        return self._slots.all_free(now) + self._total + more <= min(deadline, self._first_deadline())

    def _first_deadline(self) -> float:
        if not self._jobs:
            return math.inf
        first_batch = bisect_left(self._ranks, (True, -math.inf, 0))
        return min(rank[1] for rank in (self._ranks[0], self._ranks[min(first_batch, len(self._ranks) - 1)]))

    def is_delayed(self, lead: float, head: Job[W], views: Mapping[Job[W], int], now: float) -> bool:
        """Whether somebody would be late if the slot that is free first were busy for `lead`, and less late otherwise.

        It does so many `views` of each job, or, if of none, decodes the image of `head`.
        """
        if len(self._jobs) > CROWD:
            return self._delayed_in_crowd(lead, head, views, now)
        free, late = self._slots.free(now, lead), {}
        for job in self._jobs:
            first = job.handed + views.get(job, 0)
            if first >= job.mandatory:
                continue
            if job in views or job is head:
                end = self._prices.viewed(free, job, first, now if views else now + lead, now)
            else:
                end = self._prices.placed(free, job, now, now)
            if end > job.deadline + EPSILON:
                late[job] = end
        if not late:
            return False
        before = dict(self._laid_out(self, self._slots.free(now), now))
        return any(end > before[job] + EPSILON for job, end in late.items())

    def refusal(self, job: Job[W], now: float) -> float:
        """In how many seconds a job would be admitted; 0 for at once.

        Where only the job itself would be late, it is to come when it would not be even behind all others, for they may
        have begun by then; where it would make another late, when all that waits now is done.
        """
        place = bisect_left(self._ranks, (job.is_batch, job.deadline, math.inf))  # behind its equals
        if len(self._jobs) >= CROWD:
            return self._refusal_in_crowd(job, place, now)
        order = [*self._jobs[:place], job, *self._jobs[place:]]
        late = {other: end - other.deadline for other, end in self._laid_out(order, self._slots.free(now), now)}
        own = late.pop(job)
        if all(seconds <= EPSILON for seconds in late.values()):
            return max(own, self.last_after(job, now)) if own > EPSILON else 0.0
        return max(end for _, end in self._laid_out(self, self._slots.free(now), now)) - now

    def last_after(self, job: Job[W], now: float) -> float:
        """In how many seconds a job would be admitted even behind all of the line."""
        free = self.slots_after(now)
        late = self._prices.placed(free.copy(), job, now, now) - job.deadline
        then = self._prices.placed(free.copy(), job, now + max(0.0, late), now)
        return late if then <= job.deadline + late + EPSILON else max(free) - now

    def then_free(self, now: float) -> float:
        """When the first slot is free once all of the line is placed."""
        return self.slots_after(now)[0]

    def free_for_next(self, lead: float, now: float) -> float:
        """When the first slot is free for one more interactive job if the one that is free first is busy for `lead`."""
        free = self._slots.free(now, lead)
        for _ in self._laid_out(takewhile(lambda job: not job.is_batch, self._jobs), free, now):
            pass
        return free[0]

    def slots_after(self, now: float) -> list[float]:
        """A heap of when each slot is free once all of the line is placed."""
        if len(self._jobs) > CROWD:
            return [self._slots.all_free(now) + self._total / self._slots.number] * self._slots.number
        free = self._slots.free(now)
        for _ in self._laid_out(self, free, now):
            pass
        return free

    def _laid_out(self, jobs: Iterable[Job[W]], free: list[float], now: float) -> Iterator[tuple[Job[W], float]]:
        """Each job with when it is answered on slots that are `free` (a heap) from then on."""
        for job in jobs:
            yield job, self._prices.placed(free, job, now, now)

    # ---- a crowd ----

    def _late_in_crowd(
        self, loads: NDArray[np.float64], deadlines: NDArray[np.float64], lead: float, now: float
    ) -> NDArray[np.float64]:
        """By how much each job is late at most: it starts when the slots together have done what runs and all before
        it, for a list schedule leaves none idle (Graham 1969)."""
        before = np.cumsum(loads) - loads + lead
        late: NDArray[np.float64] = self._slots.mean_free(now) + before / self._slots.number + loads - deadlines
        return late

    def _delayed_in_crowd(self, lead: float, head: Job[W], views: Mapping[Job[W], int], now: float) -> bool:
        loads, deadlines = np.array(self._loads), np.array(self._deadlines)
        before = self._late_in_crowd(loads, deadlines, 0.0, now)
        left = loads.copy()
        for job in views or [head]:
            place = self._place(job)
            if place is not None:
                left[place] = self._prices.rest(job, job.handed + views[job], now) if views else job.load - lead
        after = self._late_in_crowd(left, deadlines, lead, now)
        return bool(np.any((left > 0) & (after > EPSILON) & (after > before + EPSILON)))

    def _refusal_in_crowd(self, job: Job[W], place: int, now: float) -> float:
        loads = np.insert(np.array(self._loads), place, job.load)
        deadlines = np.insert(np.array(self._deadlines), place, job.deadline)
        late = self._late_in_crowd(loads, deadlines, 0.0, now)
        if np.all(np.delete(late, place) <= EPSILON):
            own = float(late[place])
            return max(own, self.last_after(job, now)) if own > EPSILON else 0.0
        return self._slots.all_free(now) + self._total / self._slots.number - now
