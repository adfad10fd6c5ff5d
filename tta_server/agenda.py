"""When to look at jobs and running steps again, if nothing else happens. Pure."""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

from tta_server.jobs import Job, Step

W = TypeVar("W")

OVERDUE_FACTOR = 10.0
OVERDUE_SECONDS = 1.0
"""A step is overdue after ten times its estimate, and not before a second."""
STUCK_SECONDS = 10.0
"""A slot is stuck when its step is still not back so long after it was told to end."""


@dataclass(slots=True)
class _Entry(Generic[W]):
    at: float
    number: int
    job: Job[W] | None

    def __lt__(self, other: "_Entry[W]") -> bool:
        return (self.at, self.number) < (other.at, other.number)


class Agenda(Generic[W]):
    """Jobs by the date of their next look: a heap, in which an outdated entry has lost its job."""

    def __init__(self) -> None:
        self._heap: list[_Entry[W]] = []
        self._entries: dict[Job[W], _Entry[W]] = {}
        self._sequence = count()

    def put(self, job: Job[W], at: float) -> None:
        """Its one date from now on."""
        if job in self._entries and self._entries[job].at == at:
            return
        self.remove(job)
        entry = self._entries[job] = _Entry(at, next(self._sequence), job)
        heapq.heappush(self._heap, entry)

    def remove(self, job: Job[W]) -> None:
        entry = self._entries.pop(job, None)
        if entry is not None:
            entry.job = None
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = [entry for entry in self._heap if entry.job]
            heapq.heapify(self._heap)

    def take_due(self, now: float) -> Iterator[Job[W]]:
        """Those whose date has come, earliest first; they have none then."""
        while (at := self.first()) is not None and at <= now:
            job = self._heap[0].job
            assert job is not None
            self.remove(job)
            yield job

    def first(self) -> float | None:
        while self._heap and self._heap[0].job is None:
            heapq.heappop(self._heap)
        return self._heap[0].at if self._heap else None


@dataclass(slots=True)
class _Running(Generic[W]):
    step: Step[W]
    overdue_at: float
    stuck_at: float = math.inf


class Watch(Generic[W]):
    """What runs on each slot, and whether it runs far past its estimate."""

    def __init__(self) -> None:
        self._running: dict[int, _Running[W]] = {}

    def started(self, step: Step[W], now: float) -> None:
        overdue_at = now + max(OVERDUE_SECONDS, OVERDUE_FACTOR * step.estimate)
        self._running[step.slot] = _Running(step, overdue_at)

    def ended(self, slot: int) -> None:
        self._running.pop(slot, None)

    def overdue(self, now: float) -> list[Step[W]]:
        """Steps to be ended, each told once."""
        late = [running for running in self._running.values() if running.overdue_at <= now]
        for running in late:
            running.overdue_at, running.stuck_at = math.inf, now + STUCK_SECONDS
        return [running.step for running in late]

    def stuck(self, now: float) -> list[int]:
        """Slots whose step did not end when it was told to, each told once."""
        slots = [slot for slot, running in self._running.items() if running.stuck_at <= now]
        for slot in slots:
            self._running[slot].stuck_at = math.inf
        return slots

    def look_at(self) -> float | None:
        at = min((min(r.overdue_at, r.stuck_at) for r in self._running.values()), default=math.inf)
        return at if at < math.inf else None
