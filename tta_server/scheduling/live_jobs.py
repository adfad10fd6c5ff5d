"""The live jobs of a pool, bounded in number and bytes. Pure."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from tta_server.errors import BudgetTooSmall, Overloaded, TooLarge
from tta_server.scheduling.estimates import EPSILON, Estimates, Slots
from tta_server.scheduling.jobs import Bounds, Job, Quote
from tta_server.scheduling.queue import EXACT_LIMIT

W = TypeVar("W")


class Queue(Protocol[W]):
    """The queued jobs, as the live jobs need them."""

    def add(self, job: Job[W]) -> None: ...

    def remove(self, job: Job[W]) -> None: ...

    def wait_behind_queue(self, job: Job[W], now: float) -> float:
        """Seconds until a job would be admitted behind the whole queue."""


class LiveJobs(ABC, Generic[W]):
    """The live jobs, and whether there is room and time for one more."""

    def __init__(self, estimates: Estimates, slots: Slots, queue: Queue[W], bounds: Bounds) -> None:
        self._estimates = estimates
        self._slots = slots
        self._jobs: dict[Job[W], None] = {}
        self._waiting = queue
        self._bounds = bounds
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
        self._waiting.add(job)

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
        together = self._seconds_together(jobs)
        late = now + together - jobs[0].deadline
        if late > jobs[0].reserve + EPSILON:
            raise BudgetTooSmall(
                f"the budget is too small: the {len(jobs)} images of this request take about "
                f"{math.ceil(together * 1e3)} ms together; give a budget of at least that, or send fewer at a time"
            )
        if late > 0:
            for job in jobs:
                job.deadline += job.reserve

    def remove(self, job: Job[W]) -> None:
        """Removes a job that is live."""
        del self._jobs[job]
        self.nbytes -= job.nbytes
        self._waiting.remove(job)

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
        seconds = max(EPSILON, room, self._wait(job, now), self._waiting.wait_behind_queue(job, now))
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

    @abstractmethod
    def group_wait(self, jobs: Sequence[Job[W]], now: float) -> float:
        """Seconds until these jobs would be admitted together behind the queue."""

    @abstractmethod
    def quote(self, job: Job[W], others: int, now: float) -> Quote:
        """What a job would get now if it shared the slots' idle time with `others` jobs whose optional views wait.

        Raises BudgetTooSmall and TooLarge as `admit` does.
        """

    @abstractmethod
    def _seconds_together(self, jobs: Sequence[Job[W]]) -> float:
        """Seconds until an idle pool has answered all of these jobs, at the lowest costs so far."""

    @abstractmethod
    def _wait(self, job: Job[W], now: float) -> float:
        """Seconds until the job would be admitted; 0 for now. An idle pool always admits."""

    def _current_wait(self, job: Job[W], now: float) -> float:
        """The same, also if there is no room. Raises BudgetTooSmall and TooLarge as `admit` does."""
        self._check_budget(job, now)
        try:
            self._check_room(job, now)
            return self._wait(job, now)
        except Overloaded as error:
            return error.retry_after
