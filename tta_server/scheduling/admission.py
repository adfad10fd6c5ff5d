"""The live jobs of a pool, and whether there is room and time for one more. Pure."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Generic, TypeVar

from tta_server.errors import BudgetTooSmall, Overloaded, TooLarge
from tta_server.scheduling.estimates import EPSILON, Estimates, Slots, assign, assign_all
from tta_server.scheduling.jobs import Bounds, Job, Quote
from tta_server.scheduling.queue import EXACT_LIMIT, MandatoryQueue

W = TypeVar("W")


class Admission(Generic[W]):
    """The live jobs, bounded in number and bytes."""

    def __init__(self, estimates: Estimates, slots: Slots, queue: MandatoryQueue[W], bounds: Bounds) -> None:
        self._estimates = estimates
        self._slots = slots
        self._queue = queue
        self._bounds = bounds
        self._jobs: dict[Job[W], None] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job[W]]:
        return iter(self._jobs)

    def __contains__(self, job: Job[W]) -> bool:
        return job in self._jobs

    def admit(self, job: Job[W], now: float) -> None:
        """Adds a job to the live jobs and to the queue. Raises Overloaded, BudgetTooSmall or TooLarge."""
        self._check_budget(job, now)
        self._check_room(job, now)
        if seconds := self._wait(job, now):
            raise Overloaded("the server is busy: this image would be answered too late", seconds, "time")
        self._jobs[job] = None
        self.nbytes += job.nbytes
        self._queue.add(job)

    def check_group(self, jobs: Sequence[Job[W]], now: float) -> None:
        """Raises TooLarge or BudgetTooSmall if an idle pool could not admit these jobs, of one deadline, together."""
        nbytes = sum(job.nbytes for job in jobs)
        if len(jobs) > self._bounds.jobs:
            raise TooLarge(f"the request has {len(jobs)} images; at most {self._bounds.jobs} may wait (--max-waiting)")
        if nbytes > self._bounds.nbytes:
            raise TooLarge(
                f"the images need {nbytes} bytes while they wait; at most {self._bounds.nbytes} are allowed "
                "(--max-waiting-mb)"
            )
        free = [0.0] * self._slots.number
        together = max(self._estimates.schedule_job(free, job, 0.0, math.inf) for job in jobs)
        late = now + together - jobs[0].deadline
        if late > jobs[0].reserve + EPSILON:
            raise BudgetTooSmall(
                f"the budget is too small: the {len(jobs)} images of this request take about "
                f"{math.ceil(together * 1e3)} ms together; give a budget of at least that, or send fewer at a time"
            )
        if late > 0:
            for job in jobs:
                job.deadline += job.reserve

    def group_wait(self, jobs: Sequence[Job[W]], now: float) -> float:
        """Seconds until these jobs would be admitted together behind the queue."""
        free = self._queue.slots_after(now)
        return max(self._estimates.schedule_job(free, job, now, now) - job.deadline for job in jobs)

    def remove(self, job: Job[W]) -> None:
        """Removes a job that is live."""
        del self._jobs[job]
        self.nbytes -= job.nbytes
        self._queue.remove(job)

    def _check_budget(self, job: Job[W], now: float) -> None:
        """Raises BudgetTooSmall if an idle pool could not do the mandatory work in time.

        If it only fits without the protocol's reserve, the reserve is given back to the deadline.
        """
        alone = self._estimates.on_idle_pool(job, self._slots.number)
        if now + alone > job.deadline + job.reserve + EPSILON:
            views = job.mandatory // job.tiles
            tiles = f" in {job.tiles} tiles" if job.tiles > 1 else ""
            raise BudgetTooSmall(
                f"the budget is too small: {views} view{'s' * (views > 1)}{tiles} of {job.model} for this image "
                f"take{'s' * (views == 1)} about {math.ceil(alone * 1e3)} ms; give a budget of at least that"
            )
        if now + alone > job.deadline:
            job.deadline += job.reserve

    def _check_room(self, job: Job[W], now: float) -> None:
        if job.nbytes > self._bounds.nbytes:
            raise TooLarge(
                f"the image needs {job.nbytes} bytes while it waits; at most {self._bounds.nbytes} are allowed "
                "(--max-waiting-mb)"
            )
        spare = self._bounds.nbytes - job.nbytes - self.nbytes
        if len(self._jobs) < self._bounds.jobs and spare >= 0:
            return
        reason = "jobs" if spare >= 0 else "bytes"
        room = self._room_at(spare, now) - now
        seconds = max(room, self._wait(job, now), self._queue.wait_behind_queue(job, now))
        raise Overloaded("the server is busy: too many images are waiting", seconds, reason)

    def _room_at(self, spare: int, now: float) -> float:
        """The latest time at which enough jobs are answered for one more.

        It is the last of these jobs' deadlines, or the time at which one slot alone would have done all work.
        """
        done = math.inf
        if len(self._jobs) <= EXACT_LIMIT:
            loads = (self._estimates.load(job, len(job.buckets), now) for job in self._jobs)
            done = self._slots.all_free(now) + sum(loads)
        for job in sorted(self._jobs, key=lambda job: job.deadline):
            spare += job.nbytes
            if spare >= 0:
                return min(job.deadline, done)
        return done

    def _wait(self, job: Job[W], now: float) -> float:
        """Seconds until the job would be admitted; 0 for now. An idle pool always admits."""
        job.load = self._queue.mandatory_seconds(job, now)
        idle = not self._jobs and self._slots.idle == self._slots.number
        if idle or self._queue.trivially_feasible(job.load, now, job.deadline):
            return 0.0
        return self._queue.retry_after(job, now)

    def quote(self, job: Job[W], others: int, now: float) -> Quote:
        """What a job would get now if it shared the slots' idle time with `others` jobs whose optional views wait.

        Raises BudgetTooSmall and TooLarge as `admit` does.
        """
        self._check_budget(job, now)
        try:
            self._check_room(job, now)
            wait = self._wait(job, now)
        except Overloaded as error:
            wait = error.retry_after
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
