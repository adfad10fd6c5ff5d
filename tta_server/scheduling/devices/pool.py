"""The state of a device pool: queued and open jobs, answers that wait for a worker. Pure."""

import heapq
import math
from collections.abc import Iterable
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
from tta_server.scheduling.timers import DueTimers

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class DeviceOutlook(Outlook[W]):
    """As Outlook, with answers that wait for a worker."""

    queue: DeviceQueue[W]

    def latest_view_end(self, job: Job[W], now: float) -> float:
        return job.deadline - job.answer_seconds - self.queue.answer_wait


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
        self._answer_timers: DueTimers[W] = DueTimers()
        """Due times of jobs that can be answered, if no answer would wait for a worker."""
        self._answers: list[tuple[tuple[bool, float, int], Job[W]]] = []

    def release(self, step: Decode[W] | Batch[W], now: float) -> None:
        self.watchdog.ended(step.slot)
        if isinstance(step, Decode):
            self.workers.release(step.slot)
            return
        self.slots.end(step, now)
        if following := self.slots.running(step.slot):
            self.watchdog.started(following.batch, following.start)

    def end(self, job: Job[W], outcome: StopReason | TTAError) -> list[Finished[W]]:
        """Returns a job that fails; the answer of another one waits for a worker."""
        if isinstance(outcome, TTAError):
            return self.finish(job, outcome)
        if job in self.live and not job.progress.stop:
            job.progress = job.progress.close(outcome)
            self.open_views.remove(job)
            heapq.heappush(self._answers, (job.rank, job))
            self._answer_timers.remove(job)
            self.timers.set(job, job.deadline - job.answer_seconds + 3 * EPSILON)
        return []

    def set_due(self, job: Job[W], now: float) -> None:
        if job.is_answerable:
            self.timers.remove(job)
            self._answer_timers.set(job, self.outlook.changes_at(job, now) + self.queue.answer_wait)
        else:
            super().set_due(job, now)

    def take_due(self, now: float) -> Iterable[Job[W]]:
        return [*self.timers.take_due(now), *self._answer_timers.take_due(now + self.queue.answer_wait + EPSILON / 2)]

    def next_due(self) -> float | None:
        at, answer_at = self.timers.next_due(), self._answer_timers.next_due()
        if answer_at is None:
            return at
        return min(answer_at - self.queue.answer_wait, math.inf if at is None else at)

    def forget(self, job: Job[W]) -> None:
        self._answer_timers.remove(job)
        self.open_views.remove(job)
        self._drop_answered()

    # ---- steps ----

    def next_batch(self, slot: int, now: float) -> Batch[W] | None:
        batch = self.batches.build(slot, now)
        if batch is not None:
            start = self.slots.free_at(slot, now)
            needed = (job.deadline - job.answer_seconds for job, view in batch.items if view < job.mandatory)
            if not self.slots.running(slot):
                self.watchdog.started(batch, start)
            self.slots.begin(batch, start, min(needed, default=math.inf))
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
