"""The interface of scheduling: admits jobs, gives slots their next step, takes results, finishes jobs. Pure.

Times are in seconds of one clock; the engine calls every method under one lock.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

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


class Scheduler(Generic[W]):
    """Schedules the jobs of one pool of equal slots.

    Methods that return `Finished` jobs leave it to the caller to settle these.
    """

    def __init__(self, costs: CostModel, slots: int, bounds: Bounds | None = None) -> None:
        self.costs = costs
        self.slots = slots
        self._pool: Pool[W] = Pool(costs, slots, bounds or Bounds())
        self._dispatcher: Dispatcher[W] = Dispatcher(self._pool)

    # ---- jobs ----

    def admit(self, job: Job[W], now: float) -> None:
        """Adds a job.

        Raises Overloaded; BudgetTooSmall if an idle pool could not do its mandatory work in time; TooLarge if it
        exceeds the pool's bounds alone.
        """
        self._pool.live.admit(job, now)
        plain = job.load if job.mandatory == 1 else self._pool.estimates.load(job, 1, now)
        self._pool.arrivals.observe(job, plain, now)
        self._pool.set_due(job, now)

    def admit_all(self, jobs: Sequence[Job[W]], now: float) -> None:
        """Admits all of these jobs or none. Raises as `admit` does, and if an idle pool could not take all of them."""
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
        """What the job would get now; nothing is admitted. Raises BudgetTooSmall or TooLarge as `admit` does."""
        return self._pool.live.quote(job, len(self._pool.open_jobs), now)

    def ready(self, decode: Decode[W], seconds: float, now: float) -> None:
        """A job's image was decoded in `seconds`: its views may run."""
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
        """The live jobs: their number, slot seconds of waiting mandatory work, and bytes."""
        return Backlog(len(self._pool.live), self._pool.queue.load, self._pool.live.nbytes)

    # ---- what a free slot does next ----

    def next_batch(self, slot: int, now: float) -> Step[W] | None:
        """The step that this free slot starts now; None if there is none."""
        return self._dispatcher.next_step(slot, now)

    @property
    def has_more_work(self) -> bool:
        """True if another free slot should call `next_batch`: a job waits for more than its decoding."""
        return bool(self._pool.open_jobs) or any(job.phase is not Phase.DECODING for job in self._pool.queue.waiting)

    # ---- results of steps ----

    def completed(self, batch: Batch[W], outcomes: Sequence[Outcome], seconds: float, now: float) -> list[Finished[W]]:
        """A batch ran in `seconds`, with one outcome a view; its predictions are merged already."""
        self.costs.observe(batch.bucket, len(batch.items), seconds, now)
        self._pool.release(batch.slot)
        finished: list[Finished[W]] = []
        for (job, view), outcome in zip(batch.items, outcomes, strict=True):
            job.progress = job.progress.end_run()
            if job.last_slot == batch.slot:
                job.last_end = 0.0
            if job in self._pool.live:
                finished += self._apply_outcome(job, view, outcome)
        undecided: list[Job[W]] = []
        for job in each_job(batch.items):
            if job in self._pool.live and job.is_answerable and not job.progress.stop:
                reason = self._pool.outlook.outcome(job, now, was_due=False)
                if reason is None:
                    undecided.append(job)
                else:
                    finished += self._pool.finish(job, reason)
        self._charge_finishing(batch.slot, finished, now)
        for job in undecided:
            if not self._pool.keep_open(job, now):
                finished += self._pool.finish(job, StopReason.CAPACITY)
                self._charge_finishing(batch.slot, finished, now)
        return finished

    def _apply_outcome(self, job: Job[W], view: int, outcome: Outcome) -> list[Finished[W]]:
        if isinstance(outcome, Merged):
            job.progress = job.progress.merge(view).set_open_share(outcome.open_share)
            job.expected_gain = outcome.expected_gain
            return self._pool.finish(job, outcome.stop) if outcome.stop and job.is_answerable else []
        job.lose(view)
        if view >= job.mandatory:
            return []
        if isinstance(outcome, Failed):
            return self._pool.finish(job, outcome.error)
        return self._pool.finish(job, BackendFailed("the model's output for a mandatory view holds NaN or infinity"))

    def finished(self, job: Job[W], seconds: float, now: float) -> None:
        """A job's answer was made in `seconds`."""
        self.costs.observe_stage(job.finish, job.model, job.pixels, seconds, now)

    def failed(self, step: Decode[W] | Batch[W], error: TTAError, now: float) -> list[Finished[W]]:
        """A step failed as a whole.

        Finishes the jobs in it: with an answer if all mandatory views are merged, with the error if a mandatory view
        failed. A job that lost only an optional view, while mandatory ones still run, continues.
        """
        self._pool.release(step.slot)
        items = [(step.job, 0)] if isinstance(step, Decode) else step.items
        finished: list[Finished[W]] = []
        for job, view in items:
            if isinstance(step, Batch):
                job.progress = job.progress.end_run()
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
        """Keeps the slot busy, for it makes these answers before its next step."""
        made = [done.job for done in finished if isinstance(done.outcome, StopReason)]
        if made:
            self._pool.slots.take(slot, now + sum(self._pool.estimates.finishing(job, now) for job in made))

    # ---- time ----

    def due(self, now: float) -> list[Finished[W]]:
        """Finishes the jobs whose time has come; call it at `wake_at` and before `next_batch`.

        A job that can't meet its deadline fails. A job that gets no more views in time is closed: its answer waits for
        a slot, so wake the idle ones. It is returned here only if no slot is free in time for the answer.
        """
        return [done for job in self._pool.timers.take_due(now) for done in self._settle_if_due(job, now)]

    def wake_at(self) -> float | None:
        """The next time to call `due`; None without live jobs."""
        return self._pool.timers.next_due()

    def overdue(self, now: float) -> list[Step[W]]:
        """The steps that run far past their estimates and should be aborted; each is returned once."""
        return self._pool.watchdog.overdue(now)

    def stuck(self, now: float) -> list[int]:
        """The slots whose step did not end long after it was aborted; each is returned once."""
        return self._pool.watchdog.stuck(now)

    def watch_at(self) -> float | None:
        """The next time to call `overdue` and `stuck`; None if no step runs."""
        return self._pool.watchdog.check_at()

    def _settle_if_due(self, job: Job[W], now: float) -> list[Finished[W]]:
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
