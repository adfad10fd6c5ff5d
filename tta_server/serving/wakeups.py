"""What the threads of an engine wait for, and when they are woken."""

import threading
from typing import Generic, TypeVar

from tta_server.scheduling.base import BaseScheduler

W = TypeVar("W")


class Wakeups(Generic[W]):
    """Conditions of an engine's lock, under which every method is called."""

    def __init__(self, lock: threading.Lock, scheduler: BaseScheduler[W]) -> None:
        self._scheduler = scheduler
        in_flight = scheduler.batches_in_flight
        self._slot_threads = in_flight * scheduler.slots if in_flight > 1 else 1
        self.slots = threading.Condition(lock)
        self.workers = threading.Condition(lock)
        self.drained = threading.Condition(lock)
        self._clock = threading.Condition(lock)
        self._next_wake: float | None = None

    def wake_for_jobs(self, number: int) -> None:
        """Wakes as many threads as jobs were admitted: each is decoded first."""
        (self.workers if self._scheduler.workers else self.slots).notify(number)

    def wake_slot(self) -> None:
        """Wakes a slot; on a device all, for one that has batches in flight takes no more."""
        self.slots.notify(self._slot_threads)

    def wake_threads(self) -> None:
        """Wakes a slot if there is work for another one, and a worker likewise."""
        if self._scheduler.has_more_work:
            self.wake_slot()
        self.wake_worker()

    def wake_worker(self) -> None:
        if self._scheduler.workers and self._scheduler.has_more_chores:
            self.workers.notify()

    def wake_all(self) -> None:
        for condition in (self.slots, self.workers, self.drained, self._clock):
            condition.notify_all()

    def reschedule_clock(self) -> None:
        """Wakes the clock thread if it has to check earlier than planned."""
        wake = self._wake_at()
        if wake is not None and (self._next_wake is None or wake < self._next_wake):
            self._next_wake = wake
            self._clock.notify_all()

    def wait_for_clock(self, now: float) -> None:
        """Waits until the clock thread has to check again."""
        self._next_wake = self._wake_at()
        self._clock.wait(None if self._next_wake is None else max(0.0, self._next_wake - now))

    def _wake_at(self) -> float | None:
        """When the clock thread has to check again; None without jobs and steps."""
        wake, watch = self._scheduler.wake_at(), self._scheduler.watch_at()
        return watch if wake is None else wake if watch is None else min(wake, watch)
