"""When each queued job of a device pool is answered at the latest. Pure."""

import math
from bisect import bisect_left
from typing import TypeVar

import numpy as np

from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.devices.columns import Vector
from tta_server.scheduling.devices.queue import MandatoryViews
from tta_server.scheduling.estimates import EPSILON
from tta_server.scheduling.jobs import Job

W = TypeVar("W")
CAUTION = 0.9
"""Full batches take at least this share of their estimate."""


class DeviceQueue(MandatoryViews[W]):
    """The queue, with a bound on each job's answer that holds for any order of events.

    As long as device and workers are busy while there is work: until all jobs up to this one are decoded, the device
    may run anything, and then a batch that began just before; then it runs their views in full batches; then workers
    make their answers. So no batch has to be laid out, and a job is not later because of what happens to another.
    """

    @property
    def answer_wait(self) -> float:
        """Seconds that the answer of any live job may wait for a worker.

        As long as no worker is idle, they share the answers of all others; on each one of them a decoding may run.
        """
        return (self._longest_decodes + self._live_answers + self._workers.answers) / self._workers.number

    def _chores(self, answer: Vector, chore: Vector) -> Vector:
        """Seconds for which work of less urgency may keep workers from each queued job's answer.

        On each of them it is a decoding, except the job's own, or the answer of a later job.
        """
        number = self._workers.number
        later = np.append(np.maximum.accumulate(answer[:0:-1])[::-1], 0.0)
        longest = np.zeros(number + 1)
        decodes = self._undecoded[: -number - 2 : -1]
        longest[: len(decodes)] = decodes
        most = np.maximum(longest[:, None], later)
        own = np.where(chore >= longest[number - 1], np.maximum(chore, later) - most[number], 0.0)
        seconds: Vector = (most[:number].sum(axis=0) - own) / number
        return seconds

    def free_after_queue(self, now: float) -> float:
        """When the device is free for the next batch: mandatory views leave room in it for others."""
        return self._slots.first_free(now)

    def latest_free(self, wanted: float, now: float) -> float:
        """The latest time until which the device may be busy with more work so that no queued job is late.

        If it surely is after `wanted`, any time after that.
        """
        if not self._jobs:
            return math.inf
        base = self._first_deadline() - self._work(now) - self._partial(now) - self._all_answers(now)
        if max(self._all_decoded(now), wanted) <= base:
            return base
        bases, blocked = self._bounds(now)
        return float(bases.min()) if np.all(blocked <= bases + EPSILON) else -math.inf

    def retry_after(self, job: Job[W], now: float) -> float:
        """Seconds until a priced job would be admitted; 0 if no job is late with it."""
        job.rank = (job.is_batch, job.deadline, math.inf)  # type: ignore[assignment]  # behind jobs of this deadline
        before = None if self._is_surely_early(job, now) else self._lateness(now)
        if before is None:
            return 0.0
        wait = self.answer_wait
        index = self._try_insert(job)
        late, wait_after = self._lateness(now), self.answer_wait
        seconds = self._end_of_queue(now) - now
        self._undo_insert(job, index)
        own, others = float(late[index]), np.delete(late, index)
        if np.any((others > EPSILON) & (others > before + EPSILON)):
            return seconds
        if wait_after > wait and self._slots.answer_slack < wait_after - EPSILON:
            return max(seconds, EPSILON)
        return own if own > EPSILON else 0.0

    def _try_insert(self, job: Job[W]) -> int:
        self._live_answers += job.answer_seconds
        self._await_decode(job)
        return self._insert(job)

    def _undo_insert(self, job: Job[W], index: int) -> None:
        self._delete(job, index)
        self.decoded(job)
        self._live_answers -= job.answer_seconds

    def wait_behind_queue(self, job: Job[W], now: float) -> float:
        """Seconds until a job would be admitted behind the whole queue."""
        return max(0.0, self._end_of_queue(now) + self._alone(job, now) - job.deadline)

    def end_of(self, job: Job[W], now: float) -> float:
        """A bound on when a priced job would be answered behind the whole queue."""
        return self._end_of_queue(now) + self._alone(job, now)

    def free_by(self, now: float) -> float:
        """A bound on when the queue is done."""
        return self._end_of_queue(now)

    def is_queued(self, job: Job[W]) -> bool:
        return self._index(job) is not None

    def _alone(self, job: Job[W], now: float) -> float:
        return self._estimates.on_idle_pool(job, 1)

    def _is_surely_early(self, job: Job[W], now: float) -> bool:
        """True if the whole queue and this job are done before the first deadline."""
        deadline = min(job.deadline, self._first_deadline())
        batch = self._estimates.full_batch(job.next_bucket, now)
        start = max(self._slots.mean_free(now), self._all_decoded(now, job.decode_seconds) + batch)
        more = job.load + batch + 2 * job.answer_seconds
        wait = self._all_answers(now) + job.decode_seconds
        return (
            start + self._work(now) + self._partial(now) + wait + more <= deadline and wait <= self._slots.answer_slack
        )

    def _first_deadline(self) -> float:
        if not self._jobs:
            return math.inf
        first_batch = bisect_left(self._ranks, (True, -math.inf, 0))
        return min(rank[1] for rank in (self._ranks[0], self._ranks[min(first_batch, len(self._ranks) - 1)]))

    def _lateness(self, now: float) -> Vector:
        """The most seconds by which each job can be late, negative if it is early."""
        bases, blocked = self._bounds(now)
        late: Vector = np.maximum(self._slots.mean_free(now), blocked) - bases
        return late

    def _bounds(self, now: float) -> tuple[Vector, Vector]:
        """For each job: when the device may start at the latest with all jobs up to it, and when it surely can.

        The second is minus infinity if only jobs up to this one can come before it: these are all decoded before a slot
        asks for its next batch, or before it has run the decoded ones, with one more batch that is not full.
        """
        deadline, share, decode, answer, ready_at, undecoded, chore, ahead, buckets = self._columns.vectors()
        number, queued = self._workers.number, np.cumsum(answer)
        others = self._live_answers - self._columns.answer + queued - answer
        answers = self._chores(answer, chore) + (others + self._workers.answers) / number + answer
        bases = deadline - answers - np.cumsum(share) / self._slots.number - self._partials(buckets, now)
        if not self._columns.undecoded:
            return bases, np.full(len(bases), -math.inf)
        started = np.cumsum(np.where(ahead > 0, answer, 0.0))
        before = others - (queued - answer) + started[-1] - started + np.cumsum(decode) - decode
        waiting = np.where(np.isinf(ready_at), self._workers.mean_free(now) + before / number + decode, ready_at)
        decoded = np.maximum.accumulate(np.where(undecoded > 0, waiting, -math.inf))
        asks = self._slots.first_free(now) - self._slots.prepare
        free = max(now, asks)
        busy = np.maximum(free, asks + self._decoded_seconds(share, undecoded, now))
        blocked = self._blocking(now) + self._slots.prepare
        again = (decoded >= free - EPSILON) & (decoded < busy - EPSILON)
        if again.any():
            twice = (undecoded > 0) & np.isin(buckets, buckets[undecoded == 0])
            bases = np.where(again, bases - self._partials(np.where(twice, buckets, -1.0), now), bases)
        return bases, np.where(decoded < busy - EPSILON, -math.inf, decoded + blocked)

    def _decoded_seconds(self, share: Vector, undecoded: Vector, now: float) -> Vector:
        """The least time for which decoded jobs up to each one keep a single slot busy; 0 with several slots."""
        bucket = self.first_bucket()
        if bucket is None or self._slots.number > 1:
            return np.zeros(len(share))
        ready = np.cumsum(np.where(undecoded > 0, 0.0, share))
        least: Vector = np.where(ready > 0, np.maximum(CAUTION * ready, self._estimates.batch(bucket, 1, now)), 0.0)
        return least

    # ---- totals ----

    def _end_of_queue(self, now: float) -> float:
        return max(self._slots.mean_free(now), self._all_decoded(now)) + self._work(now) + self._all_answers(now)

    def _work(self, now: float) -> float:
        """Seconds that the device needs for all queued mandatory views."""
        return self._columns.share / self._slots.number + self._partial(now)

    def _partials(self, buckets: Vector, now: float) -> Vector:
        """As `_partial` for the work up to each job; `buckets` has the number of each job's, or -1."""
        more: Vector = np.zeros(len(buckets))
        longest: Vector = np.zeros(len(buckets))
        for bucket in self._views:
            if (places := np.flatnonzero(buckets == self._numbers.get(bucket, math.nan))).size:
                batch = self._last_batch(bucket, now)
                more[places[0] :] += batch - self._estimates.share(bucket, now)
                np.maximum(longest[places[0] :], batch, out=longest[places[0] :])
        number = self._slots.number
        partials: Vector = more / number + longest * (1 - 1 / number)
        return partials

    def _partial(self, now: float) -> float:
        """Seconds by which a last batch that is not full costs more than its share, for every bucket."""
        batches = {bucket: self._last_batch(bucket, now) for bucket in self._views}
        more = sum(seconds - self._estimates.share(bucket, now) for bucket, seconds in batches.items())
        number = self._slots.number
        return more / number + max(batches.values(), default=0.0) * (1 - 1 / number)

    def _last_batch(self, bucket: Bucket, now: float) -> float:
        """Seconds of a batch with all queued views of a bucket, or of a full one."""
        return self._estimates.batch(bucket, min(self._views[bucket], self._estimates.costs.knee(bucket)), now)

    def _blocking(self, now: float) -> float:
        """Seconds of the largest batch of mandatory views that may begin before a job is decoded.

        One with optional views beyond that begins only if the bounds of all queued jobs allow it.
        """
        if len(self) < 2:
            return 0.0
        return max(self._last_batch(bucket, now) for bucket in self._views)

    def _all_decoded(self, now: float, more: float = 0.0) -> float:
        """When the device surely is at the views of any job, if one waits for `more` seconds of decoding too.

        Minus infinity if all are decoded.
        """
        if not self._columns.undecoded and not more:
            return -math.inf
        number, longest = self._workers.number, max(more, self._undecoded[-1] if self._undecoded else 0.0)
        decodes = (self._columns.decode + more + self._live_answers) / number
        return self._workers.all_free(now) + decodes + longest + self._blocking(now) + self._slots.prepare

    def _all_answers(self, now: float) -> float:
        """Seconds for the last answer of the queue."""
        return self.answer_wait + self._longest_answer
