"""What is left of jobs costs, and when the slots of a pool are free to do it. Pure."""

import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice, repeat
from typing import Generic, TypeVar

from tta_server.scheduling.costs import CostModel
from tta_server.scheduling.jobs import Job, Phase

W = TypeVar("W")
EPSILON = 1e-7
"""Seconds within which two times are the same."""


class Estimates:
    """Upper estimates in seconds for what is left of a job. At `now` = infinity they are the least that are known."""

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs

    def decoding(self, job: Job[W], now: float) -> float:
        return self.costs.stage_seconds("decode", job.model, job.pixels, now)

    def finishing(self, job: Job[W], now: float) -> float:
        return self.costs.stage_seconds(job.finish, job.model, job.pixels, now)

    def next_view(self, job: Job[W], now: float) -> float:
        return self.costs.seconds(job.next_bucket, 1, now)

    def next_step(self, job: Job[W], items: Sequence[tuple[Job[W], int]], now: float) -> "Occupancy[W]":
        """Of these views as one batch; if there are none, of the job's answer or the decoding of its image."""
        if items:
            return self._batch(items, now)
        if job.mandatory_dispatched:
            return Occupancy(self.finishing(job, now), {job: 0})
        return Occupancy(self.decoding(job, now), {})

    def _batch(self, items: Sequence[tuple[Job[W], int]], now: float) -> "Occupancy[W]":
        """An answer that it may complete is made by its slot, or, where another batch with mandatory views of the job
        ends later, by the slot of that one."""
        bucket, views = items[0][0].next_bucket, Counter(job for job, _ in items)
        seconds = busy = self.costs.seconds(bucket, len(items), now)
        elsewhere: dict[int, float] = {}
        for job, count in views.items():
            if job.dispatched + count < job.mandatory:
                continue
            answer = self.finishing(job, now)
            if job.running and not job.mandatory_dispatched and job.last_end > now + seconds:
                elsewhere[job.last_slot] = elsewhere.get(job.last_slot, 0.0) + answer
            else:
                busy += answer
        return Occupancy(busy, views, seconds, elsewhere)

    def views(self, job: Job[W], first: int, end: int, now: float) -> Iterator[float]:
        """Seconds of each batch that a job's own views from `first` to before `end` fill, up to the knee."""
        for seconds, batches in self.runs(job, first, end, now):
            yield from repeat(seconds, batches)

    def runs(self, job: Job[W], first: int, end: int, now: float) -> Iterator[tuple[float, int]]:
        """The same as (seconds of one batch, number of such batches): views of one bucket that follow one another, such
        as an image's tiles, are priced once."""
        if end - first == 1:
            yield self.costs.seconds(job.buckets[first], 1, now), 1
            return
        for bucket, views in groupby(islice(job.buckets, first, end)):
            knee = self.costs.knee(bucket)
            batches, rest = divmod(sum(1 for _ in views), knee)
            if batches:
                yield self.costs.seconds(bucket, knee, now), batches
            if rest:
                yield self.costs.seconds(bucket, rest, now), 1

    def load(self, job: Job[W], views: int, now: float) -> float:
        """Seconds of one slot for what is left of a job up to that many views, and its answer."""
        decoding = self.decoding(job, now) if job.phase is Phase.WAITING else 0.0
        return decoding + sum(self.views(job, job.dispatched, views, now)) + self.finishing(job, now)

    def rest(self, job: Job[W], first: int, now: float) -> float:
        """Seconds of one slot for its mandatory views from `first` on, and its answer; 0 if there are none."""
        views = sum(self.views(job, first, job.mandatory, now))
        return views + self.finishing(job, now) if first < job.mandatory else 0.0

    def alone(self, job: Job[W], slots: int) -> float:
        """What is left of its mandatory work on an idle pool, by the least costs that are known."""
        return self.schedule_job([0.0] * slots, job, 0.0, math.inf)

    def schedule_decode(self, free: list[float], job: Job[W], start: float, now: float) -> float:
        """When its image is decoded, by the slot that is free first from `start` on."""
        if job.phase is Phase.DECODING:
            return max(start, job.ready_at)
        return assign(free, start, self.decoding(job, now)) if job.phase is Phase.WAITING else start

    def schedule_job(self, free: list[float], job: Job[W], start: float, now: float) -> float:
        """When a job is answered if its mandatory work goes, from `start` on, to the slots that are free first.

        `free` has when each slot is, in order, and is brought up to date.
        """
        return self.schedule_views(free, job, job.dispatched, self.schedule_decode(free, job, start, now), now)

    def schedule_views(
        self, free: list[float], job: Job[W], first: int, start: float, now: float, running_until: float = 0.0
    ) -> float:
        """The same from a view on, its image decoded at `start`. Views of it that run already are waited for, but not
        on an idle pool. Where no mandatory view is left, its answer goes to the slot that is free first."""
        if first >= job.mandatory:
            return assign(free, start, self.finishing(job, now))
        end = max(start, job.last_end, running_until) if job.running and now < math.inf else max(start, running_until)
        for seconds, batches in self.runs(job, first, job.mandatory, now):
            end = max(end, assign_all(free, start, seconds, batches))
        return schedule_answer(free, end, self.finishing(job, now))


