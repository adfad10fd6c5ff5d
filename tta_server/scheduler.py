"""Decides what each free slot of a pool runs next, who is admitted, and when a job is answered.

Pure: no clock, no I/O, no threads; time is an argument, in seconds. The shell (`engine`) calls it under a lock.
"""

import heapq
import math
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count, islice, takewhile
from typing import Generic, TypeVar

from tta_server.costs import Bucket, CostModel
from tta_server.errors import (
    BackendFailed,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    TooLarge,
    TTAError,
)
from tta_server.stopping import StopReason

W = TypeVar("W")
LAST = 1 << 62
"""Comes after every sequence number."""
EPSILON = 1e-7
"""Seconds within which two times are the same."""


class Phase(Enum):
    WAITING = auto()
    DECODING = auto()
    READY = auto()


class Outcome(Enum):
    """What became of one view of a batch; a StopReason means merged, and no more views are needed."""

    MERGED = auto()
    LOST = auto()


@dataclass(eq=False, slots=True)
class Job(Generic[W]):
    """One image of one request; `buckets` has one entry a view, in policy order. The rest is the scheduler's."""

    work: W
    model: str
    buckets: tuple[Bucket, ...]
    mandatory: int
    deadline: float
    pixels: int
    nbytes: int = 0
    phase: Phase = Phase.WAITING
    handed: int = 0
    running: int = 0
    merged: int = 0
    mandatory_merged: int = 0
    lost: int = 0
    load: float = 0.0
    ready_at: float = 0.0
    due_at: float = math.inf

    @property
    def next_bucket(self) -> Bucket:
        return self.buckets[self.handed]

    @property
    def all_handed(self) -> bool:
        return self.handed == len(self.buckets)

    @property
    def mandatory_handed(self) -> bool:
        return self.handed >= self.mandatory

    @property
    def answerable(self) -> bool:
        """True once every mandatory view is merged; optional ones may come back before them."""
        return self.mandatory_merged >= self.mandatory


@dataclass(frozen=True, slots=True)
class Decode(Generic[W]):
    """A slot decodes a job's image."""

    slot: int
    job: Job[W]


@dataclass(frozen=True, slots=True)
class Batch(Generic[W]):
    """A slot runs views of one bucket: (job, index of the view) in order."""

    slot: int
    bucket: Bucket
    items: tuple[tuple[Job[W], int], ...]


