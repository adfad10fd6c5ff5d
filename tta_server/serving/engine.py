"""The shell around a scheduler: slot threads, one clock thread, a lock. Decides nothing itself."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from tta_server.backends.cancel import Abort
from tta_server.errors import BackendFailed, DeadlineExceeded, InternalError, NotReady, TTAError
from tta_server.scheduling.costs import CostModel
from tta_server.scheduling.jobs import Backlog, Batch, Decode, Finished, Job, Merged, Outcome, Quote, Step
from tta_server.scheduling.progress import Progress
from tta_server.scheduling.scheduler import Scheduler
from tta_server.scheduling.stopping import StopReason
from tta_server.serving import niceness
from tta_server.serving.health import Health
from tta_server.serving.job import Recorder
from tta_server.serving.niceness import lower_priority
from tta_server.serving.unsettled import Settleable, Unsettled
from tta_server.telemetry.observer import Expired, Observer, StepFailed, StepFinished

log = logging.getLogger(__name__)

FAILED = "internal error: scheduling failed, so that no request can be answered; the server has to be restarted"


class Payload(Settleable, Protocol):
    """What the engine runs for a job; every method is called on a slot's thread, or the clock's to settle."""

    def decode(self) -> None:
        """Bytes to canvases; raises TTAError."""

    def notify_progress(self, progress: Progress) -> None:
        """After a batch with views of the job, while it is not settled; raises nothing."""


W = TypeVar("W", bound=Payload)


class Runner(Protocol[W]):
    """One model: runs views of several jobs as one batch and merges them."""

    def run(self, items: Sequence[tuple[Job[W], int]], recorder: Recorder, abort: Abort) -> Sequence[Outcome]:
        """One outcome a view; raises TTAError where the whole batch failed, or was ended by `abort`."""


class LockedRecorder:
    """Records under a lock what happens to the views of jobs."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def merge(self, job: Job[Any], view: int) -> Progress | None:
        with self._lock:
            return job.merge(view)

    def lose(self, job: Job[Any], view: int) -> None:
        with self._lock:
            job.lose(view)


