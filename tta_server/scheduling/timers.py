"""When to look at jobs and running steps again, if nothing else happens. Pure."""

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
"""A step is overdue after ten times its estimate, and not before a second."""
STUCK_SECONDS = 10.0
"""A slot is stuck when its step is still not back so long after it was told to end."""
STUCK_DECODING = 60.0
"""The same for decoding, which can't be aborted but ends by itself."""


class DueTimers(Generic[W]):
    """Jobs by the date of their next look: a heap, in which an outdated entry has lost its job."""

    def __init__(self) -> None:
        self._heap: list[list[Any]] = []
        """[date, number, job or None]: lists, since they compare many times as fast as a class of ours."""
        self._entries: dict[Job[W], list[Any]] = {}
        self._sequence = count()

    def set(self, job: Job[W], at: float) -> None:
        """Its one date from now on."""
        known = self._entries.get(job)
        if known is not None:
            if known[0] == at:
                return
            known[2] = None
        entry = self._entries[job] = [at, next(self._sequence), job]
        heapq.heappush(self._heap, entry)

    def remove(self, job: Job[W]) -> None:
        entry = self._entries.pop(job, None)
        if entry is not None:
            entry[2] = None
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = [entry for entry in self._heap if entry[2] is not None]
            heapq.heapify(self._heap)

    def take_due(self, now: float) -> Iterator[Job[W]]:
        """Those whose date has come, earliest first; they have none then."""
        while (at := self.first()) is not None and at <= now:
            job: Job[W] = self._heap[0][2]
            self.remove(job)
            yield job

    def first(self) -> float | None:
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
    """What runs on each slot, and whether it runs far past its estimate."""

    def __init__(self) -> None:
        self._running: dict[int, _Running[W]] = {}
        self._look_at = math.inf

    def started(self, step: Step[W], now: float) -> None:
        overdue_at = now + max(OVERDUE_SECONDS, OVERDUE_FACTOR * step.estimate)
        self._running[step.slot] = _Running(step, overdue_at)
        self._look_at = min(self._look_at, overdue_at)

    def ended(self, slot: int) -> None:
        self._running.pop(slot, None)

    def overdue(self, now: float) -> list[Step[W]]:
        """Steps to be ended, each told once."""
        if now < self._look_at:
            return []
        late = [running for running in self._running.values() if running.overdue_at <= now]
        for running in late:
            grace = STUCK_DECODING if isinstance(running.step, Decode) else STUCK_SECONDS
            running.overdue_at, running.stuck_at = math.inf, now + grace
        return [running.step for running in late]

    def stuck(self, now: float) -> list[int]:
        """Slots whose step did not end when it was told to, each told once. Asked after `overdue`."""
        if now < self._look_at:
            return []
        slots = [slot for slot, running in self._running.items() if running.stuck_at <= now]
        for slot in slots:
            self._running[slot].stuck_at = math.inf
        self._look_at = min((min(r.overdue_at, r.stuck_at) for r in self._running.values()), default=math.inf)
        return slots

    def look_at(self) -> float | None:
        """When to ask both again; earlier than need be where a step has ended since."""
        return self._look_at if self._look_at < math.inf else None
