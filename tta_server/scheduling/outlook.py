"""Whether more views of a job can end in time, and when the job has to be answered. Pure."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tta_server.errors import DeadlineExceeded, TTAError
from tta_server.scheduling.estimates import EPSILON, Estimates, Slots
from tta_server.scheduling.jobs import Job, Phase
from tta_server.scheduling.stopping import StopReason

W = TypeVar("W")


class QueueEnd(Protocol):
    def free_after_queue(self, now: float) -> float:
        """When the first slot is free after the whole queue is scheduled."""


@dataclass(frozen=True, slots=True)
class Outlook(Generic[W]):
    """Predicts from costs and queue whether a job gets more views before its deadline."""

    estimates: Estimates
    slots: Slots
    queue: QueueEnd

    def ends_in_time(self, job: Job[W], now: float) -> bool:
        """True if the job's next view, started now, leaves time for the answer."""
        return now + self.estimates.next_view(job, now) <= self.latest_view_end(job, now) + EPSILON

    def latest_view_end(self, job: Job[W], now: float) -> float:
        """The latest time at which a view may end so that the answer is made by the deadline."""
        return job.deadline - self.estimates.finishing(job, now)

    def outcome(self, job: Job[W], now: float, was_due: bool) -> StopReason | TTAError | None:
        """Why the job is answered now, or the error that it fails with; None if more views can end in time."""
        if not job.is_answerable:
            if now <= self._infeasible_at(job) + EPSILON:
                return None
            return DeadlineExceeded("the budget ran out before the mandatory views were done")
        if job.is_complete:
            return StopReason.BACKEND_FAILED if job.progress.failed else StopReason.ALL_VIEWS
        end = self.latest_view_end(job, now)
        if job.running:
            return None if now < end - EPSILON else StopReason.DEADLINE
        cost = self.estimates.next_view(job, now)
        if now + cost > end + EPSILON:
            return StopReason.CAPACITY if was_due else StopReason.DEADLINE
        return StopReason.CAPACITY if self.queue.free_after_queue(now) + cost > end + EPSILON else None

    def changes_at(self, job: Job[W], now: float) -> float:
        """The first time at which `outcome` may change, with a margin, so that it is not None then."""
        if not job.is_answerable:
            last = self._infeasible_at(job)
        elif job.running:
            last = self.latest_view_end(job, now)
        else:
            last = self.latest_view_end(job, now) - self.estimates.next_view(job, now)
        return last + 2 * EPSILON

    def _infeasible_at(self, job: Job[W]) -> float:
        """The time after which mandatory views can't end in time; the deadline itself once all of them run.

        It uses the lowest costs so far. With inflated estimates, every job that an idle pool admits would fail, and no
        observation would correct them.
        """
        if job.phase is Phase.DECODING or job.mandatory_dispatched:
            return job.deadline
        return job.deadline - self.estimates.on_idle_pool(job, self.slots.number)
