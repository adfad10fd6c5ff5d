"""The shell around a scheduler: slot threads, one clock thread, a lock. Decides nothing itself."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from tta_server.abort import Abort
from tta_server.costs import CostModel
from tta_server.errors import BackendFailed, DeadlineExceeded, NotReady, TTAError
from tta_server.health import Health
from tta_server.jobs import LOST, Backlog, Batch, Decode, Finished, Job, Outcome, Quote, Step
from tta_server.metrics import Metrics
from tta_server.scheduler import Scheduler
from tta_server.stopping import StopReason

log = logging.getLogger(__name__)

NICENESS = 5
"""Slot threads yield to the event loop: with both cores busy it then answers 0.2 ms late at p99, not 3.4 ms."""


class Work(Protocol):
    """What the engine runs for a job; every method is called on a slot's thread, or the clock's to settle."""

    def decode(self) -> None:
        """Bytes to canvases; raises TTAError."""

    def settle(self, outcome: StopReason | TTAError) -> None:
        """Makes the answer and gives it to whoever waits, once."""


W = TypeVar("W", bound=Work)
C = TypeVar("C", bound=Work, contravariant=True)


class Runner(Protocol[C]):
    """One model: runs views of several jobs as one batch and merges them."""

    def run(self, items: Sequence[tuple[C, int]], abort: Abort) -> Sequence[Outcome]:
        """One outcome a view; raises TTAError where the whole batch failed, or was ended by `abort`."""


class Engine(Generic[W]):
    """One pool of slots on this machine."""

    def __init__(
        self,
        scheduler: Scheduler[W],
        runners: Mapping[str, Runner[W]],
        metrics: Metrics,
        health: Health,
        on_stuck: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_stuck` is called, once, when a slot does not come back: its thread can't be ended, only the process."""
        self._scheduler = scheduler
        self._runners = runners
        self._metrics = metrics
        self._health = health
        self._on_stuck = on_stuck
        self._aborts: dict[int, Abort] = {}
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._clock = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)
        self._next_wake: float | None = None
        self._state = "open"
        self._threads = [
            threading.Thread(target=self._slot, args=(slot,), name=f"slot-{slot}", daemon=True)
            for slot in range(scheduler.slots)
        ]
        self._threads.append(threading.Thread(target=self._tick, name="clock", daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job[W]) -> None:
        """Admits a job, whose work is then settled exactly once. Raises Overloaded, InvalidInput or NotReady."""
        with self._lock:
            if self._state != "open":
                raise NotReady("the server is shutting down")
            self._scheduler.admit(job, time.monotonic())
            self._work.notify()
            self._mind_clock()

    def cancel(self, job: Job[W]) -> bool:
        """Nobody waits for it any more: its views make room at once. False if it was settled already."""
        with self._lock:
            finished = self._scheduler.cancel(job, time.monotonic())
        self._settle(finished)
        return bool(finished)

    def reprice(self, model: str, costs: CostModel) -> None:
        """A model is loaded anew: this is what it costs, and nothing else is known of it."""
        with self._lock:
            self._scheduler.costs.adopt(model, costs)

    def quote(self, job: Job[W]) -> Quote:
        """What `submit` would do, and what would come of it."""
        with self._lock:
            return self._scheduler.quote(job, time.monotonic())

    def backlog(self) -> Backlog:
        with self._lock:
            return self._scheduler.backlog()

    def drain(self, seconds: float) -> None:
        """Refuses new jobs, finishes the admitted ones within `seconds`, then stops the threads."""
        end = time.monotonic() + seconds
        with self._lock:
            self._state = "draining"
            self._drained.wait_for(lambda: not len(self._scheduler), seconds)
            self._state = "closed"
            finished = self._scheduler.drop_all(NotReady("the server is shutting down"))
            running = list(self._aborts.values())
            self._work.notify_all()
            self._clock.notify_all()
        for abort in running:
            abort.request()
        self._settle(finished)
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(timeout=max(1.0, end - time.monotonic()))

    def _mind_clock(self) -> None:
        """Wakes the clock thread if it has to look earlier than it means to. Under the lock."""
        wake = self._wake_at()
        if wake is not None and (self._next_wake is None or wake < self._next_wake):
            self._next_wake = wake
            self._clock.notify_all()

    def _wake_at(self) -> float | None:
        """When the clock thread has to look again; None when nothing is to come."""
        wake, watch = self._scheduler.wake_at(), self._scheduler.watch_at()
        return watch if wake is None else wake if watch is None else min(wake, watch)

    def _slot(self, slot: int) -> None:
        _yield_to_others()
        while (step := self._next(slot)) is not None:
            if isinstance(step, Decode):
                self._decode(step)
            else:
                self._run(step)

    def _next(self, slot: int) -> Step[W] | None:
        """What this slot does next; waits for it. None when the engine is closed."""
        while True:
            with self._lock:
                if self._state == "closed":
                    return None
                now = time.monotonic()
                finished = self._scheduler.due(now)
                step = None if finished else self._scheduler.next_batch(slot, now)
                self._mind_clock()
                if step is not None:
                    self._aborts[slot] = Abort()
                if step is not None and self._scheduler.more:
                    self._work.notify()  # each slot that finds work wakes the next
                elif step is None and not finished:
                    self._work.wait()
            if step is not None:
                return step
            self._settle(finished)

    def _decode(self, step: Decode[W]) -> None:
        start = time.monotonic()
        try:
            step.job.work.decode()
        except TTAError as error:
            self._fail(step, error)
        except Exception:
            log.exception("decoding failed")
            self._fail(step, BackendFailed("the image could not be prepared"))
        else:
            now = time.monotonic()
            with self._lock:
                self._scheduler.ready(step, now - start, now)
                self._work.notify()

    def _run(self, step: Batch[W]) -> None:
        start = time.monotonic()
        model, abort = step.bucket.model, self._aborts[step.slot]
        items = [(job.work, view) for job, view in step.items]
        try:
            outcomes = self._runners[model].run(items, abort)
        except TTAError as error:
            log.error("a batch of %s failed: %r", model, error.__cause__)
            self._failed_batch(step, error, abort)
        except Exception:
            log.exception("a batch of %s failed", model)
            self._failed_batch(step, BackendFailed("the model failed on this image"), abort)
        else:
            now = time.monotonic()
            self._came_back(step, outcomes, now - start)
            with self._lock:
                finished = self._scheduler.completed(step, outcomes, now - start, now)
            self._settle(finished)

    def _came_back(self, step: Batch[W], outcomes: Sequence[Outcome], seconds: float) -> None:
        model = step.bucket.model
        self._metrics.batch(model, len(step.items), seconds, seconds / step.estimate, step.risky)
        if all(outcome is LOST for outcome in outcomes):
            self._health.failed(model)
        else:
            self._health.worked(model)

    def _failed_batch(self, step: Batch[W], error: TTAError, abort: Abort) -> None:
        if abort.requested:
            error = BackendFailed("the model took far too long on this image and was stopped")
        self._metrics.fault(step.bucket.model, "ended" if abort.requested else "failed")
        self._health.failed(step.bucket.model)
        self._fail(step, error)

    def _fail(self, step: Step[W], error: TTAError) -> None:
        with self._lock:
            finished = self._scheduler.failed(step, error, time.monotonic())
        self._settle(finished)

    def _settle(self, finished: Sequence[Finished[W]]) -> None:
        for done in finished:
            start = time.monotonic()
            done.job.work.settle(done.outcome)
            now = time.monotonic()
            if isinstance(done.outcome, StopReason):
                with self._lock:
                    self._scheduler.finished(done.job, now - start, now)
            elif isinstance(done.outcome, DeadlineExceeded):
                self._metrics.expired(done.job.model)
        if finished:
            with self._lock:
                self._drained.notify_all()

    def _tick(self) -> None:
        """Answers jobs whose time has come while every slot is busy, and ends what runs far too long."""
        while True:
            with self._lock:
                if self._state == "closed":
                    return
                now = time.monotonic()
                finished = self._scheduler.due(now)
                overdue = [(step, self._aborts[step.slot]) for step in self._scheduler.overdue(now)]
                stuck = self._scheduler.stuck(now)
                if not (finished or overdue or stuck):
                    self._next_wake = self._wake_at()
                    wait = None if self._next_wake is None else max(0.0, self._next_wake - now)
                    self._clock.wait(wait)
            self._settle(finished)
            for step, abort in overdue:
                self._end(step, abort)
            if stuck:
                self._give_up(stuck)

    def _end(self, step: Step[W], abort: Abort) -> None:
        model = step.bucket.model if isinstance(step, Batch) else step.job.model
        log.error("slot %s runs %s far longer than estimated (%.3f s): ending it", step.slot, model, step.estimate)
        abort.request()

    def _give_up(self, stuck: list[int]) -> None:
        log.critical("slots %s are stuck and can't be freed: the process has to be restarted", stuck)
        self._health.stuck(stuck)
        self._on_stuck()


def _yield_to_others() -> None:
    """Lowers this thread's own priority; only Linux knows such a thing."""
    if sys.platform != "linux":
        return
    try:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)
    except OSError:
        log.debug("thread priorities can't be changed here")
