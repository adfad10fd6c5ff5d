"""What is left of jobs costs, and when the slots of a pool are free to do it. Pure."""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tta_server.costs import CostModel
from tta_server.jobs import Job, Phase

W = TypeVar("W")
EPSILON = 1e-7
"""Seconds within which two times are the same."""


class Prices:
    """Upper estimates in seconds for what is left of a job. At `now` = infinity they are the least that are known."""

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs

    def decoding(self, job: Job[W], now: float) -> float:
        return self.costs.stage_seconds("decode", job.model, job.pixels, now)

    def finishing(self, job: Job[W], now: float) -> float:
        return self.costs.stage_seconds(job.finish, job.model, job.pixels, now)

    def next_view(self, job: Job[W], now: float) -> float:
        return self.costs.seconds(job.next_bucket, 1, now)

    def batch(self, items: Sequence[tuple[Job[W], int]], now: float) -> float:
        """Until its slot is free again: the batch, and then the answers that it may complete."""
        job, view = items[0]
        last_views = dict(items).items()
        answers = sum(self.finishing(job, now) for job, last in last_views if last + 1 >= job.mandatory)
        return self.costs.seconds(job.buckets[view], len(items), now) + answers

    def views(self, job: Job[W], first: int, end: int, now: float) -> Iterator[float]:
        """Seconds of each batch that a job's own views from `first` to before `end` fill, up to the knee."""
        while first < end:
            bucket, n, knee = job.buckets[first], 1, self.costs.knee(job.buckets[first])
            while n < knee and first + n < end and job.buckets[first + n] == bucket:
                n += 1
            yield self.costs.seconds(bucket, n, now)
            first += n

    def load(self, job: Job[W], views: int, now: float) -> float:
        """Seconds of one slot for what is left of a job up to that many views, and its answer."""
        decoding = self.decoding(job, now) if job.phase is Phase.WAITING else 0.0
        return decoding + sum(self.views(job, job.handed, views, now)) + self.finishing(job, now)

    def alone(self, job: Job[W], slots: int) -> float:
        """What is left of its mandatory work on an idle pool, by the least costs that are known."""
        return self.placed([0.0] * slots, job, 0.0, math.inf)

    def decoded(self, free: list[float], job: Job[W], start: float, now: float) -> float:
        """When its image is decoded, by the slot that is free first from `start` on."""
        if job.phase is Phase.DECODING:
            return max(start, job.ready_at)
        return put(free, start, self.decoding(job, now)) if job.phase is Phase.WAITING else start

    def placed(self, free: list[float], job: Job[W], start: float, now: float) -> float:
        """When a job is answered if its mandatory work goes, from `start` on, to the slots that are free first.

        `free` is a heap of when each slot is, and is brought up to date.
        """
        return self.viewed(free, job, job.handed, self.decoded(free, job, start, now), now)

    def viewed(self, free: list[float], job: Job[W], first: int, start: float, now: float) -> float:
        """The same from a view on, its image decoded at `start`."""
        end = start
        batches = list(self.views(job, first, job.mandatory, now))
        for number, seconds in enumerate(batches, 1):
            done = max(start, heapq.heappop(free)) + seconds
            if number == len(batches):
                done = max(done, end) + self.finishing(job, now)
            heapq.heappush(free, done)
            end = max(end, done)
        return end


def put(free: list[float], start: float, seconds: float) -> float:
    """When a piece of work is done that goes, from `start` on, to the slot that is free first; `free` is a heap."""
    end = max(start, heapq.heappop(free)) + seconds
    heapq.heappush(free, end)
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
        times = [now] * self.idle + sorted(_expected(end, now) for end in self._busy.values())
        times[0] += lead
        heapq.heapify(times)
        return times

    def mean_free(self, now: float) -> float:
        """When they would be free if they shared what runs."""
        return sum(self.free(now)) / self.number

    def all_free(self, now: float) -> float:
        """When the last slot is free."""
        return max((_expected(end, now) for end in self._busy.values()), default=now)


def _expected(end: float, now: float) -> float:
    """A slot that is late already is expected to be late by as much again."""
    return end if end > now else now + (now - end)


def each_job(items: Sequence[tuple[Job[W], int]]) -> Iterable[Job[W]]:
    """Those that have views in a batch, each once."""
    return [items[0][0]] if len(items) == 1 else dict.fromkeys(job for job, _ in items)
