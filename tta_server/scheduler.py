"""Decides what each free slot of a pool runs next, who is admitted, and when a job is answered.

Pure: no clock, no I/O, no threads; time is an argument, in seconds. The shell (`engine`) calls it under a lock.
"""

import heapq
import math
from bisect import insort
from collections.abc import Iterator, Sequence
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
    TTAError,
)
from tta_server.stopping import StopReason

W = TypeVar("W")
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
        """Raises Overloaded, or InvalidInput for a budget that even an idle pool could not keep."""
        alone = self._alone(job)
        if now + alone > job.deadline + EPSILON:
            raise InvalidInput(
                f"the budget is too small: {job.mandatory} view{'s' * (job.mandatory > 1)} of {job.model} for this "
                f"image take about {math.ceil(alone * 1e3)} ms; give budget_ms at least that"
            )
        self._check_bounds(job, now)
        job.load = alone * self.slots
        if self._jobs and not self._relaxed(now, job.load, job.deadline):
            late = self._lateness(now, job)
            if late > EPSILON:
                raise Overloaded("the server is busy: this image would be answered too late", late)
        self._jobs[job] = None
        self._waiting += job.load
        insort(self._line, (job.deadline, next(self._sequence), job))
        self._set_due(job, now)

    def _check_bounds(self, job: Job[W], now: float) -> None:
        waiting = sum(other.nbytes for other in self._jobs)
        if len(self._jobs) >= self.bounds.jobs or waiting + job.nbytes > self.bounds.nbytes:
            raise Overloaded("the server is busy: too many images are waiting", self._free_at(now) - now)

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
        """Mandatory work in deadline order, then optional views that end in time; None when there is nothing."""
        self._busy.pop(slot, None)
        for _, _, job in self._line:
            if job.phase is Phase.WAITING:
                return self._decode(slot, job, now)
            if job.phase is Phase.READY:
                return self._run(slot, self._fill(job, now), now)
        eligible = [job for job in self._open if self._in_time(job, now)]
        if not eligible:
            return None
        head = min(eligible, key=lambda job: (job.handed, job.deadline))
        return self._run(slot, self._fill(head, now), now)

    def _decode(self, slot: int, job: Job[W], now: float) -> Decode[W]:
        job.phase = Phase.DECODING
        self._busy[slot] = now + self.costs.stage_seconds("decode", job.model, job.pixels, now)
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
        lead = self.costs.seconds(items[0][0].next_bucket, len(items), now)
        if any(now + lead > job.deadline - self._finishing(job, now) for job, _ in items):
            return False
        return self._relaxed(now, lead) or self._lateness(now, lead=lead, beside=items[0][0]) <= EPSILON

    def _run(self, slot: int, items: Sequence[tuple[Job[W], int]], now: float) -> Batch[W]:
        bucket = items[0][0].next_bucket
        for job, _ in items:
            job.handed += 1
            job.running += 1
        for job in dict.fromkeys(job for job, _ in items):
            if job.mandatory_handed:  # until then its due time only moves later, and an early look does no harm
                self._file(job)
                self._set_due(job, now)
        self._busy[slot] = now + self.costs.seconds(bucket, len(items), now)
        return Batch(slot, bucket, tuple(items))

    def _file(self, job: Job[W]) -> None:
        """Moves a job whose mandatory views are handed out from the line to the open, while optional views wait."""
        self._leave_line(job)
        if job.all_handed:
            self._open.pop(job, None)
        else:
            self._open[job] = None

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
        for job in dict.fromkeys(job for job, _ in batch.items):
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
            if now <= self._hopeless_at(job, now) + EPSILON:
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
            last = self._hopeless_at(job, now)
        elif job.running:
            last = job.deadline - self._finishing(job, now)
        else:
            view = self.costs.seconds(job.next_bucket, 1, now)
            last = job.deadline - self._finishing(job, now) - view
        job.due_at = last + 2 * EPSILON

    def _hopeless_at(self, job: Job[W], now: float) -> float:
        """When a job's mandatory views can no longer be done in time; the deadline itself once they all run."""
        if job.phase is Phase.DECODING or job.mandatory_handed:
            return job.deadline
        rounds = math.ceil((job.mandatory - job.handed) / self.slots)
        need = rounds * self.costs.seconds(job.next_bucket, 1, now) + self._finishing(job, now)
        if job.phase is Phase.WAITING:
            need += self.costs.stage_seconds("decode", job.model, job.pixels, now)
        return job.deadline - need

    def _in_time(self, job: Job[W], now: float) -> bool:
        """Whether its next view would end before its deadline."""
        end = now + self.costs.seconds(job.next_bucket, 1, now)
        return end <= job.deadline - self._finishing(job, now) + EPSILON

    def _finishing(self, job: Job[W], now: float) -> float:
        return self.costs.stage_seconds("finish", job.model, job.pixels, now)

    # ---- list scheduling ----

    def _alone(self, job: Job[W]) -> float:
        """Seconds on an idle pool, by warm-up costs: at infinity every estimate has gone back to them."""
        stages = [self.costs.stage_seconds(s, job.model, job.pixels, math.inf) for s in ("decode", "finish")]
        rounds = math.ceil(job.mandatory / self.slots)
        return sum(stages) + rounds * self.costs.seconds(job.buckets[0], 1, math.inf)

    def _lateness(
        self,
        now: float,
        extra: Job[W] | None = None,
        lead: float = 0.0,
        beside: Job[W] | None = None,
    ) -> float:
        """By how many seconds somebody in the line, `extra` among them, would miss; at most 0 if nobody does.

        List scheduling in deadline order; `lead` is how long the slot that asks would be busy first, for `beside`.
        """
        free = self._slots_free(now, lead)
        entries = [entry for entry in self._line if entry[2] is not beside]
        if extra is not None:
            entries = sorted([*entries, (extra.deadline, -1, extra)], key=lambda e: e[:2])
        worst = -math.inf
        for deadline, _, job in entries:
            worst = max(worst, self._placed(free, job, now) - deadline)
        return worst

    def _placed(self, free: list[float], job: Job[W], now: float) -> float:
        """When a job would be answered if its mandatory work goes to the slots that are free first."""
        ready = now
        if job.phase is Phase.WAITING:
            ready = heapq.heappop(free) + self.costs.stage_seconds("decode", job.model, job.pixels, now)
            heapq.heappush(free, ready)
        end = ready
        for view in range(job.handed, job.mandatory):
            start = max(ready, heapq.heappop(free))
            end = max(end, start + self.costs.seconds(job.buckets[view], 1, now))
            heapq.heappush(free, start + self.costs.seconds(job.buckets[view], 1, now))
        return end + self._finishing(job, now)

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
        for _, _, job in self._line:
            self._placed(free, job, now)
        return free[0]

    def _finish(self, job: Job[W], outcome: StopReason | TTAError) -> list[Finished[W]]:
        """Takes a live job out; nobody is answered twice."""
        if job not in self._jobs:
            return []
        del self._jobs[job]
        self._leave_line(job)
        self._open.pop(job, None)
        return [Finished(job, outcome)]
