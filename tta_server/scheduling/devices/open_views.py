"""The optional views that wait for a place in a batch. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.jobs import Job

W = TypeVar("W")


class OpenJob(NamedTuple, Generic[W]):
    """A job by its rank: interactive jobs first, then largest gain, fewest dispatched views, earliest deadline.

    `answer_at` is the latest time at which a worker may begin its answer.
    """

    is_batch: bool
    loss: float
    dispatched: int
    deadline: float
    sequence: int
    answer_at: float
    job: Job[W]


class OpenViews(Generic[W]):
    """Decoded jobs whose mandatory views are dispatched and of which optional views wait, by bucket and rank."""

    def __init__(self) -> None:
        self._current: dict[Job[W], OpenJob[W]] = {}
        self._sorted: dict[Bucket, list[OpenJob[W]]] = {}
        self._unsorted: set[Bucket] = set()
        self._counts: Counter[Bucket] = Counter()

    def __len__(self) -> int:
        return len(self._current)

    def __contains__(self, job: object) -> bool:
        return job in self._current

    def put(self, job: Job[W]) -> None:
        """Adds a job, or ranks it again after a view was dispatched or merged; removes it if no view waits."""
        self.remove(job)
        if job.all_dispatched or job.progress.stop:
            return
        answer_at = job.deadline - job.answer_seconds
        entry = OpenJob(job.is_batch, -job.expected_gain, job.dispatched, job.deadline, job.rank[2], answer_at, job)
        self._current[job] = entry
        bucket = job.next_bucket
        self._counts[bucket] += 1
        self._sorted.setdefault(bucket, []).append(entry)
        self._unsorted.add(bucket)

    def remove(self, job: Job[W]) -> None:
        """Removes a job, if it is here."""
        entry = self._current.pop(job, None)
        if entry is None:
            return
        bucket = job.buckets[entry.dispatched]
        self._counts[bucket] -= 1
        self._unsorted.add(bucket)
        if not self._counts[bucket]:
            del self._counts[bucket], self._sorted[bucket]
            self._unsorted.discard(bucket)
        elif len(self._sorted[bucket]) > 2 * self._counts[bucket] + 64:
            self.ranked(bucket)

    @property
    def buckets(self) -> Iterator[Bucket]:
        """Those of the next views."""
        return iter(self._sorted)

    def ranked(self, bucket: Bucket) -> Sequence[OpenJob[W]]:
        """The jobs whose next view is in this bucket, best first."""
        entries = self._sorted.get(bucket, [])
        if bucket in self._unsorted:
            self._unsorted.discard(bucket)
            current = self._current
            entries = [entry for entry in entries if current.get(entry.job) is entry]
            entries.sort()
            self._sorted[bucket] = entries
        return entries
