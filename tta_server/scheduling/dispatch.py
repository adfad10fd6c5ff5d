"""What a free slot does next. Pure."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.jobs import Batch, Decode, Finish, Job, Phase, Step
from tta_server.scheduling.pool import Pool
from tta_server.scheduling.stopping import StopReason

W = TypeVar("W")
S = TypeVar("S", Decode[Any], Batch[Any])


class Dispatcher(Generic[W]):
    """Picks the next step of a free slot and records in the pool that it starts."""

    def __init__(self, pool: Pool[W]) -> None:
        self._pool = pool

    def next_step(self, slot: int, now: float) -> Step[W] | None:
        """The step that this slot starts now; None if there is none.

        Interactive mandatory work comes first, in deadline order, then optional views that end in time, then batch
        jobs. A batch job comes before optional views that would make it late. A job behind one that is being decoded
        starts only if it makes no queued job late. An open job is passed over, for its answer may wait for more views;
        its answer is made first if a job behind it would make it late.
        """
        self._pool.free(slot)
        decoding = open_ahead = tried_optional = False
        for job in self._pool.queue if self._pool.queue.waiting else ():
            if job.is_batch and not tried_optional:
                tried_optional = True
                if optional := self._optional_step(slot, now):
                    return optional
            if job.phase is Phase.DECODING or job.is_open:
                decoding |= job.phase is Phase.DECODING
                open_ahead |= job.is_open
                continue
            items = [] if job.progress.stop or job.phase is Phase.WAITING else self._pool.batches.fill(job, now)
            delayed = self._pool.batches.first_delayed(job, items, now) if decoding or open_ahead else None
            if delayed and (answer := self._finish_queued_answer(slot, now)):
                return answer
            if delayed and decoding:
                return None  # jobs further back must not overtake this one
            return self._start_mandatory(slot, job, items, now)
        return None if tried_optional else self._optional_step(slot, now)

    def _optional_step(self, slot: int, now: float) -> Step[W] | None:
        """The answer of a closed job, if it delays no other job; else optional views that end in time.

        Views of interactive jobs come before those of batch jobs; then the job with the greatest expected change per
        second, the fewest dispatched views, the earliest deadline. If its views would make an answer late, that answer
        is made instead. A job whose stop rule may end it before its next view has at most one view on each slot.
        """
        closings = (job for job in self._pool.queue.waiting if job.progress.stop)
        closing = min(closings, key=lambda job: job.deadline, default=None)
        if closing and not self._pool.batches.first_delayed(closing, [], now):
            return self._start_finish(slot, closing, now)
        open_jobs = [job for job in self._pool.open_jobs if not job.is_ahead(self._pool.slots.number)]
        if not open_jobs:
            return None
        seconds: dict[Bucket, float] = {}

        def rank(job: Job[W]) -> tuple[bool, float, int, float]:
            bucket = job.next_bucket
            if bucket not in seconds:
                seconds[bucket] = self._pool.costs.seconds(bucket, 1, now)
            return job.is_batch, -job.expected_gain / seconds[bucket], job.dispatched, job.deadline

        head = min(open_jobs, key=rank) if len(open_jobs) > 1 else open_jobs[0]
        if not self._pool.outlook.ends_in_time(head, now):
            eligible = [job for job in open_jobs if self._pool.outlook.ends_in_time(job, now)]
            if not eligible:
                return None
            head = min(eligible, key=rank)
        items = self._pool.batches.fill(head, now)
        if self._pool.queue and (delayed := self._pool.batches.first_delayed(head, items, now)):
            return self._finish_queued_answer(slot, now) if delayed.mandatory_dispatched else None
        risky = self._pool.batches.is_risky(items, now)
        if risky and not self._pool.is_idle(now):
            return None
        return self._start_batch(slot, items, now, risky)

    def _finish_queued_answer(self, slot: int, now: float) -> Finish[W] | None:
        """Makes the answer of the first queued job that needs nothing else; None if even that makes a job late."""
        job = next((job for job in self._pool.queue if job.mandatory_dispatched), None)
        if job is None or self._pool.batches.first_delayed(job, [], now):
            return None
        return self._start_finish(slot, job, now)

    def _start_mandatory(self, slot: int, job: Job[W], items: Sequence[tuple[Job[W], int]], now: float) -> Step[W]:
        """Runs these views; without any, makes the job's answer or decodes its image."""
        if items:
            return self._start_batch(slot, items, now)
        return self._start_finish(slot, job, now) if job.progress.stop else self._start_decode(slot, job, now)

    def _start_finish(self, slot: int, job: Job[W], now: float) -> Finish[W]:
        estimate, reason = self._pool.estimates.finishing(job, now), job.progress.stop or StopReason.CAPACITY
        self._pool.finish(job, reason)
        # not watched: callbacks of the client's future may take long
        self._pool.slots.take(slot, now + estimate, estimate)
        return Finish(slot, job, reason, estimate)

    def _start_decode(self, slot: int, job: Job[W], now: float) -> Decode[W]:
        estimate = self._pool.estimates.decoding(job, now)
        job.phase = Phase.DECODING
        job.ready_at = now + estimate
        self._pool.queue.reprice(job, now)
        self._pool.set_due(job, now)
        return self._start(Decode(slot, job, estimate), job.ready_at, now)

    def _start_batch(self, slot: int, items: Sequence[tuple[Job[W], int]], now: float, risky: bool = False) -> Batch[W]:
        bucket, step = items[0][0].next_bucket, self._pool.estimates.next_step(items[0][0], items, now)
        for other, seconds in step.elsewhere.items():
            self._pool.slots.delay(other, seconds)
        for job, views in step.views.items():
            if now + step.seconds > job.last_end:
                job.last_slot, job.last_end = slot, now + step.seconds
            job.progress = job.progress.dispatch(views)
            if job.mandatory_dispatched:  # before that its due time only moves later, and an early check is harmless
                self._pool.requeue(job)
                self._pool.set_due(job, now)
            else:
                self._pool.queue.reprice(job, now)
        return self._start(Batch(slot, bucket, tuple(items), step.seconds, risky), now + step.busy, now)

    def _start(self, step: S, until: float, now: float) -> S:
        self._pool.slots.take(step.slot, until, until - now)
        self._pool.watchdog.started(step, now)
        return step
