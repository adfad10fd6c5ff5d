"""When to check jobs and running steps again if no other event comes first. Pure."""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

from tta_server.scheduling.jobs import Decode, Job, Step

W = TypeVar("W")

OVERDUE_FACTOR = 10.0
OVERDUE_SECONDS = 1.0
"""A step is overdue after ten times its estimate, but at least a second."""
STUCK_SECONDS = 10.0
"""A slot is stuck if its step still runs this long after it was overdue and aborted."""
STUCK_DECODING_SECONDS = 60.0
"""The same for decoding, which can't be aborted but always ends."""


class DueTimers(Generic[W]):
    """Min-heap of jobs by due time; stale entries, which have no job, are deleted lazily."""

    def __init__(self) -> None:
        self._heap: list[list[Any]] = []
        """[due time, sequence number, job or None]: lists compare many times as fast as a class of ours."""
        self._entries: dict[Job[W], list[Any]] = {}
        self._sequence = count()

    def set(self, job: Job[W], at: float) -> None:
        """Sets a job's due time, in place of an earlier one."""
        previous = self._entries.get(job)
        if previous is not None:
            if previous[0] == at:
                return
            previous[2] = None
        entry = self._entries[job] = [at, next(self._sequence), job]
        heapq.heappush(self._heap, entry)

    def remove(self, job: Job[W]) -> None:
        """Removes a job's due time, if it has one."""
        entry = self._entries.pop(job, None)
        if entry is not None:
            entry[2] = None
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = [entry for entry in self._heap if entry[2] is not None]
            heapq.heapify(self._heap)

    def take_due(self, now: float) -> Iterator[Job[W]]:
        """Removes and yields the jobs that are due, earliest first."""
        while (at := self.next_due()) is not None and at <= now:
            job: Job[W] = self._heap[0][2]
            self.remove(job)
            yield job

    def next_due(self) -> float | None:
        """The earliest due time; None without jobs."""
        heap = self._heap
        while heap and heap[0][2] is None:
            heapq.heappop(heap)
        return heap[0][0] if heap else None


@dataclass(slots=True)
class _Running(Generic[W]):
    step: Step[W]
    overdue_at: float
    stuck_at: float = math.inf


class Watchdog(Generic[W]):
    """The running step of each slot, and which of them run far past their estimates."""

    def __init__(self) -> None:
        self._running: dict[int, _Running[W]] = {}
        self._check_at = math.inf

    def started(self, step: Step[W], now: float) -> None:
        """A slot has started a step."""
        overdue_at = now + max(OVERDUE_SECONDS, OVERDUE_FACTOR * step.estimate)
        self._running[step.slot] = _Running(step, overdue_at)
        self._check_at = min(self._check_at, overdue_at)

    def ended(self, slot: int) -> None:
        """A slot has ended its step."""
        self._running.pop(slot, None)

    @property
    def is_idle(self) -> bool:
        """True if no step runs."""
        return not self._running

    def overdue(self, now: float) -> list[Step[W]]:
        """The steps to abort; each is returned once."""
        if now < self._check_at:
            return []
        late = [running for running in self._running.values() if running.overdue_at <= now]
        for running in late:
            grace = STUCK_DECODING_SECONDS if isinstance(running.step, Decode) else STUCK_SECONDS
            running.overdue_at, running.stuck_at = math.inf, now + grace
        return [running.step for running in late]

    def stuck(self, now: float) -> list[int]:
        """The slots whose aborted step did not end; each is returned once. Call it after `overdue`."""
        if now < self._check_at:
            return []
        slots = [slot for slot, running in self._running.items() if running.stuck_at <= now]
        for slot in slots:
            self._running[slot].stuck_at = math.inf
        self._check_at = min((min(r.overdue_at, r.stuck_at) for r in self._running.values()), default=math.inf)
        return slots

    def check_at(self) -> float | None:
        """The next time to call `overdue` and `stuck`; too early if a step has ended since. None if no step runs."""
        return self._check_at if self._check_at < math.inf else None
