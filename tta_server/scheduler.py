"""Decides what each free slot of a pool runs next, who is admitted, and when a job is answered.

Pure: no clock, no I/O, no threads; time is an argument, in seconds. The shell (`engine`) calls it under a lock.
"""

import math
from collections.abc import Sequence
from itertools import islice, takewhile
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
from tta_server.jobs import Batch, Bounds, Decode, Finished, Job, Merged, Outcome, Phase
from tta_server.line import EPSILON, Line, Prices, Slots, each_job
from tta_server.stopping import StopReason

W = TypeVar("W")


class Scheduler(Generic[W]):
    """One a pool of equal slots."""

    def __init__(self, costs: CostModel, slots: int, bounds: Bounds | None = None) -> None:
        self.costs = costs
        self.slots = slots
        self.bounds = bounds or Bounds()
        self._prices = Prices(costs)
        self._slots = Slots(slots)
        self._jobs: dict[Job[W], None] = {}
        self._line: Line[W] = Line(self._prices)
        self._open: dict[Job[W], None] = {}

    # ---- coming and going ----

    def admit(self, job: Job[W], now: float) -> None:
        """Raises Overloaded; InvalidInput for a budget that even an idle pool could not keep; TooLarge for an image
        that does not fit among those that wait."""
        alone = self._prices.alone(job, self.slots)
        if now + alone > job.deadline + EPSILON:
            raise InvalidInput(
                f"the budget is too small: {job.mandatory} view{'s' * (job.mandatory > 1)} of {job.model} for this "
                f"image take about {math.ceil(alone * 1e3)} ms; give budget_ms at least that"
            )
        self._check_room(job, now)
        job.load = self._prices.load(job, job.mandatory, now)
        idle = not self._jobs and self._slots.idle == self.slots
        if not idle and not self._line.is_relaxed(self._slots.all_free(now), job.load, job.deadline):
            seconds = self._line.refusal(job, self._slots, now)
            if seconds > 0:
                raise Overloaded("the server is busy: this image would be answered too late", seconds)
        self._jobs[job] = None
        self._line.join(job)
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
        done = self._slots.all_free(now) + sum(self._prices.load(job, len(job.buckets), now) for job in self._jobs)
        for job in sorted(self._jobs, key=lambda job: job.deadline):
            spare += job.nbytes
            if spare >= 0:
                return min(job.deadline, done)
        return done

    def ready(self, decode: Decode[W], seconds: float, now: float) -> None:
        """Its image is decoded: its views may run."""
        job = decode.job
        self._slots.release(decode.slot)
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
        self._slots.release(slot)
        decoding = False
        for job in self._line:
            if job.phase is Phase.DECODING:
                decoding = True
                continue
            items = self._fill(job, now) if job.phase is Phase.READY else []
            lead = self._prices.batch(items, now) if items else self._prices.decoding(job, now)
            if decoding and not self._spare(lead, job, now):
                return None  # whoever comes later must not overtake this one
            return self._run(slot, items, now) if items else self._decode(slot, job, now)
        return self._optional(slot, now)

    def _optional(self, slot: int, now: float) -> Batch[W] | None:
        eligible = [job for job in self._open if self._in_time(job, now)]
        if not eligible:
            return None
        head = min(eligible, key=lambda job: (job.handed, job.deadline))
        items = self._fill(head, now)
        if self._line and not self._spare(self._prices.batch(items, now), head, now):
            return None
        return self._run(slot, items, now)

    def _decode(self, slot: int, job: Job[W], now: float) -> Decode[W]:
        job.phase = Phase.DECODING
        job.ready_at = now + self._prices.decoding(job, now)
        self._slots.take(slot, job.ready_at)
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
        for job in dict.fromkeys([head, *self._line, *self._open]):
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
            room = min(room, -(-(len(job.buckets) - job.handed) // self._slots.idle) - 1)
        same = takewhile(lambda view: job.buckets[view] == bucket, range(first, len(job.buckets)))
        return [(job, view) for view in islice(same, room)]

    def _harmless(self, items: Sequence[tuple[Job[W], int]], now: float) -> bool:
        lead = self._prices.batch(items, now)
        if any(now + lead > job.deadline for job, _ in items):
            return False
        return self._spare(lead, items[0][0], now)

    def _spare(self, lead: float, beside: Job[W], now: float) -> bool:
        """Whether a free slot may be busy for `lead` with one job, and nobody else in the line be late by that."""
        if self._line.is_relaxed(self._slots.all_free(now), lead):
            return True
        return not self._line.is_delayed(self._slots, lead, beside, now)

    def _run(self, slot: int, items: Sequence[tuple[Job[W], int]], now: float) -> Batch[W]:
        self._slots.take(slot, now + self._prices.batch(items, now))
        bucket = items[0][0].next_bucket
        for job, _ in items:
            job.handed += 1
            job.running += 1
        for job in each_job(items):
            if job.mandatory_handed:  # until then its due time only moves later, and an early look does no harm
                self._file(job)
                self._set_due(job, now)
        return Batch(slot, bucket, tuple(items))

    def _file(self, job: Job[W]) -> None:
        """Moves a job whose mandatory views are handed out from the line to the open, while optional views wait."""
        self._line.leave(job)
        if job.all_handed:
            self._open.pop(job, None)
        else:
            self._open[job] = None

    @property
    def more(self) -> bool:
        """Whether another slot should ask too: somebody waits whose image is not just being decoded."""
        return bool(self._open) or any(job.phase is not Phase.DECODING for job in self._line)

    # ---- what came back ----

    def completed(self, batch: Batch[W], outcomes: Sequence[Outcome], seconds: float, now: float) -> list[Finished[W]]:
        """A batch is back, its predictions merged outside; one outcome a view."""
        self.costs.observe(batch.bucket, len(batch.items), seconds, now)
        self._slots.release(batch.slot)
        finished: list[Finished[W]] = []
        for (job, view), outcome in zip(batch.items, outcomes, strict=True):
            job.running -= 1
            if job not in self._jobs:
                continue
            if not isinstance(outcome, Merged):
                job.lost += 1
                if view < job.mandatory:
                    error = BackendFailed("the model's output for a mandatory view holds NaN or infinity")
                    finished += self._finish(job, error)
                continue
            job.merged += 1
            job.mandatory_merged += view < job.mandatory
            job.worth = outcome.worth
            if outcome.stop and job.answerable:
                finished += self._finish(job, outcome.stop)
        for job in each_job(batch.items):
            if job in self._jobs and job.answerable:
                finished += self._verdict(job, now)
        self._charge_finishing(batch.slot, finished, now)
        return finished

    def finished(self, job: Job[W], seconds: float, now: float) -> None:
        """An answer was made in that many seconds."""
        self.costs.observe_stage("finish", job.model, job.pixels, seconds, now)

    def failed(self, step: Decode[W] | Batch[W], error: TTAError, now: float) -> list[Finished[W]]:
        """Fails the jobs without their mandatory views; the others are answered with what they have."""
        self._slots.release(step.slot)
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
            self._slots.take(slot, now + sum(self._prices.finishing(done.job, now) for done in finished))

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
        end = job.deadline - self._prices.finishing(job, now)
        if job.running:
            return None if now < end - EPSILON else StopReason.DEADLINE
        cost = self._prices.next_view(job, now)
        if now + cost > end + EPSILON:
            return StopReason.CAPACITY if job.due_at <= now else StopReason.DEADLINE
        return StopReason.CAPACITY if self._line.then_free(self._slots.free(now), now) + cost > end + EPSILON else None

    def _set_due(self, job: Job[W], now: float) -> None:
        """The first moment past which its outcome may be another, so that asking then always settles it."""
        if not job.answerable:
            last = self._hopeless_at(job)
        elif job.running:
            last = job.deadline - self._prices.finishing(job, now)
        else:
            last = job.deadline - self._prices.finishing(job, now) - self._prices.next_view(job, now)
        job.due_at = last + 2 * EPSILON

    def _hopeless_at(self, job: Job[W]) -> float:
        """When a job's mandatory views can no longer be done in time; the deadline itself once they all run.

        By warm-up costs: a slow spell must not fail those whom an idle pool admits, or its end would never be seen.
        """
        if job.phase is Phase.DECODING or job.mandatory_handed:
            return job.deadline
        return job.deadline - self._prices.alone(job, self.slots)

    def _in_time(self, job: Job[W], now: float) -> bool:
        """Whether its next view would end before its deadline."""
        end = now + self._prices.next_view(job, now)
        return end <= job.deadline - self._prices.finishing(job, now) + EPSILON

    def _finish(self, job: Job[W], outcome: StopReason | TTAError) -> list[Finished[W]]:
        """Takes a live job out; nobody is answered twice."""
        if job not in self._jobs:
            return []
        del self._jobs[job]
        self._line.leave(job)
        self._open.pop(job, None)
        return [Finished(job, outcome)]
