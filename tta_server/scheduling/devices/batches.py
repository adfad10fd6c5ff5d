"""What a device's slot runs next: mandatory views of all decoded jobs, then optional views in rounds. Pure."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Generic, TypeVar

from tta_server.scheduling.arrivals import ExpectedArrivals
from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.devices.bounds import DeviceQueue
from tta_server.scheduling.devices.ladder import DeviceEstimates
from tta_server.scheduling.devices.open_views import OpenJob, OpenViews
from tta_server.scheduling.devices.slots import DeviceSlots
from tta_server.scheduling.estimates import EPSILON
from tta_server.scheduling.jobs import Batch, Job

W = TypeVar("W")
Items = list[tuple[Job[W], int]]
Jobs = Set[Job[W]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a batch may grow: at least to `base` rows, as its mandatory views need, beyond that in time.

    It starts at `start`. With more than `base` rows it ends by `latest`, for the queued jobs and its own; with more
    than the smallest batch also by `patience`, for jobs that may arrive.
    """

    base: int
    start: float
    latest: float
    patience: float


@dataclass(frozen=True, slots=True)
class BatchBuilder(Generic[W]):
    """Fills batches and records in queue and open jobs what they take."""

    estimates: DeviceEstimates
    slots: DeviceSlots
    queue: DeviceQueue[W]
    open_views: OpenViews[W]
    arrivals: ExpectedArrivals

    def build(self, slot: int, now: float) -> Batch[W] | None:
        """The batch that this slot runs now, or after those that it has in flight.

        None if no view may run, or if another slot begins earlier.
        """
        start = self.slots.free_at(slot, now)
        if self.slots.first_free(now) < start - EPSILON:
            return None
        bucket = self.queue.first_bucket()
        if bucket is None:
            return self._build_optional(slot, start, now)
        items = self._take_mandatory(bucket, now)
        optional = self._fill(bucket, items, self._limits(slot, bucket, items, start, now), now)
        return self._batch(slot, bucket, items, optional, now)

    def _build_optional(self, slot: int, start: float, now: float) -> Batch[W] | None:
        """Optional views of one bucket: of the best job whose next view ends in time."""
        if not len(self.open_views):
            return None
        for bucket in self._buckets_by_rank(start, now):
            limits = self._limits(slot, bucket, [], start, now)
            if items := self._fill(bucket, [], limits, now):
                return self._batch(slot, bucket, [], items, now)
        return None

    def _buckets_by_rank(self, start: float, now: float) -> list[Bucket]:
        """The buckets of open jobs, ordered by the job of each with the largest gain per second."""
        ranked: list[tuple[bool, float, int, float, int, Bucket]] = []
        wait = self.queue.answer_wait
        for bucket in self.open_views.buckets:
            seconds = self.estimates.batch(bucket, 1, now)
            for entry in self.open_views.ranked(bucket):
                if start + seconds + wait <= entry.answer_at + EPSILON:
                    loss = entry.loss / seconds
                    ranked.append((entry.is_batch, loss, entry.dispatched, entry.deadline, entry.sequence, bucket))
                    break
        return [rank[-1] for rank in sorted(ranked)]

    def _take_mandatory(self, bucket: Bucket, now: float) -> Items[W]:
        items: Items[W] = []
        for job, views in self.queue.take(bucket, self.estimates.costs.knee(bucket), now):
            items += [(job, view) for view in range(job.dispatched - views, job.dispatched)]
            if job.mandatory_dispatched:
                self.open_views.put(job)
        return items

    def _limits(self, slot: int, bucket: Bucket, items: Items[W], start: float, now: float) -> Limits:
        costs = self.estimates.costs
        base = costs.rung(bucket, len(items)) if items else 0
        base_end = start + (self.estimates.batch(bucket, len(items), now) if items else 0.0)
        wanted = start + self.estimates.full_batch(bucket, now)
        latest = self.queue.latest_free(wanted, now)
        if self.slots.number > 1:
            latest = self.slots.latest_end(slot, latest, now)
        wait = self.queue.answer_wait
        own = (job.deadline - job.answer_seconds for job, view in items if view == job.dispatched - 1)
        latest = min([latest, *(max(base_end, end - wait) for end in own if end >= base_end - EPSILON)])
        patience = min((arrival.slack for arrival in self.arrivals.expected(now)), default=float("inf"))
        return Limits(base, start, latest, now + patience)

    def _fill(self, bucket: Bucket, items: Items[W], limits: Limits, now: float) -> Items[W]:
        """Optional views for this batch: as many as make the largest batch within the limits worth its time."""
        open_jobs = self.open_views.ranked(bucket)
        if not open_jobs:
            return []
        wait, knee = self.queue.answer_wait, self.estimates.costs.knee(bucket)
        begun = {job for job, _ in items}
        rungs = [rung for rung in self.estimates.costs.rungs(bucket) if rung <= knee and rung > limits.base]
        for index in reversed(range(len(rungs))):
            rung, below = rungs[index], rungs[index - 1] if index else limits.base
            seconds = self.estimates.batch(bucket, rung, now)
            end = limits.start + seconds
            if end > limits.latest + EPSILON or (end > limits.patience + EPSILON and (below or limits.base)):
                continue
            found = _in_rounds(open_jobs, bucket, rung - len(items), end + wait - EPSILON, begun)
            views = len(items) + len(found)
            if views > below and self._is_worth(bucket, rung, below, views):
                return _pad(open_jobs, bucket, rung - len(items), end + wait - EPSILON, found)
        if not limits.base:
            return []
        end = limits.start + self.estimates.batch(bucket, limits.base, now)
        room, answer_at = limits.base - len(items), end + wait - EPSILON
        found = _in_rounds(open_jobs, bucket, room, answer_at, begun)
        return _pad(open_jobs, bucket, room, answer_at, found)

    def _is_worth(self, bucket: Bucket, rung: int, below: int, views: int) -> bool:
        """Whether these views cost less each on this rung than a full batch of the rung below."""
        costs = self.estimates.costs
        return not below or views * costs.warmed(bucket, below) >= below * costs.warmed(bucket, rung)

    def _batch(self, slot: int, bucket: Bucket, mandatory: Items[W], optional: Items[W], now: float) -> Batch[W]:
        last: dict[Job[W], int] = dict(optional)
        for job, view in last.items():
            job.progress = job.progress.dispatch(view + 1 - job.dispatched)
            self.open_views.put(job)
        items = (*mandatory, *optional)
        rows, seconds = self.estimates.costs.rung(bucket, len(items)), self.estimates.batch(bucket, len(items), now)
        return Batch(slot, bucket, items, seconds, rows=max(rows, len(items)))


