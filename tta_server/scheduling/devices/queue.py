"""The jobs of a device pool whose mandatory views wait. Pure."""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping
from itertools import count, groupby, islice
from typing import Generic, TypeVar

from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.devices.columns import Columns, row_of
from tta_server.scheduling.devices.ladder import DeviceEstimates
from tta_server.scheduling.devices.slots import DeviceSlots, Workers
from tta_server.scheduling.jobs import Job, Phase

W = TypeVar("W")
Ranked = list[tuple[tuple[bool, float, int], Job[W]]]
"""Jobs with their ranks, in the queue's order."""


class MandatoryViews(Generic[W]):
    """Jobs with undispatched mandatory views: interactive ones by deadline, then batch jobs by deadline."""

    def __init__(self, estimates: DeviceEstimates, slots: DeviceSlots, workers: Workers) -> None:
        self._estimates = estimates
        self._slots = slots
        self._workers = workers
        self._jobs: list[Job[W]] = []
        self._ranks: list[tuple[bool, float, int]] = []
        self._columns = Columns()
        self._sequence = count(1)
        self._waiting: dict[Bucket, Ranked[W]] = {}
        self._ready: dict[Bucket, Ranked[W]] = {}
        self._views: Counter[Bucket] = Counter()
        """Undispatched mandatory views."""
        self._numbers: dict[Bucket, int] = {}
        self._live = 0
        self._live_answers = self._longest_answer = 0.0
        """Of live jobs; the longest one since there was none."""
        self._undecoded: list[float] = []
        """Seconds of each decoding that has not ended, ascending."""
        self._longest_decodes = 0.0
        """The sum of as many of these as there are workers."""

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def load(self) -> float:
        """Slot seconds of all waiting mandatory views in full batches."""
        return self._columns.share

    # ---- live jobs ----

    def price(self, job: Job[W], now: float) -> None:
        """Sets what a job's decoding, mandatory views and answer cost."""
        job.decode_seconds = self._estimates.decoding(job, now) if job.phase is Phase.WAITING else 0.0
        job.answer_seconds = self._estimates.finishing(job, now)
        self._price_views(job, now)

    def _price_views(self, job: Job[W], now: float) -> None:
        views = bucket_counts(job.buckets[job.dispatched : job.mandatory])
        job.load = sum(self._estimates.share(bucket, now) * n for bucket, n in views.items())
        if len(views) > 1:  # `_partial` counts a last batch of the next view's bucket; slots can't share those after it
            runs = groupby(job.buckets[job.dispatched : job.mandatory])
            following = sum(self._estimates.full_batch(bucket, now) for bucket, _ in islice(runs, 1, None))
            job.load += self._slots.number * following

    def enter(self, job: Job[W]) -> None:
        """A job is live."""
        self._live_answers += job.answer_seconds
        self._longest_answer = max(self._longest_answer, job.answer_seconds)
        self._live += 1
        self._await_decode(job)

    def leave(self, job: Job[W]) -> None:
        """A job is not live any more; a worker that decodes its image goes on."""
        self._live -= 1
        self._live_answers -= job.answer_seconds
        if not self._live:
            self._live_answers = self._longest_answer = 0.0
        if job.phase is Phase.WAITING:
            self.decoded(job)

    def decoded(self, job: Job[W]) -> None:
        """The decoding of a job has ended, or will not begin."""
        del self._undecoded[bisect_left(self._undecoded, job.decode_seconds)]
        self._longest_decodes = sum(self._undecoded[-self._workers.number :])

    def _await_decode(self, job: Job[W]) -> None:
        insort(self._undecoded, job.decode_seconds)
        self._longest_decodes = sum(self._undecoded[-self._workers.number :])

    def _number(self, job: Job[W]) -> int:
        """A number for the bucket of a job's next view; numbers start from 0 with each empty queue."""
        if not self._jobs:
            self._numbers.clear()
        return self._numbers.setdefault(job.next_bucket, len(self._numbers))

    # ---- the queue ----

    def add(self, job: Job[W]) -> None:
        """Adds a job that is priced and waits for its decoding."""
        self.enter(job)
        job.rank = (job.is_batch, job.deadline, next(self._sequence))
        self._insert(job)
        insort(self._waiting.setdefault(job.next_bucket, []), (job.rank, job))

    def _insert(self, job: Job[W]) -> int:
        index = bisect_left(self._ranks, job.rank)
        self._ranks.insert(index, job.rank)
        self._jobs.insert(index, job)
        self._columns.insert(index, row_of(job, self._number(job)))
        count_views(self._views, job.buckets[job.dispatched : job.mandatory], 1)
        return index

    def _delete(self, job: Job[W], index: int) -> None:
        del self._ranks[index], self._jobs[index]
        self._columns.delete(index)
        count_views(self._views, job.buckets[job.dispatched : job.mandatory], -1)

    def _index(self, job: Job[W]) -> int | None:
        index = bisect_left(self._ranks, job.rank)
        return index if index < len(self._jobs) and self._jobs[index] is job else None

    def remove(self, job: Job[W]) -> None:
        """Removes a live job, queued or not: it is finished."""
        self.leave(job)
        index = self._index(job)
        if index is None:
            return
        self._delete(job, index)
        if job.phase is not Phase.DECODING:
            _remove(self._waiting if job.phase is Phase.WAITING else self._ready, job)

    # ---- decoding ----

    @property
    def has_decodable(self) -> bool:
        return self._next_decodable() is not None

    def _next_decodable(self) -> Job[W] | None:
        """The first job that waits, if few enough views of its bucket before it are decoded and not dispatched.

        With more than these, the device runs full batches until it is decoded.
        """
        for _, bucket in sorted((jobs[0][0], bucket) for bucket, jobs in self._waiting.items()):
            job, most = self._waiting[bucket][0][1], 2 * self._estimates.costs.rungs(bucket)[-1]
            index = self._index(job) or 0
            if self._columns.ahead < most or self._columns.ahead_of(index, self._number(job)) < most:
                return job
        return None

    def start_decode(self, now: float) -> Job[W] | None:
        """The job whose image a worker decodes now; None if there is none."""
        job = self._next_decodable()
        if job is None:
            return None
        _remove(self._waiting, job)
        job.phase = Phase.DECODING
        job.ready_at = now + job.decode_seconds
        self._update(job)
        return job

    def make_ready(self, job: Job[W]) -> None:
        """The image of a queued job is decoded."""
        self._update(job)
        insort(self._ready.setdefault(job.next_bucket, []), (job.rank, job))

    def _update(self, job: Job[W]) -> None:
        index = self._index(job)
        assert index is not None
        self._columns.replace(index, row_of(job, self._number(job)))

    # ---- mandatory views ----

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    def first_bucket(self) -> Bucket | None:
        """The bucket of the first decoded job; None without such a job."""
        heads = [(jobs[0][0], bucket) for bucket, jobs in self._ready.items()]
        return min(heads, default=(None, None))[1]

    def take(self, bucket: Bucket, most: int, now: float) -> list[tuple[Job[W], int]]:
        """Takes at most that many mandatory views of decoded jobs, in the queue's order: (job, number of views)."""
        taken: list[tuple[Job[W], int]] = []
        for _, job in self._ready[bucket]:
            if most <= 0:
                break
            views = 1
            while job.dispatched + views < job.mandatory and job.buckets[job.dispatched + views] == bucket:
                views += 1
            views = min(views, most)
            most -= views
            taken.append((job, views))
        del self._ready[bucket][: len(taken)]
        if not self._ready[bucket]:
            del self._ready[bucket]
        self._dispatch(taken, now)
        return taken

    def _dispatch(self, taken: list[tuple[Job[W], int]], now: float) -> None:
        number = len(taken)
        at_front = self._jobs[number - 1 : number] == [taken[-1][0]]
        if at_front and all(job.dispatched + views >= job.mandatory for job, views in taken):
            del self._ranks[:number], self._jobs[:number]
            self._columns.delete_first(number)
            for job, views in taken:
                count_views(self._views, job.buckets[job.dispatched : job.mandatory], -1)
                job.progress = job.progress.dispatch(views)
            return
        for job, views in taken:
            index = self._index(job)
            assert index is not None
            self._delete(job, index)
            job.progress = job.progress.dispatch(views)
            if not job.mandatory_dispatched:
                self._price_views(job, now)
                self._insert(job)
                insort(self._ready.setdefault(job.next_bucket, []), (job.rank, job))


def bucket_counts(buckets: tuple[Bucket, ...]) -> Mapping[Bucket, int]:
    """How many of the views are in each bucket; mostly there is one."""
    if buckets and buckets.count(buckets[0]) == len(buckets):
        return {buckets[0]: len(buckets)}
    return Counter(buckets)


def count_views(counter: Counter[Bucket], buckets: tuple[Bucket, ...], sign: int) -> None:
    for bucket, number in bucket_counts(buckets).items():
        counter[bucket] += sign * number
        if not counter[bucket]:
            del counter[bucket]


def _remove(jobs: dict[Bucket, Ranked[W]], job: Job[W]) -> None:
    """Removes a job from those of its bucket, and the bucket with its last job."""
    ranked = jobs[job.next_bucket]
    del ranked[bisect_left(ranked, (job.rank,))]
    if not ranked:
        del jobs[job.next_bucket]
