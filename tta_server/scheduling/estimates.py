"""What the remaining work of jobs costs, and when the slots of a pool are free to do it. Pure."""

import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice, repeat
from typing import Generic, TypeVar

from tta_server.scheduling.costs import Bucket, CostModel
from tta_server.scheduling.jobs import Job, Phase

W = TypeVar("W")
EPSILON = 1e-7
"""Seconds within which two times are the same."""
STALL_SECONDS = 0.25
"""A stall of the machine is hardly ever longer."""


class Estimates:
    """Upper estimates in seconds for the remaining work of a job; the lowest estimates so far at `now` = infinity."""

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs

    def batch(self, bucket: Bucket, n: int, now: float) -> float:
        """Seconds of a batch of n views."""
        return self.costs.seconds(bucket, n, now)

    def decoding(self, job: Job[W], now: float) -> float:
        """Seconds to decode a job's image."""
        return self.costs.stage_seconds("decode", job.model, job.pixels, now)

    def finishing(self, job: Job[W], now: float) -> float:
        """Seconds to make a job's answer."""
        return self.costs.stage_seconds(job.finish, job.model, job.pixels, now)

    def next_view(self, job: Job[W], now: float) -> float:
        """Seconds of a job's next view as a batch of its own."""
        return self.batch(job.next_bucket, 1, now)

    def next_step(self, job: Job[W], items: Sequence[tuple[Job[W], int]], now: float) -> "Occupancy[W]":
        """The occupancy of these views as one batch; without any, of the job's answer or its decoding."""
        if items:
            return self._batch(items, now)
        if job.mandatory_dispatched:
            return Occupancy(self.finishing(job, now), {job: 0})
        return Occupancy(self.decoding(job, now), {})

    def _batch(self, items: Sequence[tuple[Job[W], int]], now: float) -> "Occupancy[W]":
        """The batch's slot also makes the answers that the batch may complete.

        If another batch with mandatory views of such a job ends later, that batch's slot makes the answer.
        """
        bucket, views = items[0][0].next_bucket, Counter(job for job, _ in items)
        seconds = busy = self.batch(bucket, len(items), now)
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
        """The same as (seconds of one batch, number of such batches): views in a row of one bucket are priced once."""
        if end - first == 1:
            yield self.batch(job.buckets[first], 1, now), 1
            return
        for bucket, n, batches in self.groups(job, first, end):
            yield self.batch(bucket, n, now), batches

    def groups(self, job: Job[W], first: int, end: int) -> Iterator[tuple[Bucket, int, int]]:
        """The same as (bucket, views of one batch, number of such batches)."""
        for bucket, views in groupby(islice(job.buckets, first, end)):
            knee = self.costs.knee(bucket)
            batches, rest = divmod(sum(1 for _ in views), knee)
            if batches:
                yield bucket, knee, batches
            if rest:
                yield bucket, rest, 1

    def load(self, job: Job[W], views: int, now: float) -> float:
        """Slot seconds for the remaining work of a job up to that many views, and its answer."""
        decoding = self.decoding(job, now) if job.phase is Phase.WAITING else 0.0
        return decoding + sum(self.views(job, job.dispatched, views, now)) + self.finishing(job, now)

    def remaining_mandatory(self, job: Job[W], first: int, now: float) -> float:
        """Slot seconds for the mandatory views from `first` on and the answer; 0 without such views."""
        views = sum(self.views(job, first, job.mandatory, now))
        return views + self.finishing(job, now) if first < job.mandatory else 0.0

    def on_idle_pool(self, job: Job[W], slots: int) -> float:
        """Seconds until an idle pool has done the remaining mandatory work, at the lowest costs so far."""
        return self.schedule_job([0.0] * slots, job, 0.0, math.inf)

    def schedule_decode(self, free: list[float], job: Job[W], start: float, now: float) -> float:
        """When the image is decoded if the slot that is free first does it from `start` on."""
        if job.phase is Phase.DECODING:
            return max(start, job.ready_at)
        return assign(free, start, self.decoding(job, now)) if job.phase is Phase.WAITING else start

    def schedule_job(self, free: list[float], job: Job[W], start: float, now: float) -> float:
        """When a job is answered if the slots that are free first do its mandatory work from `start` on.

        `free` has the time at which each slot is free, in ascending order, and is updated.
        """
        return self.schedule_views(free, job, job.dispatched, self.schedule_decode(free, job, start, now), now)

    def schedule_views(
        self, free: list[float], job: Job[W], first: int, start: float, now: float, running_until: float = 0.0
    ) -> float:
        """The same from view `first` on, with the image decoded at `start`.

        The answer waits for views that run already, except on an idle pool (`now` = infinity). If no mandatory view is
        left, the slot that is free first makes the answer.
        """
        if first >= job.mandatory:
            return assign(free, start, self.finishing(job, now))
        end = max(start, job.last_end, running_until) if job.running and now < math.inf else max(start, running_until)
        for seconds, batches in self.runs(job, first, job.mandatory, now):
            end = max(end, assign_all(free, start, seconds, batches))
        return schedule_answer(free, end, self.finishing(job, now))


