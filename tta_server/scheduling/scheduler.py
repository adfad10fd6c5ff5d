"""Decides what each free slot of a pool runs next, who is admitted, and when a job is answered.

Pure: no clock, no I/O, no threads; time is an argument, in seconds. The shell (`engine`) calls it under a lock.
"""

from collections.abc import Iterator, Sequence
from itertools import islice, takewhile
from typing import Any, Generic, TypeVar

from tta_server.errors import BackendFailed, Cancelled, DeadlineExceeded, Overloaded, TTAError
from tta_server.scheduling.admission import Admission
from tta_server.scheduling.arrivals import ExpectedArrival, ExpectedArrivals
from tta_server.scheduling.costs import Bucket, CostModel
from tta_server.scheduling.estimates import EPSILON, Estimates, Occupancy, Slots, each_job
from tta_server.scheduling.jobs import (
    Backlog,
    Batch,
    Bounds,
    Decode,
    Failed,
    Finish,
    Finished,
    Job,
    Merged,
    Outcome,
    Phase,
    Quote,
    Step,
)
from tta_server.scheduling.queue import MandatoryQueue
from tta_server.scheduling.stopping import StopReason
from tta_server.scheduling.timers import DueTimers, Watchdog

W = TypeVar("W")
S = TypeVar("S", Decode[Any], Batch[Any])