class Engine(Generic[W]):
    """One pool of slots on this machine. Every admitted job is settled exactly once, whatever happens here."""

    def __init__(
        self,
        scheduler: Scheduler[W],
        runners: Mapping[str, Runner[W]],
        observer: Observer,
        health: Health,
        on_fatal: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """`on_fatal` is called, with a sentence, when only a new process helps: a slot does not come back, or the
        scheduling itself failed."""
        self._scheduler = scheduler
        self._runners = runners
        self._observer = observer
        self._health = health
        self._on_fatal = on_fatal
        self._process = os.getpid()
        self._unsettled: Unsettled[W] = Unsettled()
        self._aborts: dict[int, Abort] = {}
        self._lock = threading.Lock()
        self._recorder = LockedRecorder(self._lock)
        self._work_available = threading.Condition(self._lock)
        self._clock = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)
        self._next_wake: float | None = None
        self._state = "open"
        self._threads = [
            threading.Thread(target=self._run_thread, args=(self._slot, slot), name=f"slot-{slot}", daemon=True)
            for slot in range(scheduler.slots)
        ]
        self._threads.append(threading.Thread(target=self._run_thread, args=(self._tick,), name="clock", daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    # ---- requests ----

    def check(self) -> None:
        """Raises NotReady in a process that was forked from the one that made this engine: threads do not survive a
        fork, and locks may be held for ever. Takes no lock."""
        if os.getpid() != self._process:
            raise NotReady(
                "the model was loaded before this process was forked, and its threads did not survive that: load it in "
                "each process, after the fork"
            )

    def submit(self, jobs: Sequence[Job[W]]) -> None:
        """Admits all of these jobs or none; each is then settled exactly once. Raises Overloaded, InvalidInput,
        TooLarge or NotReady."""
        self.check()
        with self._guarded(), self._lock:
            if self._state == "failed":
                raise InternalError(FAILED)
            if self._state != "open":
                raise NotReady("the server is shutting down")
            self._scheduler.admit_all(jobs, time.monotonic())
            self._unsettled.add(jobs)
            self._work_available.notify(len(jobs))
            self._mind_clock()

    def cancel(self, job: Job[W]) -> bool:
        """Nobody waits for it any more: its views make room at once. False if it was settled already."""
        with self._guarded():
            with self._lock:
                finished = self._scheduler.cancel(job, time.monotonic())
                if finished and self._scheduler.more:
                    self._work_available.notify()  # a slot may have held work back for it
            self._settle(finished)
            return bool(finished)

    def reprice(self, model: str, costs: CostModel) -> None:
        """A model is loaded anew: this is what it costs, and nothing else is known of it."""
        with self._lock:
            self._scheduler.costs.adopt(model, costs)

    def quote(self, job: Job[W]) -> Quote:
        """What `submit` would do, and what would come of it."""
        self.check()
        with self._lock:
            return self._scheduler.quote(job, time.monotonic())

    def backlog(self) -> Backlog:
        with self._lock:
            return self._scheduler.backlog()

    def drain(self, seconds: float) -> None:
        """Refuses new jobs, finishes the admitted ones within `seconds`, then stops the threads. Does nothing in a
        forked process, which has none."""
        if os.getpid() != self._process:
            return
        end = time.monotonic() + seconds
        finished: list[Finished[W]] = []
        with self._lock:
            if self._state == "open":
                self._state = "draining"
            self._drained.wait_for(lambda: not self._unsettled or self._state == "failed", seconds)
            if self._state != "failed":
                self._state = "closed"
                finished = self._scheduler.drop_all(NotReady("the server is shutting down"))
            running = self._stop_threads()
        _request_all(running)
        self._settle(finished)
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(timeout=max(1.0, end - time.monotonic()))

    # ---- threads ----

    def _run_thread(self, loop: Callable[..., None], *args: int) -> None:
        """No thread ends without a word: here an error of the project's own is as unforeseen as any other."""
        try:
            loop(*args)
        except Exception as error:  # noqa: BLE001 - logged by `_fail_all`
            self._fail_all(error)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """For a caller's thread: an unexpected error leaves the scheduler in an unknown state, so settle every job and
        stop. Raises InternalError then."""
        try:
            yield
        except TTAError:
            raise
        except Exception as error:
            self._fail_all(error)
            raise InternalError(FAILED) from error

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            if self._state == "failed":
                return
            self._state = "failed"
            running = self._stop_threads()
        log.critical("%s", FAILED, exc_info=error)
        self._health.mark_fatal(FAILED)
        _request_all(running)
        self._unsettled.fail_all(InternalError(FAILED))
        self._on_fatal(FAILED)

    def _stop_threads(self) -> list[Abort]:
        """Wakes all threads, which look at the state; what runs now has to be ended by the caller. Under the lock."""
        for condition in (self._work_available, self._clock, self._drained):
            condition.notify_all()
        return list(self._aborts.values())

    @property
    def _stopped(self) -> bool:
        return self._state in ("closed", "failed")

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
        lower_priority(niceness.SLOTS)
        while (step := self._next(slot)) is not None:
            if isinstance(step, Decode):
                self._decode(step)
            elif isinstance(step, Batch):
                self._run(step)
            else:
                self._settle([Finished(step.job, step.reason)])
            del step  # while it waits for the next, it keeps no job, and so no unloaded model

    def _next(self, slot: int) -> Step[W] | None:
        """What this slot does next; waits for it. None when the engine has stopped."""
        while True:
            with self._lock:
                if self._stopped:
                    return None
                now = time.monotonic()
                finished = self._scheduler.due(now)
                step = None if finished else self._scheduler.next_batch(slot, now)
                self._mind_clock()
                if step is not None:
                    self._aborts[slot] = Abort()
                if step is None and not finished:
                    self._work_available.wait()
                elif self._scheduler.more:
                    self._work_available.notify()  # each slot that finds work wakes the next
            if step is not None:
                return step
            self._settle(finished)

    def _decode(self, step: Decode[W]) -> None:
        start = time.monotonic()
        try:
            step.job.payload.decode()
        except TTAError as error:
            self._fail(step, error)
        except Exception:
            log.exception("decoding failed")
            self._fail(step, BackendFailed("the image could not be prepared"))
        else:
            now = time.monotonic()
            with self._lock:
                self._scheduler.ready(step, now - start, now)
                self._work_available.notify()

    def _run(self, step: Batch[W]) -> None:
        start = time.monotonic()
        model, abort = step.bucket.model, self._aborts[step.slot]
        try:
            outcomes = self._runners[model].run(step.items, self._recorder, abort)
        except TTAError as error:
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
            for job in dict.fromkeys(job for job, _ in step.items):
                job.payload.notify_progress(job.progress)

    def _came_back(self, step: Batch[W], outcomes: Sequence[Outcome], seconds: float) -> None:
        model = step.bucket.model
        self._observer.notify(StepFinished(model, len(step.items), seconds, step.estimate, step.risky))
        if not any(isinstance(outcome, Merged) for outcome in outcomes):
            self._health.failed(model)
        else:
            self._health.worked(model)

    def _failed_batch(self, step: Batch[W], error: TTAError, abort: Abort) -> None:
        if self._stopped:  # what ran was ended with the engine
            self._fail(step, error)
            return
        model = step.bucket.model
        if error.__cause__:
            log.error("a batch of %s failed: %r", model, error.__cause__)
        if abort.requested:
            error = BackendFailed("the model took far too long on this image and was stopped")
        self._observer.notify(StepFailed(model, "ended" if abort.requested else "failed"))
        self._health.failed(model)
        self._fail(step, error)

    def _fail(self, step: Decode[W] | Batch[W], error: TTAError) -> None:
        with self._lock:
            finished = self._scheduler.failed(step, error, time.monotonic())
        self._settle(finished)

    def _settle(self, finished: Sequence[Finished[W]]) -> None:
        for done in finished:
            start = time.monotonic()
            if not self._unsettled.settle(done):
                continue
            now = time.monotonic()
            if isinstance(done.outcome, StopReason):
                with self._lock:
                    self._scheduler.finished(done.job, now - start, now)
            elif isinstance(done.outcome, DeadlineExceeded):
                self._observer.notify(Expired(done.job.model))
        if not self._unsettled:
            with self._lock:
                self._drained.notify_all()

    def _tick(self) -> None:
        """Fails jobs whose time is over, has slots answer those that get no more views, ends what runs far too long."""
        while True:
            with self._lock:
                if self._stopped:
                    return
                now = time.monotonic()
                finished = self._scheduler.due(now)
                overdue = [(step, self._aborts[step.slot]) for step in self._scheduler.overdue(now)]
                stuck = self._scheduler.stuck(now)
                if self._scheduler.more:
                    self._work_available.notify()
                if not (finished or overdue or stuck):
                    self._next_wake = self._wake_at()
                    wait = None if self._next_wake is None else max(0.0, self._next_wake - now)
                    self._clock.wait(wait)
            self._settle(finished)
            _end(overdue)
            del finished, overdue  # while it waits it keeps no job, and so no unloaded model
            if stuck:
                self._give_up(stuck)

    def _give_up(self, stuck: list[int]) -> None:
        slots = f"slot {stuck[0]} is" if len(stuck) == 1 else f"slots {', '.join(map(str, stuck))} are"
        reason = f"{slots} stuck in a run that can't be ended: the server has to be restarted"
        log.critical("%s", reason)
        self._health.mark_fatal(reason)
        self._on_fatal(reason)


def _end(overdue: Sequence[tuple[Step[Any], Abort]]) -> None:
    for step, abort in overdue:
        model = step.bucket.model if isinstance(step, Batch) else step.job.model
        log.error("slot %s runs %s far longer than estimated (%.3f s)", step.slot, model, step.estimate)
        _request_all([abort])


def _request_all(aborts: Sequence[Abort]) -> None:
    """A backend that can't end its run must not keep the others from ending."""
    for abort in aborts:
        try:
            abort.request()
        except Exception:
            log.exception("a run could not be ended")
