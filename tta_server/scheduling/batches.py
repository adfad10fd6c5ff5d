"""Which views share a batch, and whether running it would make a waiting job late. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Generic, TypeVar

from tta_server.scheduling.arrivals import ExpectedArrival, ExpectedArrivals
from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.estimates import Estimates, Occupancy, Slots, each_job
from tta_server.scheduling.jobs import Job, Phase
from tta_server.scheduling.queue import MandatoryQueue

W = TypeVar("W")
Items = Sequence[tuple[Job[W], int]]
"""Views of a batch: (job, index of the view)."""


@dataclass(frozen=True, slots=True)
class BatchBuilder(Generic[W]):
    """Fills batches with views of several jobs; `open_jobs` are those of which only optional views wait."""

    estimates: Estimates
    slots: Slots
    queue: MandatoryQueue[W]
    open_jobs: Mapping[Job[W], None]
    arrivals: ExpectedArrivals

    def fill(self, head: Job[W], now: float) -> list[tuple[Job[W], int]]:
        """A batch of the head's next views, then those of queued jobs, then those of open jobs, up to the knee.

        With a knee of 1 it has mandatory views of the head alone. It is halved while it would make a job in it, or a
        queued one, late; at least the head's mandatory views stay.
        """
        bucket = head.next_bucket
        limit = self.estimates.costs.knee(bucket)
        items = [(head, head.dispatched)]
        if limit == 1:
            return self._own_views(head, bucket, now)
        for job in dict.fromkeys([head, *self._queued, *self.open_jobs]):
            if len(items) == limit:
                break
            if job.phase is Phase.READY and (job is head or not job.is_ahead(self.slots.number)):
                items += self._views_to_add(job, head, bucket, limit - len(items))
        least = max(1, sum(job is head and view < head.mandatory for job, view in items))
        while len(items) > least and not self._fits(items, now):
            del items[max(least, len(items) // 2) :]
        return items

    def _own_views(self, head: Job[W], bucket: Bucket, now: float) -> list[tuple[Job[W], int]]:
        """The head's next view, with its slot's share of the mandatory views after it, if a view costs no more so.

        Halved while it would make a job late, or an arrival that a single view would not.
        """
        same = takewhile(lambda view: head.buckets[view] == bucket, range(head.dispatched, head.mandatory))
        waiting, slots = sum(1 for _ in same), self.slots.number
        total = waiting + head.running
        share = total // slots if total % slots == 0 else waiting // slots  # the rest is shared out view by view
        views = max(1, min(waiting, share, self.estimates.costs.no_slower(bucket)))
        items = [(head, view) for view in range(head.dispatched, head.dispatched + views)]
        while len(items) > 1 and (not self._fits(items, now) or self._delays_arrivals(items, now)):
            del items[len(items) // 2 :]
        return items

    def _views_to_add(self, job: Job[W], head: Job[W], bucket: Bucket, room: int) -> list[tuple[Job[W], int]]:
        """At most `room` next views of a job in this bucket. A head that waits alone leaves idle slots their share."""
        first = job.dispatched + (job is head)
        if job is head and all(other is head for other in islice(self._queued, 2)):
            room = min(room, -(-(len(job.buckets) - job.dispatched) // self.slots.idle) - 1)
        same = takewhile(lambda view: job.buckets[view] == bucket, range(first, job.end_of_batch))
        return [(job, view) for view in islice(same, room)]

    @property
    def _queued(self) -> Iterator[Job[W]]:
        """The queued jobs with mandatory views that are not dispatched."""
        return (job for job in self.queue if not job.mandatory_dispatched)

    def _fits(self, items: Items[W], now: float) -> bool:
        """True if the batch makes neither a job in it nor a queued one late."""
        head = items[0][0]
        answers = sum(self.estimates.finishing(job, now) for job in each_job(items))  # the slot may have to make all
        latest = now + self.estimates.costs.seconds(head.next_bucket, len(items), now) + answers
        if any(latest > job.deadline for job, _ in items):
            return False
        means = self.queue.estimates
        lead = means.next_step(head, items, now).busy
        own = sum(job is head for job, _ in items)
        rest = sum(means.views(head, head.dispatched + own, head.mandatory, now))
        return now + lead + rest <= head.deadline and self.first_delayed(head, items, now) is None

    def first_delayed(self, head: Job[W], items: Items[W], now: float) -> Job[W] | None:
        """The first queued job that would miss its deadline, or miss it by more, if a free slot ran these views.

        Without views: if a free slot ran the next step of `head`.
        """
        step = self.queue.estimates.next_step(head, items, now)
        if self.queue.trivially_feasible(step.total, step.variance, now):
            return None
        return self.queue.first_delayed(head, step, now)

    def is_risky(self, items: Items[W], now: float) -> bool:
        """True if an expected arrival would miss its budget only because a free slot runs these views first.

        Also for a while after a job was refused for lack of time, so that optional views give way to those that follow.
        The caller runs them nonetheless when every other slot is idle; otherwise no optional view would ever run.
        """
        return self.arrivals.are_crowded(now) or self._delays_arrivals(items, now)

    def _delays_arrivals(self, items: Items[W], now: float) -> bool:
        """True if an expected arrival would miss its budget only because a free slot runs these views first."""
        step = self.queue.estimates.next_step(items[0][0], items, now)
        idle = Occupancy(0.0, step.views)

        def is_late(arrival: ExpectedArrival, step: Occupancy[W]) -> bool:
            return self.queue.free_for_next(step, now + arrival.budget, now) - now > arrival.slack

        return any(
            not self.queue.is_done_by(now + arrival.slack, step, now)
            and is_late(arrival, step)
            and not is_late(arrival, idle)
            for arrival in self.arrivals.expected(now)
        )