class Scheduler(Generic[W]):
    """One a pool of equal slots."""

    def __init__(self, costs: CostModel, slots: int, bounds: Bounds | None = None) -> None:
        self.costs = costs
        self.slots = slots
        self._estimates = Estimates(costs)
        self._slots = Slots(slots)
        self._queue: MandatoryQueue[W] = MandatoryQueue(self._estimates, self._slots)
        self._live: Admission[W] = Admission(self._estimates, self._slots, self._queue, bounds or Bounds())
        self._open: dict[Job[W], None] = {}
        self._timers: DueTimers[W] = DueTimers()
        self._watchdog: Watchdog[W] = Watchdog()
        self._expected = ExpectedArrivals()

    # ---- coming and going ----

    def admit(self, job: Job[W], now: float) -> None:
        """Raises Overloaded; InvalidInput for a budget that even an idle pool could not keep; TooLarge for an image
        that does not fit among those that wait."""
        self._live.admit(job, now)
        plain = job.load if job.mandatory == 1 else self._estimates.load(job, 1, now)
        self._expected.observe(job, plain, now)
        self._set_due(job, now)

    def admit_all(self, jobs: Sequence[Job[W]], now: float) -> None:
        """All of them or none; raises as `admit` does, also where an idle pool could not take them together."""
        if len(jobs) > 1:
            self._live.check_group(jobs, now)
        admitted: list[Job[W]] = []
        try:
            for job in jobs:
                self.admit(job, now)
                admitted.append(job)
        except TTAError as error:
            for job in admitted:
                self.cancel(job, now)
            if len(jobs) > 1 and isinstance(error, Overloaded):
                raise Overloaded(
                    str(error), max(error.retry_after, self._live.group_wait(jobs, now)), error.reason
                ) from None
            raise

    def quote(self, job: Job[W], now: float) -> Quote:
        """What `admit` would do and what would come of it; raises InvalidInput and TooLarge as it does."""
        return self._live.quote(job, len(self._open), now)

    def ready(self, decode: Decode[W], seconds: float, now: float) -> None:
        """Its image is decoded: its views may run."""
        job = decode.job
        self._release(decode.slot)
        self.costs.observe_stage("decode", job.model, job.pixels, seconds, now)
        job.phase = Phase.READY
        if job in self._live:
            self._set_due(job, now)

    def cancel(self, job: Job[W], now: float) -> list[Finished[W]]:
        """Its client has left; a batch that still runs for it is ignored on return."""
        return self._finish(job, Cancelled("the client has left"))

    def drop_all(self, error: TTAError) -> list[Finished[W]]:
        """Everything that is live, with the same error."""
        return [done for job in list(self._live) for done in self._finish(job, error)]

    def __len__(self) -> int:
        """How many jobs are live."""
        return len(self._live)

    def backlog(self) -> Backlog:
        return Backlog(len(self._live), self._queue.load, self._live.nbytes)

    # ---- what a free slot does next ----

    def next_batch(self, slot: int, now: float) -> Step[W] | None:
        """Interactive mandatory work in deadline order, then optional views that end in time, then batch jobs; these
        before optional views as far as they would be late otherwise. None when there is nothing.

        While a job ahead is being decoded, whatever is not done by the time it needs this slot has to wait for it. An
        open job ahead may get more views, unless what runs here first would make its answer late.
        """
        self._release(slot)
        decoding = open_ahead = asked = False
        for job in self._queue if self._queue.waiting else ():
            if job.is_batch and not asked:
                asked = True
                if optional := self._optional(slot, now):
                    return optional
            if job.phase is Phase.DECODING or job.is_open:
                decoding |= job.phase is Phase.DECODING
                open_ahead |= job.is_open
                continue
            items = [] if job.closing or job.phase is Phase.WAITING else self._fill(job, now)
            delayed = self._delayed(job, items, now) if decoding or open_ahead else None
            if delayed and (answer := self._make_room(slot, now)):
                return answer
            if delayed and decoding:
                return None  # whoever comes later must not overtake this one
            return self._begin(slot, job, items, now)
        return None if asked else self._optional(slot, now)

    def _optional(self, slot: int, now: float) -> Step[W] | None:
        """An answer that waits for no more views, if it delays no other job; then the greatest expected change
        per second first, of interactive jobs; then the fewest views, the earliest deadline. Where that would make an
        answer late, the answer."""
        closings = (job for job in self._queue.waiting if job.closing)
        closing = min(closings, key=lambda job: job.deadline, default=None)
        if closing and not self._delayed(closing, [], now):
            return self._make(slot, closing, now)
        if not self._open:
            return None
        seconds: dict[Bucket, float] = {}

        def rank(job: Job[W]) -> tuple[bool, float, int, float]:
            bucket = job.next_bucket
            if bucket not in seconds:
                seconds[bucket] = self.costs.seconds(bucket, 1, now)
            return job.is_batch, -job.expected_gain / seconds[bucket], job.dispatched, job.deadline

        head = min(self._open, key=rank) if len(self._open) > 1 else next(iter(self._open))
        if not self._in_time(head, now):
            eligible = [job for job in self._open if self._in_time(job, now)]
            if not eligible:
                return None
            head = min(eligible, key=rank)
        items = self._fill(head, now)
        if self._queue and (delayed := self._delayed(head, items, now)):
            return self._make_room(slot, now) if delayed.mandatory_dispatched else None
        risky = self._is_risky(items, now)
        if risky and self._slots.idle < self.slots:
            return None
        return self._run(slot, items, now, risky)

    def _make_room(self, slot: int, now: float) -> Finish[W] | None:
        """The answer of the first job that waits only for it; None if even that makes a job late."""
        job = next((job for job in self._queue if job.mandatory_dispatched), None)
        return None if job is None or self._delayed(job, [], now) else self._make(slot, job, now)

    def _begin(self, slot: int, job: Job[W], items: Sequence[tuple[Job[W], int]], now: float) -> Step[W]:
        """These views, or else what comes next for the job: its answer, or the decoding of its image."""
        if items:
            return self._run(slot, items, now)
        return self._make(slot, job, now) if job.closing else self._decode(slot, job, now)

    def _make(self, slot: int, job: Job[W], now: float) -> Finish[W]:
        estimate, reason = self._estimates.finishing(job, now), job.closing or StopReason.CAPACITY
        self._finish(job, reason)
        self._slots.take(slot, now + estimate)  # not watched: callbacks of the waiting client may take long
        return Finish(slot, job, reason, estimate)

    def _is_risky(self, items: Sequence[tuple[Job[W], int]], now: float) -> bool:
        """Whether a plain view that arrives now would be late for its model's default budget only because a free slot
        runs these views first. With every other slot idle the risk is taken, or nothing optional would ever run."""
        step = self._estimates.next_step(items[0][0], items, now)
        idle = Occupancy(0.0, step.views)

        def late(newcomer: ExpectedArrival, step: Occupancy[W]) -> bool:
            return self._queue.free_for_next(step, now + newcomer.budget, now) - now > newcomer.slack

        return any(
            not self._queue.is_done_by(now + newcomer.slack, step, now)
            and late(newcomer, step)
            and not late(newcomer, idle)
            for newcomer in self._expected.expected(now)
        )

    def _decode(self, slot: int, job: Job[W], now: float) -> Decode[W]:
        estimate = self._estimates.decoding(job, now)
        job.phase = Phase.DECODING
        job.ready_at = now + estimate
        self._queue.reprice(job, now)
        self._set_due(job, now)
        return self._started(Decode(slot, job, estimate), job.ready_at, now)

    def _fill(self, head: Job[W], now: float) -> list[tuple[Job[W], int]]:
        """A batch around the head's next view: its own views, mandatory ones, optional ones; shorter by halves while
        it would make itself or anybody in the line late."""
        bucket = head.next_bucket
        limit = self.costs.knee(bucket)
        items = [(head, head.dispatched)]
        if limit == 1:
            return items
        for job in dict.fromkeys([head, *self._queued, *self._open]):
            if len(items) == limit:
                break
            if job.phase is Phase.READY:
                items += self._riders(job, head, bucket, limit - len(items))
        least = max(1, sum(job is head and view < head.mandatory for job, view in items))
        while len(items) > least and not self._fits_batch(items, now):
            del items[max(least, len(items) // 2) :]
        return items

    def _riders(self, job: Job[W], head: Job[W], bucket: Bucket, room: int) -> list[tuple[Job[W], int]]:
        """A job's next views of this bucket. A head that waits alone leaves idle slots their share of its views."""
        first = job.dispatched + (job is head)
        if job is head and all(other is head for other in islice(self._queued, 2)):
            room = min(room, -(-(len(job.buckets) - job.dispatched) // self._slots.idle) - 1)
        same = takewhile(lambda view: job.buckets[view] == bucket, range(first, len(job.buckets)))
        return [(job, view) for view in islice(same, room)]

    @property
    def _queued(self) -> Iterator[Job[W]]:
        """Those in line whose mandatory views are not all handed out."""
        return (job for job in self._queue if not job.mandatory_dispatched)

    def _fits_batch(self, items: Sequence[tuple[Job[W], int]], now: float) -> bool:
        head = items[0][0]
        answers = sum(self._estimates.finishing(job, now) for job in each_job(items))  # it may have to make all of them
        latest = now + self.costs.seconds(head.next_bucket, len(items), now) + answers
        if any(latest > job.deadline for job, _ in items):
            return False
        lead = self._estimates.next_step(head, items, now).busy
        own = sum(job is head for job, _ in items)
        rest = sum(self._estimates.views(head, head.dispatched + own, head.mandatory, now))
        return now + lead + rest <= head.deadline and self._delayed(head, items, now) is None

    def _delayed(self, head: Job[W], items: Sequence[tuple[Job[W], int]], now: float) -> Job[W] | None:
        """The first job in line that would be late, or later, if a free slot ran these views; if there are none, if it
        did what comes next for `head`."""
        step = self._estimates.next_step(head, items, now)
        return None if self._queue.trivially_feasible(step.total, now) else self._queue.first_delayed(head, step, now)

    def _run(self, slot: int, items: Sequence[tuple[Job[W], int]], now: float, risky: bool = False) -> Batch[W]:
        bucket, step = items[0][0].next_bucket, self._estimates.next_step(items[0][0], items, now)
        for other, seconds in step.elsewhere.items():
            self._slots.delay(other, seconds)
        for job, views in step.views.items():
            if now + step.seconds > job.last_end:
                job.last_slot, job.last_end = slot, now + step.seconds
            job.dispatched += views
            job.running += views
            if job.mandatory_dispatched:  # until then its due time only moves later, and an early look does no harm
                self._requeue(job)
                self._set_due(job, now)
            else:
                self._queue.reprice(job, now)
        return self._started(Batch(slot, bucket, tuple(items), step.seconds, risky), now + step.busy, now)

    def _started(self, step: S, until: float, now: float) -> S:
        self._slots.take(step.slot, until)
        self._watchdog.started(step, now)
        return step

    def _release(self, slot: int) -> None:
        self._slots.release(slot)
        self._watchdog.ended(slot)

    def _requeue(self, job: Job[W]) -> None:
        """Moves a job whose mandatory views are handed out from the line to the open, while optional views wait."""
        self._queue.leave(job)
        if job.all_dispatched:
            self._open.pop(job, None)
        else:
            self._open[job] = None

    @property
    def more(self) -> bool:
        """Whether another slot should ask too: somebody waits whose image is not just being decoded."""
        return bool(self._open) or any(job.phase is not Phase.DECODING for job in self._queue.waiting)

    # ---- what came back ----

    def completed(self, batch: Batch[W], outcomes: Sequence[Outcome], seconds: float, now: float) -> list[Finished[W]]:
        """A batch is back, its predictions merged outside; one outcome a view."""
        self.costs.observe(batch.bucket, len(batch.items), seconds, now)
        self._release(batch.slot)
        finished: list[Finished[W]] = []
        for (job, view), outcome in zip(batch.items, outcomes, strict=True):
            job.running -= 1
            if job.last_slot == batch.slot:
                job.last_end = 0.0
            if job in self._live:
                finished += self._came_back(job, view, outcome)
        undecided: list[Job[W]] = []
        for job in each_job(batch.items):
            if job in self._live and job.answerable and not job.closing:
                verdict = self._decide(job, now, was_due=False)
                if verdict is None:
                    undecided.append(job)
                else:
                    finished += self._finish(job, verdict)
        self._charge_finishing(batch.slot, finished, now)
        for job in undecided:
            if not self._stays_open(job, now):
                finished += self._finish(job, StopReason.CAPACITY)
                self._charge_finishing(batch.slot, finished, now)
        return finished

    def _came_back(self, job: Job[W], view: int, outcome: Outcome) -> list[Finished[W]]:
        if isinstance(outcome, Merged):
            job.merged += 1
            job.mandatory_merged += view < job.mandatory
            job.expected_gain = outcome.expected_gain
            return self._finish(job, outcome.stop) if outcome.stop and job.answerable else []
        job.lost += 1
        if view >= job.mandatory:
            return []
        if isinstance(outcome, Failed):
            return self._finish(job, outcome.error)
        return self._finish(job, BackendFailed("the model's output for a mandatory view holds NaN or infinity"))

    def finished(self, job: Job[W], seconds: float, now: float) -> None:
        """An answer was made in that many seconds."""
        self.costs.observe_stage(job.finish, job.model, job.pixels, seconds, now)

    def failed(self, step: Decode[W] | Batch[W], error: TTAError, now: float) -> list[Finished[W]]:
        """Fails the jobs that lack a mandatory view by it; those that have theirs are answered with what they have, and
        those whose mandatory views still run lose an optional one."""
        self._release(step.slot)
        items = [(step.job, 0)] if isinstance(step, Decode) else step.items
        finished: list[Finished[W]] = []
        for job, view in items:
            job.running -= isinstance(step, Batch)
            if job not in self._live:
                continue
            if job.answerable:
                finished += self._finish(job, StopReason.BACKEND_FAILED)
            elif view < job.mandatory:
                finished += self._finish(job, error)
            else:
                job.lost += 1
                job.failed = True
        self._charge_finishing(step.slot, finished, now)
        return finished

    def _charge_finishing(self, slot: int, finished: Sequence[Finished[W]], now: float) -> None:
        """The slot that ran the last view makes the answers before it asks for more."""
        made = [done.job for done in finished if isinstance(done.outcome, StopReason)]
        if made:
            self._slots.take(slot, now + sum(self._estimates.finishing(job, now) for job in made))

    # ---- time ----

    def due(self, now: float) -> list[Finished[W]]:
        """Jobs that can no longer make it fail now. For those for which nothing more can arrive in time, their answer
        waits for a slot from now on: ask the idle ones. It is handed out here only where costs were exceeded and no
        slot is free in time for it."""
        return [done for job in self._timers.take_due(now) for done in self._fell_due(job, now)]

    def wake_at(self) -> float | None:
        """When `due` should be asked again if nothing else happens."""
        return self._timers.first()

    def overdue(self, now: float) -> list[Step[W]]:
        """What runs far past its estimate and should be ended; told once."""
        return self._watchdog.overdue(now)

    def stuck(self, now: float) -> list[int]:
        """Slots that did not come back long after their step was to be ended."""
        return self._watchdog.stuck(now)

    def watch_at(self) -> float | None:
        """When `overdue` and `stuck` should be asked again if nothing else happens."""
        return self._watchdog.look_at()

    def _stays_open(self, job: Job[W], now: float) -> bool:
        """Lets the answer of a job wait, so that more views of it may run first; False if there is no time for that."""
        if not job.running:
            self._await_answer(job, now)
            if self._queue.is_late(now):
                return False
        self._set_due(job, now)
        return True

    def _fell_due(self, job: Job[W], now: float) -> list[Finished[W]]:
        if job.closing:
            return self._finish(job, job.closing)
        outcome = self._decide(job, now, was_due=True)
        if isinstance(outcome, TTAError) or (outcome and job.running and not self._slots.idle):
            return self._finish(job, outcome)
        if outcome:
            self._close(job, outcome, now)
        else:
            self._set_due(job, now)
        return []

    def _close(self, job: Job[W], reason: StopReason, now: float) -> None:
        """No more views of it may run: a slot is to make its answer; at the last moment the caller of `due` does."""
        job.closing = reason
        self._open.pop(job, None)
        last = job.deadline - self._estimates.finishing(job, now)
        if job.running:
            self._await_answer(job, now)
            last = (now + job.deadline) / 2  # it is late already, and a slot is idle
        else:
            self._queue.close(job)
        self._timers.set(job, last + 2 * EPSILON)

    def _await_answer(self, job: Job[W], now: float) -> None:
        """Its answer is what is left of its mandatory work."""
        job.load = self._estimates.finishing(job, now)
        self._queue.join(job)

    def _decide(self, job: Job[W], now: float, was_due: bool) -> StopReason | TTAError | None:
        if not job.answerable:
            if now <= self._hopeless_at(job) + EPSILON:
                return None
            return DeadlineExceeded("the budget ran out before the mandatory views were done")
        if job.merged + job.lost == len(job.buckets):
            return StopReason.BACKEND_FAILED if job.failed else StopReason.ALL_VIEWS
        end = job.deadline - self._estimates.finishing(job, now)
        if job.running:
            return None if now < end - EPSILON else StopReason.DEADLINE
        cost = self._estimates.next_view(job, now)
        if now + cost > end + EPSILON:
            return StopReason.CAPACITY if was_due else StopReason.DEADLINE
        return StopReason.CAPACITY if self._queue.free_after_queue(now) + cost > end + EPSILON else None

    def _set_due(self, job: Job[W], now: float) -> None:
        """The first moment past which its outcome may be another, so that asking then always settles it."""
        if not job.answerable:
            last = self._hopeless_at(job)
        elif job.running:
            last = job.deadline - self._estimates.finishing(job, now)
        else:
            last = job.deadline - self._estimates.finishing(job, now) - self._estimates.next_view(job, now)
        self._timers.set(job, last + 2 * EPSILON)

    def _hopeless_at(self, job: Job[W]) -> float:
        """When a job's mandatory views can no longer be done in time; the deadline itself once they all run.

        By the least costs known: a slow spell must not fail those whom an idle pool admits, or its end would never be
        seen.
        """
        if job.phase is Phase.DECODING or job.mandatory_dispatched:
            return job.deadline
        return job.deadline - self._estimates.alone(job, self.slots)

    def _in_time(self, job: Job[W], now: float) -> bool:
        """Whether its next view would end before its deadline."""
        end = now + self._estimates.next_view(job, now)
        return end <= job.deadline - self._estimates.finishing(job, now) + EPSILON

    def _finish(self, job: Job[W], outcome: StopReason | TTAError) -> list[Finished[W]]:
        """Takes a live job out; nobody is answered twice."""
        if job not in self._live:
            return []
        self._live.remove(job)
        self._timers.remove(job)
        self._open.pop(job, None)
        return [Finished(job, outcome)]
