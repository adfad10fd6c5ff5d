"""What can still become of a job: whether its views end in time, and when it has to be answered. Pure."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from tta_server.errors import DeadlineExceeded, TTAError
from tta_server.scheduling.estimates import EPSILON, Estimates, Slots
from tta_server.scheduling.jobs import Job, Phase
from tta_server.scheduling.queue import MandatoryQueue
from tta_server.scheduling.stopping import StopReason

W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Outlook(Generic[W]):
    estimates: Estimates
    slots: Slots
    queue: MandatoryQueue[W]

    def ends_in_time(self, job: Job[W], now: float) -> bool:
        """True if its next view would end early enough for its answer."""
        return now + self.estimates.next_view(job, now) <= self.last_end(job, now) + EPSILON

    def last_end(self, job: Job[W], now: float) -> float:
        """When its last view has to end, so that its answer can be made."""
        return job.deadline - self.estimates.finishing(job, now)

    def outcome(self, job: Job[W], now: float, was_due: bool) -> StopReason | TTAError | None:
        """Why a job is to be answered now, or the error that it fails with; None if more can arrive in time."""
        if not job.is_answerable:
            if now <= self._hopeless_at(job) + EPSILON:
                return None
            return DeadlineExceeded("the budget ran out before the mandatory views were done")
        if job.is_complete:
            return StopReason.BACKEND_FAILED if job.progress.failed else StopReason.ALL_VIEWS
        end = self.last_end(job, now)
        if job.running:
            return None if now < end - EPSILON else StopReason.DEADLINE
        cost = self.estimates.next_view(job, now)
        if now + cost > end + EPSILON:
            return StopReason.CAPACITY if was_due else StopReason.DEADLINE
        return StopReason.CAPACITY if self.queue.free_after_queue(now) + cost > end + EPSILON else None

    def changes_at(self, job: Job[W], now: float) -> float:
        """The first moment past which `outcome` may differ, so that asking then always settles it."""
        if not job.is_answerable:
            last = self._hopeless_at(job)
        elif job.running:
            last = self.last_end(job, now)
        else:
            last = self.last_end(job, now) - self.estimates.next_view(job, now)
        return last + 2 * EPSILON

    def _hopeless_at(self, job: Job[W]) -> float:
        """When a job's mandatory views can no longer be done in time; the deadline itself once they all run.

        By the least costs known: a slow spell must not fail those whom an idle pool admits, or its end would never be
        seen.
        """
        if job.phase is Phase.DECODING or job.mandatory_dispatched:
            return job.deadline
        return job.deadline - self.estimates.alone(job, self.slots.number)
