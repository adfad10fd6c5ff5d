"""The state of a pool of slots: live, queued and open jobs, and how a job moves between these. Pure."""

from typing import TypeVar

from tta_server.errors import TTAError
from tta_server.scheduling.admission import Admission
from tta_server.scheduling.base import BasePool
from tta_server.scheduling.batches import BatchBuilder
from tta_server.scheduling.costs import CostModel
from tta_server.scheduling.estimates import EPSILON, Estimates, Slots
from tta_server.scheduling.jobs import Batch, Bounds, Decode, Finished, Job
from tta_server.scheduling.mean_estimates import MeanEstimates
from tta_server.scheduling.outlook import Outlook
from tta_server.scheduling.queue import MandatoryQueue
from tta_server.scheduling.stopping import StopReason

W = TypeVar("W")


class Pool(BasePool[W]):
    """The state that all parts of the scheduler share.

    `live` has every job that is admitted and not finished, `queue` those whose mandatory work waits, `open_jobs` those
    of which optional views wait. An open job is queued too while its answer waits for a slot.
    """

    def __init__(self, costs: CostModel, slots: int, bounds: Bounds) -> None:
        super().__init__()
        self.costs = costs
        self.estimates = Estimates(costs)
        self.slots = Slots(slots)
        self.queue: MandatoryQueue[W] = MandatoryQueue(MeanEstimates(costs), self.slots)
        self.live: Admission[W] = Admission(self.estimates, self.slots, self.queue, bounds, self.arrivals)
        self.open_jobs: dict[Job[W], None] = {}
        self.batches: BatchBuilder[W] = BatchBuilder(
            self.estimates, self.slots, self.queue, self.open_jobs, self.arrivals
        )
        self.outlook: Outlook[W] = Outlook(self.estimates, self.slots, self.queue)

    def is_idle(self, now: float) -> bool:
        """True if no slot runs a step or makes an answer."""
        return self.watchdog.is_idle and self.slots.all_free(now) <= now + EPSILON

    def release(self, step: Decode[W] | Batch[W], now: float) -> None:
        self.free(step.slot)

    def free(self, slot: int) -> None:
        """Records that a slot is idle: it has also made the answers that followed its step."""
        self.slots.release(slot)
        self.watchdog.ended(slot)

    def end(self, job: Job[W], outcome: StopReason | TTAError) -> list[Finished[W]]:
        return self.finish(job, outcome)

    def forget(self, job: Job[W]) -> None:
        self.open_jobs.pop(job, None)

    def requeue(self, job: Job[W]) -> None:
        """Moves a job whose mandatory views are dispatched to the open jobs, if optional views wait."""
        self.queue.remove(job)
        if job.all_dispatched:
            self.open_jobs.pop(job, None)
        else:
            self.open_jobs[job] = None

    def keep_open(self, job: Job[W], now: float) -> bool:
        """Keeps a job open for more views before its answer; False if a queued job would be late then."""
        if not job.running:
            self._queue_answer(job, now)
            if self.queue.is_late(now):
                return False
        self.set_due(job, now)
        return True

    def close(self, job: Job[W], reason: StopReason, now: float) -> None:
        """Ends the dispatch of a job's views: a slot makes the answer; if none is free in time, the caller of `due`."""
        job.progress = job.progress.close(reason)
        self.open_jobs.pop(job, None)
        last = self.outlook.latest_view_end(job, now)
        if job.running:
            self._queue_answer(job, now)
            last = (now + job.deadline) / 2  # the answer is late already, but a slot is idle
        else:
            self.queue.mark_closed(job)
        self.timers.set(job, last + 2 * EPSILON)

    def _queue_answer(self, job: Job[W], now: float) -> None:
        """Queues a job whose only mandatory work is its answer."""
        job.load = self.queue.estimates.finishing(job, now)
        self.queue.add(job)
        self.queue.set_variance(job, now)
