"""The interface of scheduling: admits jobs, gives slots their next step, takes results, finishes jobs. Pure.

Times are in seconds of one clock; the engine calls every method under one lock.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from tta_server.errors import TTAError
from tta_server.scheduling.base import BaseScheduler
from tta_server.scheduling.costs import CostModel
from tta_server.scheduling.dispatch import Dispatcher
from tta_server.scheduling.estimates import each_job
from tta_server.scheduling.jobs import Backlog, Batch, Bounds, Decode, Finished, Job, Outcome, Phase, Quote, Step
from tta_server.scheduling.pool import Pool
from tta_server.scheduling.stopping import StopReason

W = TypeVar("W")


class Scheduler(BaseScheduler[W]):
    """Schedules the jobs of one pool of equal slots, which decode, run batches and make answers."""

    _pool: Pool[W]

    def __init__(self, costs: CostModel, slots: int, bounds: Bounds | None = None) -> None:
        super().__init__(costs, slots, 0)
        self._pool = Pool(costs, slots, bounds or Bounds())
        self._dispatcher: Dispatcher[W] = Dispatcher(self._pool)

    # ---- jobs ----

    def _plain_seconds(self, job: Job[W], now: float) -> float:
        return job.load if job.mandatory == 1 else super()._plain_seconds(job, now)

    def quote(self, job: Job[W], now: float) -> Quote:
        return self._pool.live.quote(job, len(self._pool.open_jobs), now)

    def backlog(self) -> Backlog:
        return Backlog(len(self._pool.live), self._pool.queue.load, self._pool.live.nbytes)

    # ---- what a free slot does next ----

    def next_batch(self, slot: int, now: float) -> Step[W] | None:
        return self._dispatcher.next_step(slot, now)

    @property
    def has_more_work(self) -> bool:
        """True if another free slot should call `next_batch`: a job waits for more than its decoding."""
        return bool(self._pool.open_jobs) or any(job.phase is not Phase.DECODING for job in self._pool.queue.waiting)

    def next_chore(self, worker: int, now: float) -> None:
        return None

    @property
    def has_more_chores(self) -> bool:
        return False

    # ---- results of steps ----

    def completed(
        self, batch: Batch[W], outcomes: Mapping[Job[W], Outcome], seconds: float, now: float
    ) -> list[Finished[W]]:
        self.costs.observe(batch.bucket, len(batch.items), seconds, now)
        self._pool.release(batch, now)
        jobs = each_job(batch.items)
        for job in jobs:
            if job.last_slot == batch.slot:
                job.last_end = 0.0
        finished = self._apply(batch, outcomes)
        undecided: list[Job[W]] = []
        for job in jobs:
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

    def failed(self, step: Decode[W] | Batch[W], error: TTAError, now: float) -> list[Finished[W]]:
        finished = super().failed(step, error, now)
        self._charge_finishing(step.slot, finished, now)
        return finished

    def _charge_finishing(self, slot: int, finished: Sequence[Finished[W]], now: float) -> None:
        """Keeps the slot busy, for it makes these answers before its next step."""
        made = [done.job for done in finished if isinstance(done.outcome, StopReason)]
        if made:
            self._pool.slots.take(slot, now + sum(self._pool.estimates.finishing(job, now) for job in made))

    # ---- time ----

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
