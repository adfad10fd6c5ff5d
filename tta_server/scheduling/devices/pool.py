"""The state of a device pool: queued and open jobs, answers that wait for a worker. Pure."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tta_server.errors import TTAError
from tta_server.scheduling.base import BasePool
from tta_server.scheduling.costs import CostModel
from tta_server.scheduling.devices.admission import DeviceAdmission
from tta_server.scheduling.devices.batches import BatchBuilder
from tta_server.scheduling.devices.bounds import DeviceQueue
from tta_server.scheduling.devices.ladder import DeviceEstimates
from tta_server.scheduling.devices.open_views import OpenViews
from tta_server.scheduling.devices.slots import DeviceSlots, Workers
from tta_server.scheduling.estimates import EPSILON
from tta_server.scheduling.jobs import Batch, Bounds, Decode, Finish, Finished, Job
from tta_server.scheduling.outlook import Outlook
from tta_server.scheduling.stopping import StopReason

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class DeviceOutlook(Outlook[W]):
    """As Outlook, with answers that wait for a worker."""

    queue: DeviceQueue[W]

    def latest_view_end(self, job: Job[W], now: float) -> float:
        return job.deadline - job.answer_seconds - self.queue.answer_wait(now)

    def changes_at(self, job: Job[W], now: float) -> float:
        """Earlier than by today's wait for a worker, as far as that may grow; the exact time once that has come."""
        exact = Outlook.changes_at(self, job, now)  # super() does not work in a class with slots
        early = exact - self.queue.longest_decode
        return early if job.is_answerable and early > now else exact


class DevicePool(BasePool[W]):
    """The state that the parts of a device's scheduler share.

    Threads are numbered: first the slots, then the workers.
    """

    def __init__(self, costs: CostModel, slots: DeviceSlots, workers: int, bounds: Bounds) -> None:
        super().__init__()
        self.estimates: DeviceEstimates = DeviceEstimates(costs)
        self.slots = slots
        self.workers = Workers(workers)
        self.queue: DeviceQueue[W] = DeviceQueue(self.estimates, self.slots, self.workers)
        self.live: DeviceAdmission[W] = DeviceAdmission(self.estimates, self.slots, self.workers, self.queue, bounds)
        self.open_views: OpenViews[W] = OpenViews()
        self.batches: BatchBuilder[W] = BatchBuilder(
            self.estimates, self.slots, self.queue, self.open_views, self.arrivals
        )
        self.outlook: DeviceOutlook[W] = DeviceOutlook(self.estimates, self.slots, self.queue)
        self._answers: list[tuple[tuple[bool, float, int], Job[W]]] = []

    def release(self, thread: int) -> None:
        if thread >= self.slots.number:
            self.workers.release(thread)
        else:
            self.slots.release(thread)
            if self.slots.is_busy(thread):
                return  # the watchdog has its next batch
        self.watchdog.ended(thread)

    def end(self, job: Job[W], outcome: StopReason | TTAError) -> list[Finished[W]]:
        """Returns a job that fails; the answer of another one waits for a worker."""
        if isinstance(outcome, TTAError):
            return self.finish(job, outcome)
        if job in self.live and not job.progress.stop:
            job.progress = job.progress.close(outcome)
            self.open_views.remove(job)
            heapq.heappush(self._answers, (job.rank, job))
            self.check_again([job], 0.0)
        return []

    def check_again(self, jobs: Sequence[Job[W]], now: float) -> None:
        """Sets when jobs have to be checked, as answers may wait longer for workers now."""
        for job in jobs:
            if job.progress.stop:
                self.timers.set(job, job.deadline - job.answer_seconds + 2 * EPSILON)
            else:
                self.set_due(job, now)

    def forget(self, job: Job[W]) -> None:
        self.open_views.remove(job)
        self._drop_answered()

    # ---- steps ----

    def next_batch(self, slot: int, now: float) -> Batch[W] | None:
        batch = self.batches.build(slot, now)
        if batch is not None:
            start = self.slots.free_at(slot, now)
            needed = (job.deadline - job.answer_seconds for job, view in batch.items if view < job.mandatory)
            self.slots.run(slot, start + batch.estimate, min(needed, default=math.inf))
            self.watchdog.started(batch, start)
        return batch

    def next_chore(self, worker: int, now: float) -> Finish[W] | Decode[W] | None:
        """The answer with the earliest deadline, else the first image that waits for its decoding."""
        self.workers.release(worker)
        if self.has_answers:
            job = heapq.heappop(self._answers)[1]
            reason = job.progress.stop
            assert reason is not None
            self.finish(job, reason)
            self.workers.take_answer(
                worker, job.answer_seconds, now
            )  # not watched: callbacks of a client may take long
            return Finish(worker, job, reason, job.answer_seconds)
        waiting = self.queue.start_decode(now)
        if waiting is None:
            return None
        self.set_due(waiting, now)
        self.workers.take(worker, waiting.ready_at)
        decode = Decode(worker, waiting, waiting.decode_seconds)
        self.watchdog.started(decode, now)
        return decode

    @property
    def has_answers(self) -> bool:
        """True if an answer waits for a worker."""
        self._drop_answered()
        return bool(self._answers)

    def _drop_answered(self) -> None:
        """Removes jobs at the front that are not live any more, so that their images are freed."""
        while self._answers and self._answers[0][1] not in self.live:
            heapq.heappop(self._answers)