@dataclass(frozen=True, slots=True)
class Occupancy(Generic[W]):
    """How long a step keeps slots busy, in seconds.

    `busy` is the time of its own slot, including answers that the slot may make; `seconds` the time until its views are
    done; `elsewhere` the time of answers that other slots make after their current step, by slot. `views` counts the
    views of each job in the step, 0 for a job whose answer it makes. `variance` is that of `busy`, in seconds squared.
    """

    busy: float
    views: Mapping[Job[W], int]
    seconds: float = 0.0
    elsewhere: Mapping[int, float] = field(default_factory=dict)
    variance: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of all slots together."""
        return self.busy + sum(self.elsewhere.values())


def assign(free: list[float], start: float, seconds: float) -> float:
    """When work that may begin at `start` is done; updates `free`, which is in ascending order.

    The work goes to the slot that becomes free last before `start`, so that the least time is idle, or else to the slot
    that is free first.
    """
    slot = max(0, bisect_right(free, start) - 1)
    end = max(start, free.pop(slot)) + seconds
    insort(free, end)
    return end


def assign_all(free: list[float], start: float, seconds: float, number: int) -> float:
    """When the last of `number` equal pieces of work is done, if `assign` places them one after the other.

    Once no slot is idle before `start` and no two slots differ by more than one piece, the slots take turns, and whole
    turns are added at once.
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
    """When an answer is made if the slot that ends its last view, at `end`, makes it before any other work."""
    slot = min(bisect_left(free, end), len(free) - 1)
    insort(free, free.pop(slot) + seconds)
    return end + seconds


class Slots:
    """When each slot of a pool is expected to be free."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._busy: dict[int, float] = {}
        self._longest: dict[int, float] = {}

    def take(self, slot: int, until: float, longest: float = math.inf) -> None:
        """A slot is expected to be busy until then; past that time, for at most `longest` seconds more."""
        self._busy[slot] = until
        self._longest[slot] = longest

    def delay(self, slot: int, seconds: float) -> None:
        """A busy slot has that much more work; an idle slot is left as it is."""
        if slot in self._busy:
            self._busy[slot] += seconds

    def release(self, slot: int) -> None:
        self._busy.pop(slot, None)

    @property
    def idle(self) -> int:
        """The number of idle slots."""
        return self.number - len(self._busy)

    def free(self, now: float, step: "Occupancy[W] | None" = None) -> list[float]:
        """The time at which each slot is free, in ascending order, if the slot that is free first did this step."""
        if step is None:
            times = [now] * self.idle + [self._expected_end(slot, now) for slot in self._busy]
            times.sort()
            return times
        more = step.elsewhere
        times = [now] * self.idle + sorted(self._expected_end(slot, now) + more.get(slot, 0.0) for slot in self._busy)
        times[0] += step.busy
        times.sort()
        return times

    def free_at(self, slot: int, now: float) -> float:
        """When a slot is expected to be free."""
        return self._expected_end(slot, now) if slot in self._busy else now

    def first_free(self, now: float) -> float:
        """When the first slot is free."""
        return now if self.idle else min(self._expected_end(slot, now) for slot in self._busy)

    def mean_free(self, now: float) -> float:
        """When all slots would be free if they shared the running work equally."""
        return sum(self.free(now)) / self.number

    def all_free(self, now: float) -> float:
        """When the last slot is free."""
        return max((self._expected_end(slot, now) for slot in self._busy), default=now)

    def _expected_end(self, slot: int, now: float) -> float:
        """A slot past its expected end is expected to take as long again as it is late.

        Up to STALL_SECONDS a stall of the machine is the likely reason; it is over when this is asked, and `longest` is
        left at most.
        """
        end = self._busy[slot]
        if end > now:
            return end
        late = now - end
        return now + (min(late, self._longest[slot]) if late < STALL_SECONDS else late)


def each_job(items: Sequence[tuple[Job[W], int]]) -> Iterable[Job[W]]:
    """The jobs that have views in a batch, each once."""
    return [items[0][0]] if len(items) == 1 else dict.fromkeys(job for job, _ in items)
