"""Decides what each free slot of a pool runs next, who is admitted, and when a job is answered.

Pure: no clock, no I/O, no threads; time is an argument, in seconds. The shell (`engine`) calls it under a lock.
"""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from tta_server.errors import BackendFailed, Cancelled, Overloaded, TTAError
from tta_server.scheduling.costs import CostModel
from tta_server.scheduling.dispatch import Dispatcher
from tta_server.scheduling.estimates import each_job
from tta_server.scheduling.jobs import (
    Backlog,
    Batch,
    Bounds,
    Decode,
    Failed,
    Finished,
    Job,
    Merged,
    Outcome,
    Phase,
    Quote,
    Step,
)
from tta_server.scheduling.pool import Pool
from tta_server.scheduling.stopping import StopReason

W = TypeVar("W")
S = TypeVar("S", Decode[Any], Batch[Any])


class Scheduler(Generic[W]):
    """One a pool of equal slots."""

    def __init__(self, costs: CostModel, slots: int, bounds: Bounds | None = None) -> None:
        self.costs = costs
        self.slots = slots
        self._pool: Pool[W] = Pool(costs, slots, bounds or Bounds())
        self._dispatcher: Dispatcher[W] = Dispatcher(self._pool)

    # ---- coming and going ----

    def admit(self, job: Job[W], now: float) -> None:
        """Raises Overloaded; InvalidInput for a budget that even an idle pool could not keep; TooLarge for an image
        that does not fit among those that wait."""
        self._pool.live.admit(job, now)
        plain = job.load if job.mandatory == 1 else self._pool.estimates.load(job, 1, now)
        self._pool.arrivals.observe(job, plain, now)
        self._pool.set_due(job, now)

    def admit_all(self, jobs: Sequence[Job[W]], now: float) -> None:
        """All of them or none; raises as `admit` does, also where an idle pool could not take them together."""
        if len(jobs) > 1:
            self._pool.live.check_group(jobs, now)
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
                    str(error), max(error.retry_after, self._pool.live.group_wait(jobs, now)), error.reason
                ) from None
            raise

    def quote(self, job: Job[W], now: float) -> Quote:
        """What `admit` would do and what would come of it; raises InvalidInput and TooLarge as it does."""
        return self._pool.live.quote(job, len(self._pool.open_jobs), now)

    def ready(self, decode: Decode[W], seconds: float, now: float) -> None:
        """Its image is decoded: its views may run."""
        job = decode.job
        self._pool.release(decode.slot)
        self.costs.observe_stage("decode", job.model, job.pixels, seconds, now)
        job.phase = Phase.READY
        if job in self._pool.live:
            self._pool.set_due(job, now)

    def cancel(self, job: Job[W], now: float) -> list[Finished[W]]:
        """Its client has left; a batch that still runs for it is ignored on return."""
        return self._pool.finish(job, Cancelled("the client has left"))

    def drop_all(self, error: TTAError) -> list[Finished[W]]:
        """Everything that is live, with the same error."""
        return [done for job in list(self._pool.live) for done in self._pool.finish(job, error)]

    def __len__(self) -> int:
        """How many jobs are live."""
        return len(self._pool.live)

    def backlog(self) -> Backlog:
        return Backlog(len(self._pool.live), self._pool.queue.load, self._pool.live.nbytes)

    # ---- what a free slot does next ----

    def next_batch(self, slot: int, now: float) -> Step[W] | None:
        """What this free slot does now; None when there is nothing."""
        return self._dispatcher.next_step(slot, now)

    @property
    def more(self) -> bool:
        """Whether another slot should ask too: somebody waits whose image is not just being decoded."""
        return bool(self._pool.open_jobs) or any(job.phase is not Phase.DECODING for job in self._pool.queue.waiting)

    # ---- what came back ----

    def completed(self, batch: Batch[W], outcomes: Sequence[Outcome], seconds: float, now: float) -> list[Finished[W]]:
        """A batch is back, its predictions merged outside; one outcome a view."""
        self.costs.observe(batch.bucket, len(batch.items), seconds, now)
        self._pool.release(batch.slot)
        finished: list[Finished[W]] = []
        for (job, view), outcome in zip(batch.items, outcomes, strict=True):
            job.progress = job.progress.come_back()
            if job.last_slot == batch.slot:
                job.last_end = 0.0
            if job in self._pool.live:
                finished += self._came_back(job, view, outcome)
        undecided: list[Job[W]] = []
        for job in each_job(batch.items):
            if job in self._pool.live and job.is_answerable and not job.progress.stop:
                verdict = self._pool.outlook.outcome(job, now, was_due=False)
                if verdict is None:
                    undecided.append(job)
                else:
                    finished += self._pool.finish(job, verdict)
        self._charge_finishing(batch.slot, finished, now)
        for job in undecided:
            if not self._pool.stays_open(job, now):
                finished += self._pool.finish(job, StopReason.CAPACITY)
                self._charge_finishing(batch.slot, finished, now)
        return finished

    def _came_back(self, job: Job[W], view: int, outcome: Outcome) -> list[Finished[W]]:
        if isinstance(outcome, Merged):
            job.progress = job.progress.merge(view).judge(outcome.open_share)
            job.expected_gain = outcome.expected_gain
            return self._pool.finish(job, outcome.stop) if outcome.stop and job.is_answerable else []
        job.lose(view)
        if view >= job.mandatory:
            return []
        if isinstance(outcome, Failed):
            return self._pool.finish(job, outcome.error)
        return self._pool.finish(job, BackendFailed("the model's output for a mandatory view holds NaN or infinity"))

    def finished(self, job: Job[W], seconds: float, now: float) -> None:
        """An answer was made in that many seconds."""
        self.costs.observe_stage(job.finish, job.model, job.pixels, seconds, now)

    def failed(self, step: Decode[W] | Batch[W], error: TTAError, now: float) -> list[Finished[W]]:
        """Fails the jobs that lack a mandatory view by it; those that have theirs are answered with what they have, and
        those whose mandatory views still run lose an optional one."""
        self._pool.release(step.slot)
        items = [(step.job, 0)] if isinstance(step, Decode) else step.items
        finished: list[Finished[W]] = []
        for job, view in items:
            if isinstance(step, Batch):
                job.progress = job.progress.come_back()
            if job not in self._pool.live:
                continue
            if job.is_answerable:
                finished += self._pool.finish(job, StopReason.BACKEND_FAILED)
            elif view < job.mandatory:
                finished += self._pool.finish(job, error)
            else:
                job.progress = job.progress.fail(view)
        self._charge_finishing(step.slot, finished, now)
        return finished

    def _charge_finishing(self, slot: int, finished: Sequence[Finished[W]], now: float) -> None:
        """The slot that ran the last view makes the answers before it asks for more."""
        made = [done.job for done in finished if isinstance(done.outcome, StopReason)]
        if made:
            self._pool.slots.take(slot, now + sum(self._pool.estimates.finishing(job, now) for job in made))

    # ---- time ----

    def due(self, now: float) -> list[Finished[W]]:
        """Jobs that can no longer make it fail now. For those for which nothing more can arrive in time, their answer
        waits for a slot from now on: ask the idle ones. It is handed out here only where costs were exceeded and no
        slot is free in time for it."""
        return [done for job in self._pool.timers.take_due(now) for done in self._fell_due(job, now)]

    def wake_at(self) -> float | None:
        """When `due` should be asked again if nothing else happens."""
        return self._pool.timers.first()

    def overdue(self, now: float) -> list[Step[W]]:
        """What runs far past its estimate and should be ended; told once."""
        return self._pool.watchdog.overdue(now)

    def stuck(self, now: float) -> list[int]:
        """Slots that did not come back long after their step was to be ended."""
        return self._pool.watchdog.stuck(now)

    def watch_at(self) -> float | None:
        """When `overdue` and `stuck` should be asked again if nothing else happens."""
        return self._pool.watchdog.look_at()

    def _fell_due(self, job: Job[W], now: float) -> list[Finished[W]]:
        if job.progress.stop:
            return self._pool.finish(job, job.progress.stop)
        outcome = self._pool.outlook.outcome(job, now, was_due=True)
        if isinstance(outcome, TTAError) or (outcome and job.running and not self._pool.slots.idle):
            return self._pool.finish(job, outcome)
        if outcome:
            self._pool.close(job, outcome, now)
        else:
            self._pool.set_due(job, now)
        return []
