"""What jobs cost, and the line of those whose mandatory work waits, laid out on the slots of a pool. Pure."""

import heapq
import math
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Generic, TypeVar

from tta_server.costs import CostModel
from tta_server.jobs import Job, Phase

W = TypeVar("W")
EPSILON = 1e-7
"""Seconds within which two times are the same."""


class Prices:
    """Upper estimates in seconds for what is left of a job. At `now` = infinity they are the warm-up's."""

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs

    def decoding(self, job: Job[W], now: float) -> float:
        return self.costs.stage_seconds("decode", job.model, job.pixels, now)

    def finishing(self, job: Job[W], now: float) -> float:
        return self.costs.stage_seconds("finish", job.model, job.pixels, now)

    def next_view(self, job: Job[W], now: float) -> float:
        return self.costs.seconds(job.next_bucket, 1, now)

    def batch(self, items: Sequence[tuple[Job[W], int]], now: float) -> float:
        """Until its slot is free again: the batch, and then the answers that it may complete."""
        job, view = items[0]
        answers = sum(self.finishing(job, now) for job in each_job(items))
        return self.costs.seconds(job.buckets[view], len(items), now) + answers

    def load(self, job: Job[W], views: int, now: float) -> float:
        """Seconds of one slot for what is left of a job up to that many views, and its answer."""
        left = sum(self.costs.seconds(bucket, 1, now) for bucket in job.buckets[job.handed : views])
        decoding = self.decoding(job, now) if job.phase is Phase.WAITING else 0.0
        return decoding + left + self.finishing(job, now)

    def alone(self, job: Job[W], slots: int) -> float:
        """What is left of its mandatory work on an idle pool, by warm-up costs."""
        return self.placed([0.0] * slots, job, 0.0, math.inf)

    def placed(self, free: list[float], job: Job[W], start: float, now: float) -> float:
        """When a job is answered if its mandatory work goes, from `start` on, to the slots that are free first.

        `free` is a heap of when each slot is, and is brought up to date.
        """
        if job.phase is Phase.WAITING:
            start = max(start, heapq.heappop(free)) + self.decoding(job, now)
            heapq.heappush(free, start)
        elif job.phase is Phase.DECODING:
            start = max(start, job.ready_at)
        end = start
        for view in range(job.handed, job.mandatory):
            done = max(start, heapq.heappop(free)) + self.costs.seconds(job.buckets[view], 1, now)
            if view == job.mandatory - 1:
                done = max(done, end) + self.finishing(job, now)
            heapq.heappush(free, done)
            end = max(end, done)
        return end


class Slots:
    """When each slot of a pool is expected to be free."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._busy: dict[int, float] = {}

    def take(self, slot: int, until: float) -> None:
        self._busy[slot] = until

    def release(self, slot: int) -> None:
        self._busy.pop(slot, None)

    @property
    def idle(self) -> int:
        return self.number - len(self._busy)

    def free(self, now: float, lead: float = 0.0) -> list[float]:
        """A heap, one time a slot; `lead` is added to the first."""
        times = [now] * self.idle + sorted(max(now, end) for end in self._busy.values())
        times[0] += lead
        heapq.heapify(times)
        return times

    def all_free(self, now: float) -> float:
        """When the last slot is free."""
        return max(now, max(self._busy.values(), default=now))


class Line(Generic[W]):
    """Jobs whose mandatory work waits, in deadline order; list scheduling says who would be late."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._entries: list[tuple[float, int, Job[W]]] = []
        self._sequence = count()
        self._load = 0.0

    def __iter__(self) -> Iterator[Job[W]]:
        return (job for _, _, job in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def join(self, job: Job[W]) -> None:
        insort(self._entries, (job.deadline, next(self._sequence), job))
        self._load += job.load

    def leave(self, job: Job[W]) -> None:
        for place, (_, _, other) in enumerate(self._entries):
            if other is job:
                del self._entries[place]
                self._load = self._load - job.load if self._entries else 0.0
                return

    def is_relaxed(self, start: float, more: float, deadline: float = math.inf) -> bool:
        """Whether one slot alone could do all of the line, and `more`, from `start` to the first deadline.

        Then nobody is late on any schedule, and there is no need to lay one out.
        """
        first = min(deadline, self._entries[0][0]) if self._entries else deadline
        return start + self._load + more <= first

    def is_delayed(self, slots: Slots, lead: float, beside: Job[W], now: float) -> bool:
        """Whether somebody but `beside` would miss if the slot that is free first were busy for `lead` before, and
        would not miss otherwise."""
        others = [job for job in self if job is not beside]
        after = self._laid_out(others, slots.free(now, lead), now)
        missing = [(job, end) for job, end in after if end > job.deadline + EPSILON]
        if not missing:
            return False
        before = dict(self._laid_out(others, slots.free(now), now))
        return any(before[job] <= job.deadline + EPSILON for job, _ in missing)

    def refusal(self, job: Job[W], slots: Slots, now: float) -> float:
        """In how many seconds a job would be admitted; 0 for at once.

        Where only the job itself would be late, it is to come that much later; where it would make another late, when
        all that waits now is done.
        """
        order = sorted([*self, job], key=lambda job: job.deadline)  # stable: behind its equals
        late = {other: end - other.deadline for other, end in self._laid_out(order, slots.free(now), now)}
        own = late.pop(job)
        if all(seconds <= EPSILON for seconds in late.values()):
            return own if own > EPSILON else 0.0
        return max(end for _, end in self._laid_out(self, slots.free(now), now)) - now

    def then_free(self, free: list[float], now: float) -> float:
        """When the first slot is free once all of the line is placed."""
        for _ in self._laid_out(self, free, now):
            pass
        return free[0]

    def _laid_out(self, jobs: Iterable[Job[W]], free: list[float], now: float) -> Iterator[tuple[Job[W], float]]:
        """Each job with when it is answered on slots that are `free` (a heap) from then on."""
        for job in jobs:
            yield job, self._prices.placed(free, job, now, now)


def each_job(items: Sequence[tuple[Job[W], int]]) -> Iterable[Job[W]]:
    """Those that have views in a batch, each once."""
    return [items[0][0]] if len(items) == 1 else dict.fromkeys(job for job, _ in items)