@dataclass(frozen=True, slots=True)
class Finished(Generic[W]):
    """A job that is to be answered now: with what is merged and a reason, or with an error."""

    job: Job[W]
    outcome: StopReason | TTAError


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait in a pool."""

    jobs: int = 1024
    nbytes: int = 1_000_000_000


@dataclass(slots=True)
class Scheduler(Generic[W]):
    """One a pool of `slots` equal slots."""

    costs: CostModel
    slots: int
    bounds: Bounds = field(default_factory=Bounds)
    _jobs: dict[Job[W], None] = field(default_factory=dict)
    _line: list[tuple[float, int, Job[W]]] = field(default_factory=list)
    _open: dict[Job[W], None] = field(default_factory=dict)
    _busy: dict[int, float] = field(default_factory=dict)
    _sequence: Iterator[int] = field(default_factory=count)
    _waiting: float = 0.0

    # ---- coming and going ----

    def admit(self, job: Job[W], now: float) -> None:
        """Raises Overloaded; InvalidInput for a budget that even an idle pool could not keep; TooLarge for an image
        that does not fit among those that wait."""
        alone = self._placed([0.0] * self.slots, job, 0.0, math.inf)
        if now + alone > job.deadline + EPSILON:
            raise InvalidInput(
                f"the budget is too small: {job.mandatory} view{'s' * (job.mandatory > 1)} of {job.model} for this "
                f"image take about {math.ceil(alone * 1e3)} ms; give budget_ms at least that"
            )
        self._check_room(job, now)
        job.load = self._load(job, job.mandatory, now)
        if (self._jobs or self._busy) and not self._relaxed(now, job.load, job.deadline):
            seconds = self._refusal(job, now)
            if seconds > 0:
                raise Overloaded("the server is busy: this image would be answered too late", seconds)
        self._jobs[job] = None
        self._waiting += job.load
        insort(self._line, (job.deadline, next(self._sequence), job))
        self._set_due(job, now)

    def _check_room(self, job: Job[W], now: float) -> None:
        if job.nbytes > self.bounds.nbytes:
            raise TooLarge(
                f"the image would need {job.nbytes} bytes while it waits; all together may take {self.bounds.nbytes}"
            )
        spare = self.bounds.nbytes - job.nbytes - sum(other.nbytes for other in self._jobs)
        if len(self._jobs) < self.bounds.jobs and spare >= 0:
            return
        raise Overloaded("the server is busy: too many images are waiting", self._room_at(spare, now) - now)

    def _room_at(self, spare: int, now: float) -> float:
        """When enough is answered for one more: at the latest at their deadlines, or when one slot had done it all."""
        busy = max(self._busy.values(), default=now)
        work = sum(self._load(job, len(job.buckets), now) for job in self._jobs)
        for job in sorted(self._jobs, key=lambda job: job.deadline):
            spare += job.nbytes
            if spare >= 0:
                return min(job.deadline, max(now, busy) + work)
        return max(now, busy) + work

    def ready(self, decode: Decode[W], seconds: float, now: float) -> None:
        """Its image is decoded: its views may run."""
        job = decode.job
        self._busy.pop(decode.slot, None)
        self.costs.observe_stage("decode", job.model, job.pixels, seconds, now)
        job.phase = Phase.READY
        if job in self._jobs:
            self._set_due(job, now)

    def cancel(self, job: Job[W], now: float) -> list[Finished[W]]:
        """Its client has left; a batch that still runs for it is ignored on return."""
        return self._finish(job, Cancelled("the client has left"))

    def drop_all(self, error: TTAError) -> list[Finished[W]]:
        """Everything that is live, with the same error."""
        return [done for job in list(self._jobs) for done in self._finish(job, error)]

    def __len__(self) -> int:
        """How many jobs are live."""
        return len(self._jobs)

    # ---- what a free slot does next ----

    def next_batch(self, slot: int, now: float) -> Decode[W] | Batch[W] | None:
        """Mandatory work in deadline order, then optional views that end in time; None when there is nothing.

        While a job ahead is being decoded, whatever is not done by the time it needs this slot has to wait for it.
        """
        self._busy.pop(slot, None)
        passed = False
        for _, _, job in self._line:
            if job.phase is Phase.DECODING:
                passed = True
            elif job.phase is Phase.WAITING:
                if not passed or self._spare(self._decoding(job, now), job, now):
                    return self._decode(slot, job, now)
            else:
                items = self._fill(job, now)
                if not passed or self._spare(self._batch_seconds(items, now), job, now):
                    return self._run(slot, items, now)
        return self._optional(slot, now)

    def _optional(self, slot: int, now: float) -> Batch[W] | None:
        eligible = [job for job in self._open if self._in_time(job, now)]
        if not eligible:
            return None
        head = min(eligible, key=lambda job: (job.handed, job.deadline))
        items = self._fill(head, now)
        if self._line and not self._spare(self._batch_seconds(items, now), head, now):
            return None
        return self._run(slot, items, now)

    def _decode(self, slot: int, job: Job[W], now: float) -> Decode[W]:
        job.phase = Phase.DECODING
        job.ready_at = self._busy[slot] = now + self._decoding(job, now)
        self._set_due(job, now)
        return Decode(slot, job)

    def _fill(self, head: Job[W], now: float) -> list[tuple[Job[W], int]]:
        """A batch around the head's next view: its own views, mandatory ones, optional ones; shorter by halves while
        it would make itself or anybody in the line late."""
        bucket = head.next_bucket
        limit = self.costs.knee(bucket)
        items = [(head, head.handed)]
        if limit == 1:
            return items
        others = (job for _, _, job in self._line)
        for job in dict.fromkeys([head, *others, *self._open]):
            if len(items) == limit:
                break
            if job.phase is Phase.READY:
                items += self._riders(job, head, bucket, limit - len(items))
        while len(items) > 1 and not self._harmless(items, now):
            del items[len(items) // 2 :]
        return items

    def _riders(self, job: Job[W], head: Job[W], bucket: Bucket, room: int) -> list[tuple[Job[W], int]]:
        """A job's next views of this bucket. The head leaves idle slots their share of its views."""
        first = job.handed + (job is head)
        if job is head:
            idle = max(0, self.slots - len(self._busy) - 1)
            room = min(room, -(-(len(job.buckets) - job.handed) // (idle + 1)) - 1)
        same = takewhile(lambda view: job.buckets[view] == bucket, range(first, len(job.buckets)))
        return [(job, view) for view in islice(same, room)]

    def _harmless(self, items: Sequence[tuple[Job[W], int]], now: float) -> bool:
        lead = self._batch_seconds(items, now)
        if any(now + lead > job.deadline for job, _ in items):
            return False
        return self._spare(lead, items[0][0], now)

    def _spare(self, lead: float, beside: Job[W], now: float) -> bool:
        """Whether a free slot may be busy for `lead` with one job, and nobody else in the line be late."""
        return self._relaxed(now, lead) or self._lateness(now, lead, beside) <= EPSILON

    def _batch_seconds(self, items: Sequence[tuple[Job[W], int]], now: float) -> float:
        """Until its slot is free again: the batch, and then the answers that it may complete."""
        job, view = items[0]
        answers = sum(self._finishing(job, now) for job in _jobs(items))
        return self.costs.seconds(job.buckets[view], len(items), now) + answers

    def _run(self, slot: int, items: Sequence[tuple[Job[W], int]], now: float) -> Batch[W]:
        self._busy[slot] = now + self._batch_seconds(items, now)
        bucket = items[0][0].next_bucket
        for job, _ in items:
            job.handed += 1
            job.running += 1
        for job in _jobs(items):
            if job.mandatory_handed:  # until then its due time only moves later, and an early look does no harm
                self._file(job)
                self._set_due(job, now)
        return Batch(slot, bucket, tuple(items))

    def _file(self, job: Job[W]) -> None:
        """Moves a job whose mandatory views are handed out from the line to the open, while optional views wait."""
        self._leave_line(job)
        if job.all_handed:
            self._open.pop(job, None)
        else:
            self._open[job] = None

    @property
    def more(self) -> bool:
        """Whether another slot should ask too: somebody waits whose image is not just being decoded."""
        return bool(self._open) or any(job.phase is not Phase.DECODING for _, _, job in self._line)

    # ---- what came back ----

    def completed(
        self, batch: Batch[W], outcomes: Sequence[Outcome | StopReason], seconds: float, now: float
    ) -> list[Finished[W]]:
        """A batch is back, its predictions merged outside; one outcome a view."""
        self.costs.observe(batch.bucket, len(batch.items), seconds, now)
        self._busy.pop(batch.slot, None)
        finished: list[Finished[W]] = []
        for (job, view), outcome in zip(batch.items, outcomes, strict=True):
            job.running -= 1
            if job not in self._jobs:
                continue
            if outcome is Outcome.LOST:
                job.lost += 1
                if view < job.mandatory:
                    error = BackendFailed("the model's output for a mandatory view holds NaN")
                    finished += self._finish(job, error)
                continue
            job.merged += 1
            job.mandatory_merged += view < job.mandatory
            if isinstance(outcome, StopReason) and job.answerable:
                finished += self._finish(job, outcome)
        for job in _jobs(batch.items):
            if job in self._jobs and job.answerable:
                finished += self._verdict(job, now)
        self._charge_finishing(batch.slot, finished, now)
        return finished

    def finished(self, job: Job[W], seconds: float, now: float) -> None:
        """An answer was made in that many seconds."""
        self.costs.observe_stage("finish", job.model, job.pixels, seconds, now)

    def failed(self, step: Decode[W] | Batch[W], error: TTAError, now: float) -> list[Finished[W]]:
        """Fails the jobs without their mandatory views; the others are answered with what they have."""
        self._busy.pop(step.slot, None)
        items = [(step.job, 0)] if isinstance(step, Decode) else step.items
        finished: list[Finished[W]] = []
        for job, _ in items:
            job.running -= isinstance(step, Batch)
            if job in self._jobs:
                outcome = StopReason.BACKEND_FAILED if job.answerable else error
                finished += self._finish(job, outcome)
        return finished

    def _charge_finishing(self, slot: int, finished: Sequence[Finished[W]], now: float) -> None:
        """The slot that ran the last view makes the answers before it asks for more."""
        if finished:
            self._busy[slot] = now + sum(self._finishing(done.job, now) for done in finished)

    # ---- time ----

    def due(self, now: float) -> list[Finished[W]]:
        """Jobs for which nothing more can arrive in time, or that can no longer make it: answer them now."""
        return [done for job in list(self._jobs) if job.due_at <= now for done in self._verdict(job, now)]

    def wake_at(self) -> float | None:
        """When `due` should be asked again if nothing else happens."""
        return min((job.due_at for job in self._jobs), default=None)

    def _verdict(self, job: Job[W], now: float) -> list[Finished[W]]:
        """Settles a job if it is time, else notes when to look again."""
        outcome = self._outcome(job, now)
        if outcome is not None:
            return self._finish(job, outcome)
        self._set_due(job, now)
        return []

    def _outcome(self, job: Job[W], now: float) -> StopReason | TTAError | None:
        if not job.answerable:
            if now <= self._hopeless_at(job) + EPSILON:
                return None
            return DeadlineExceeded("the budget ran out before the mandatory views were done")
        if job.merged + job.lost == len(job.buckets):
            return StopReason.ALL_VIEWS
        end = job.deadline - self._finishing(job, now)
        if job.running:
            return None if now < end - EPSILON else StopReason.DEADLINE
        cost = self.costs.seconds(job.next_bucket, 1, now)
        if now + cost > end + EPSILON:
            return StopReason.CAPACITY if job.due_at <= now else StopReason.DEADLINE
        return StopReason.CAPACITY if self._free_at(now) + cost > end + EPSILON else None

    def _set_due(self, job: Job[W], now: float) -> None:
        """The first moment past which its outcome may be another, so that asking then always settles it."""
        if not job.answerable:
            last = self._hopeless_at(job)
        elif job.running:
            last = job.deadline - self._finishing(job, now)
        else:
            view = self.costs.seconds(job.next_bucket, 1, now)
            last = job.deadline - self._finishing(job, now) - view
        job.due_at = last + 2 * EPSILON

    def _hopeless_at(self, job: Job[W]) -> float:
        """When a job's mandatory views can no longer be done in time; the deadline itself once they all run.

        By warm-up costs: a slow spell must not fail those whom an idle pool admits, or its end would never be seen.
        """
        if job.phase is Phase.DECODING or job.mandatory_handed:
            return job.deadline
        return job.deadline - self._placed([0.0] * self.slots, job, 0.0, math.inf)

    def _in_time(self, job: Job[W], now: float) -> bool:
        """Whether its next view would end before its deadline."""
        end = now + self.costs.seconds(job.next_bucket, 1, now)
        return end <= job.deadline - self._finishing(job, now) + EPSILON

    def _finishing(self, job: Job[W], now: float) -> float:
        return self.costs.stage_seconds("finish", job.model, job.pixels, now)

    # ---- list scheduling ----

    def _lateness(self, now: float, lead: float, beside: Job[W]) -> float:
        """By how many seconds somebody in the line but `beside` would miss if the first free slot were busy for `lead`
        first; at most 0 if nobody would."""
        entries = [entry for entry in self._line if entry[2] is not beside]
        ends = self._laid_out(entries, self._slots_free(now, lead), now)
        return max((end - job.deadline for job, end in ends), default=-math.inf)

    def _refusal(self, job: Job[W], now: float) -> float:
        """In how many seconds a job would be admitted; 0 for at once.

        List scheduling in deadline order. Where only the job itself would be late, it is to come that much later; where
        it would make another late, when all that waits now is done.
        """
        entries = sorted([*self._line, (job.deadline, LAST, job)], key=lambda entry: entry[:2])
        free = self._slots_free(now)
        late = {other: end - other.deadline for other, end in self._laid_out(entries, free, now)}
        own = late.pop(job)
        if all(seconds <= EPSILON for seconds in late.values()):
            return own if own > EPSILON else 0.0
        return max(end for _, end in self._laid_out(self._line, self._slots_free(now), now)) - now

    def _laid_out(
        self, entries: Iterable[tuple[float, int, Job[W]]], free: list[float], now: float
    ) -> Iterator[tuple[Job[W], float]]:
        """Each job with when it is answered on slots that are `free` (a heap) from then on."""
        for _, _, job in entries:
            yield job, self._placed(free, job, now, now)

    def _placed(self, free: list[float], job: Job[W], start: float, now: float) -> float:
        """When a job is answered if its mandatory work goes, from `start` on, to the slots that are free first.

        `free` is a heap of when each slot is, and is brought up to date. Costs are those of `now`; at infinity
        every estimate has gone back to its warm-up value.
        """
        if job.phase is Phase.WAITING:
            start = max(start, heapq.heappop(free)) + self._decoding(job, now)
            heapq.heappush(free, start)
        elif job.phase is Phase.DECODING:
            start = max(start, job.ready_at)
        end = start
        for view in range(job.handed, job.mandatory):
            done = max(start, heapq.heappop(free)) + self.costs.seconds(job.buckets[view], 1, now)
            if view == job.mandatory - 1:
                done = max(done, end) + self._finishing(job, now)
            heapq.heappush(free, done)
            end = max(end, done)
        return end

    def _load(self, job: Job[W], views: int, now: float) -> float:
        """Seconds of one slot for what is left of a job up to that many views, and its answer."""
        left = sum(self.costs.seconds(bucket, 1, now) for bucket in job.buckets[job.handed : views])
        decoding = self._decoding(job, now) if job.phase is Phase.WAITING else 0.0
        return decoding + left + self._finishing(job, now)

    def _decoding(self, job: Job[W], now: float) -> float:
        return self.costs.stage_seconds("decode", job.model, job.pixels, now)

    def _leave_line(self, job: Job[W]) -> None:
        for place, entry in enumerate(self._line):
            if entry[2] is job:
                del self._line[place]
                self._waiting -= job.load
                return

    def _relaxed(self, now: float, more: float, deadline: float = math.inf) -> bool:
        """Whether one slot alone could do all that is in the line, and `more`, before the first deadline.

        Then nobody is late on any schedule, and there is no need to lay one out.
        """
        first = min(deadline, self._line[0][0]) if self._line else deadline
        free = max(self._busy.values(), default=now)
        return max(now, free) + self._waiting + more <= first

    def _slots_free(self, now: float, lead: float = 0.0) -> list[float]:
        """When each slot is free, a heap; `lead` is added to the first that is."""
        free = sorted([max(now, end) for end in self._busy.values()])
        free = [now] * (self.slots - len(free)) + free
        free[0] += lead
        heapq.heapify(free)
        return free

    def _free_at(self, now: float) -> float:
        """When the first slot is free once all waiting mandatory work is placed."""
        free = self._slots_free(now)
        for _ in self._laid_out(self._line, free, now):
            pass
        return free[0]

    def _finish(self, job: Job[W], outcome: StopReason | TTAError) -> list[Finished[W]]:
        """Takes a live job out; nobody is answered twice."""
        if job not in self._jobs:
            return []
        del self._jobs[job]
        self._leave_line(job)
        self._open.pop(job, None)
        return [Finished(job, outcome)]


def _jobs(items: Sequence[tuple[Job[W], int]]) -> Iterable[Job[W]]:
    """Those that have views in a batch, each once."""
    return [items[0][0]] if len(items) == 1 else dict.fromkeys(job for job, _ in items)