@dataclass(frozen=True, slots=True)
class Occupancy(Generic[W]):
    """What a step takes of the slots, in seconds: `busy`, its own slot with the answers that it may make; `views`, how
    many views of each job (none of a job whose answer it is); `seconds`, until these are done; `elsewhere`, answers
    that other slots make after what they run now."""

    busy: float
    views: Mapping[Job[W], int]
    seconds: float = 0.0
    elsewhere: Mapping[int, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return self.busy + sum(self.elsewhere.values())


def assign(free: list[float], start: float, seconds: float) -> float:
    """When a piece of work is done, from `start` on.

    It goes to the slot that is free last before `start`, so that none stands idle, or else to the one that is free
    first; `free` is in order.
    """
    slot = max(0, bisect_right(free, start) - 1)
    end = max(start, free.pop(slot)) + seconds
    insort(free, end)
    return end


def assign_all(free: list[float], start: float, seconds: float, number: int) -> float:
    """When the last of that many equal pieces is done, each put where `assign` puts it, one after the other.

    Once no slot stands idle before `start` and no two differ by more than one piece, the slots take turns: whole turns
    need not be put piece by piece.
    """
    end = start
    while number:
        if number >= 2 * len(free) and free[0] >= start and free[-1] - free[0] <= seconds:
            turns = number // len(free) - 1
            free[:] = [time + turns * seconds for time in free]
            number -= turns * len(free)
        end = max(end, assign(free, start, seconds))
        number -= 1
    return end


def schedule_answer(free: list[float], end: float, seconds: float) -> float:
    """When an answer is made whose last view ends at `end`: by that slot, before whatever else is to run there."""
    slot = min(bisect_left(free, end), len(free) - 1)
    insort(free, free.pop(slot) + seconds)
    return end + seconds


class Slots:
    """When each slot of a pool is expected to be free."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._busy: dict[int, float] = {}

    def take(self, slot: int, until: float) -> None:
        self._busy[slot] = until

    def delay(self, slot: int, seconds: float) -> None:
        """A slot that is busy has more to do after it."""
        if slot in self._busy:
            self._busy[slot] += seconds

    def release(self, slot: int) -> None:
        self._busy.pop(slot, None)

    @property
    def idle(self) -> int:
        return self.number - len(self._busy)

    def free(self, now: float, step: "Occupancy[W] | None" = None) -> list[float]:
        """One time a slot, in order; if the one that is free first did this step."""
        if step is None:
            times = [now] * self.idle + [_expected(end, now) for end in self._busy.values()]
            times.sort()
            return times
        more = step.elsewhere
        times = [now] * self.idle + sorted(
            _expected(end, now) + more.get(slot, 0.0) for slot, end in self._busy.items()
        )
        times[0] += step.busy
        times.sort()
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
