"""The interface of scheduling for a device with workers beside it. Pure.

Times are in seconds of one clock; the engine calls every method under one lock.
"""

from collections.abc import Mapping
from typing import TypeVar

from tta_server.errors import TTAError
from tta_server.scheduling.base import BaseScheduler
from tta_server.scheduling.costs import CostModel
from tta_server.scheduling.devices.pool import DevicePool
from tta_server.scheduling.devices.slots import DeviceSlots
from tta_server.scheduling.estimates import each_job
from tta_server.scheduling.jobs import Backlog, Batch, Bounds, Decode, Finish, Finished, Job, Outcome, Phase, Quote
from tta_server.scheduling.stopping import StopReason

W = TypeVar("W")


class DeviceScheduler(BaseScheduler[W]):
    """Schedules the jobs of one device, whose slots run batches, and of its workers, which decode and make answers.

    Threads are numbered: the slots from 0 on, then the workers. A slot with one batch in flight may take the next one
    `prepare` seconds before that one ends, and prepare it; it starts then.
    """

    _pool: DevicePool[W]

    def __init__(self, costs: CostModel, slots: DeviceSlots, workers: int, bounds: Bounds | None = None) -> None:
        super().__init__(costs, slots.number, workers)
        self.batches_in_flight = slots.most_in_flight
        self._pool = DevicePool(costs, slots, workers, bounds or Bounds())

    # ---- jobs ----

    def quote(self, job: Job[W], now: float) -> Quote:
        return self._pool.live.quote(job, len(self._pool.open_views), now)

    def backlog(self) -> Backlog:
        return Backlog(len(self._pool.live), self._pool.queue.load, self._pool.live.nbytes)

    def _made_ready(self, job: Job[W], now: float) -> None:
        self._pool.queue.make_ready(job)
        super()._made_ready(job, now)

    def ready(self, decode: Decode[W], seconds: float, now: float) -> None:
        self._pool.queue.decoded(decode.job)
        super().ready(decode, seconds, now)

    # ---- what a free slot or worker does next ----

    def asks_at(self, slot: int) -> float:
        return self._pool.slots.asks_at(slot)

    def next_batch(self, slot: int, now: float) -> Batch[W] | None:
        return self._pool.next_batch(slot, now)

    @property
    def has_more_work(self) -> bool:
        """True if another free slot should call `next_batch`: a view of a decoded image waits."""
        return self._pool.queue.has_ready or len(self._pool.open_views) > 0

    def next_chore(self, worker: int, now: float) -> Finish[W] | Decode[W] | None:
        return self._pool.next_chore(worker, now)

    @property
    def has_more_chores(self) -> bool:
        """True if another free worker should call `next_chore`: an answer waits, or an image for its decoding."""
        return self._pool.has_answers or self._pool.queue.has_decodable

    # ---- results of steps ----

    def prepared(self, batch: Batch[W], seconds: float, now: float) -> None:
        self._pool.slots.observe_prepare(batch, seconds, now)

    def completed(
        self, batch: Batch[W], outcomes: Mapping[Job[W], Outcome], seconds: float, now: float
    ) -> list[Finished[W]]:
        """As `Scheduler.completed`, but only failed jobs are returned: answers wait for `next_chore`."""
        self.costs.observe_rung(batch.bucket, batch.rows, seconds, now)
        self._pool.release(batch, now)
        finished = self._apply(batch, outcomes)
        for job in each_job(batch.items):
            if job in self._pool.live and not job.progress.stop:
                self._go_on(job, now)
        return finished

    def _go_on(self, job: Job[W], now: float) -> None:
        """Closes a job whose batch has ended, if no more views can end in time, or keeps it open for more."""
        if job.is_answerable and (reason := self._pool.outlook.outcome(job, now, was_due=False)):
            assert isinstance(reason, StopReason)
            self._pool.end(job, reason)
            return
        if job.mandatory_dispatched:
            self._pool.open_views.put(job)
        self._pool.set_due(job, now)

    def failed(self, step: Decode[W] | Batch[W], error: TTAError, now: float) -> list[Finished[W]]:
        if isinstance(step, Decode) and step.job.phase is Phase.DECODING:
            self._pool.queue.decoded(step.job)
        return super().failed(step, error, now)

    # ---- time ----

    def _settle_if_due(self, job: Job[W], now: float) -> list[Finished[W]]:
        if job.progress.stop:
            return self._pool.finish(job, job.progress.stop)
        outcome = self._pool.outlook.outcome(job, now, was_due=True)
        if outcome is None:
            self._pool.set_due(job, now)
            return []
        return self._pool.end(job, outcome)