def _in_rounds(
    open_jobs: Sequence[OpenJob[W]], bucket: Bucket, room: int, answer_at: float, begun: Jobs[W]
) -> Items[W]:
    """Next views in this bucket, one of each job in turn, of jobs whose answer may begin at that time.

    Of the views before which its stop rule may stop, a job gets only the first, and none if it has `begun`: if the
    batch has other views of it.
    """
    if room <= 0:
        return []
    found: Items[W] = []
    for entry in open_jobs:
        job, view = entry.job, entry.job.progress.dispatched
        if entry.answer_at >= answer_at and (view < job.expected or job not in begun):
            found.append((job, view))
            if len(found) == room:
                return found
    return _more_rounds(found, found, bucket, room, lambda job: job.end_of_batch)


def _more_rounds(found: Items[W], turn: Items[W], bucket: Bucket, room: int, end: Callable[[Job[W]], int]) -> Items[W]:
    """Adds the views that follow those of `turn`, in turns, up to `room` and to before each job's `end`."""
    while turn and len(found) < room:
        following = [(job, view + 1) for job, view in turn]
        turn = [(job, view) for job, view in following if view < end(job) and job.buckets[view] == bucket]
        found = found + turn[: room - len(found)]
    return found


def _pad(open_jobs: Sequence[OpenJob[W]], bucket: Bucket, room: int, answer_at: float, found: Items[W]) -> Items[W]:
    """Adds views to a batch whose free places cost nothing: also those before which their jobs may stop."""
    if len(found) == room:
        return found
    last = dict(found)
    jobs = [entry.job for entry in open_jobs if entry.answer_at >= answer_at]
    turn = [(job, last.get(job, job.progress.dispatched - 1)) for job in jobs]
    return _more_rounds(found, turn, bucket, room, lambda job: len(job.buckets))
