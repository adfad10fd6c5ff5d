"""Runs a scheduler: threads of slots and workers, one clock thread, one lock. All decisions are the scheduler's."""

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from tta_server.backends.cancel import Abort, request_all
from tta_server.errors import DeadlineExceeded, DeviceLost, InternalError, NotReady, TTAError
from tta_server.scheduling.base import BaseScheduler
from tta_server.scheduling.costs import CostModel
from tta_server.scheduling.jobs import Backlog, Finish, Finished, Job, Quote, Step
from tta_server.scheduling.stopping import StopReason
from tta_server.serving import niceness
from tta_server.serving.health import Health
from tta_server.serving.niceness import lower_priority
from tta_server.serving.recorder import LockedRecorder
from tta_server.serving.steps import BatchResult, DecodeResult, Payload, Runner, StepFailure, StepRunner
from tta_server.serving.threads import EngineThreads, Running
from tta_server.serving.unsettled import Unsettled
from tta_server.serving.wakeups import Wakeups
from tta_server.telemetry.observer import Expired, Observer

log = logging.getLogger(__name__)

SCHEDULING_FAILED = "internal error: scheduling failed, no request can be answered; the server has to be restarted"
W = TypeVar("W", bound=Payload)
Picker = Callable[[int, float], Step[W] | None]
"""The step that a thread of this number starts now."""


class Engine(Generic[W]):
    """Runs the jobs of one pool and settles every admitted job exactly once, whatever fails.

    Threads are numbered as the scheduler does: first the slots, then the workers, of which there may be none.
    """

    def __init__(
        self,
        scheduler: BaseScheduler[W],
        runners: Mapping[str, Runner[W]],
        observer: Observer,
        health: Health,
        on_fatal: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """`on_fatal` is called with a reason if only a new process helps: a slot is stuck, or scheduling failed."""
        self._scheduler = scheduler
        self._observer = observer
        self._health = health
        self._on_fatal = on_fatal
        self._process = os.getpid()
        self._unsettled: Unsettled[W] = Unsettled()
        self._running: dict[int, Running] = {}
        """By the id of a step."""
        self._lock = threading.Lock()
        self._threads = EngineThreads(scheduler, self._run_thread)
        self._steps: StepRunner[W] = StepRunner(
            runners, LockedRecorder(self._lock), observer, health, lambda: self._stopped
        )
        self._wake: Wakeups[W] = Wakeups(self._lock, scheduler)
        self._state = "open"

    def start(self) -> None:
        """Starts the threads."""
        self._threads.start()

    # ---- requests ----

    def check(self) -> None:
        """Raises NotReady in a fork of this engine's process: there are no threads, and locks may be held for ever."""
        if os.getpid() != self._process:
            raise NotReady(
                "the model was loaded before this process was forked, and a fork has no threads: load it in each "
                "process, after the fork"
            )

    def submit(self, jobs: Sequence[Job[W]]) -> None:
        """Admits all or none of these jobs. Raises Overloaded, BudgetTooSmall, TooLarge, NotReady, InternalError."""
        self.check()
        with self._guarded(), self._lock:
            if self._state == "failed":
                raise InternalError(SCHEDULING_FAILED)
            if self._state != "open":
                raise NotReady("the server is shutting down")
            self._scheduler.admit_all(jobs, time.monotonic())
            self._unsettled.add(jobs)
            self._wake.wake_for_jobs(len(jobs))
            self._wake.reschedule_clock()

    def cancel(self, job: Job[W]) -> bool:
        """Cancels a job whose client has left; a batch without others is aborted. False if it was settled already."""
        with self._guarded():
            with self._lock:
                finished = self._scheduler.cancel(job, time.monotonic())
                if finished:
                    self._wake.wake_threads()  # a slot may have waited to not delay this job
                running = list(self._running.values()) if finished else []
            for each in running:
                each.abort_if_unwanted()
            self._settle(finished)
            return bool(finished)

    def reprice(self, model: str, costs: CostModel) -> None:
        """Replaces a model's costs after it was reloaded."""
        with self._lock:
            self._scheduler.costs.replace_model(model, costs)

    def quote(self, job: Job[W]) -> Quote:
        """What this job would get now; nothing is admitted. Raises BudgetTooSmall, TooLarge or NotReady."""
        self.check()
        with self._lock:
            return self._scheduler.quote(job, time.monotonic())

    def backlog(self) -> Backlog:
        """The live jobs: their number, slot seconds of waiting mandatory work, and bytes."""
        with self._lock:
            return self._scheduler.backlog()

    def drain(self, seconds: float) -> None:
        """Refuses new jobs, finishes the admitted ones within `seconds`, then stops the threads; not in a fork."""
        if os.getpid() != self._process:
            return
        end = time.monotonic() + seconds
        finished: list[Finished[W]] = []
        with self._lock:
            if self._state == "open":
                self._state = "draining"
            self._wake.drained.wait_for(lambda: not self._unsettled or self._state == "failed", seconds)
            if self._state != "failed":
                self._state = "closed"
                finished = self._scheduler.drop_all(NotReady("the server is shutting down"))
            running = self._stop_threads()
        request_all(running)
        self._settle(finished)
        self._threads.join(end)

    # ---- threads ----

    def _run_thread(self, kind: str, number: int) -> None:
        """The loop of a thread; any error, a TTAError too, fails the engine, so that no thread ends unnoticed."""
        try:
            if kind == "slot":
                self._run_steps(number, self._scheduler.next_batch, self._wake.slots)
            elif kind == "worker":
                self._run_steps(number, self._scheduler.next_chore, self._wake.workers)
            else:
                self._run_clock()
        except Exception as error:  # noqa: BLE001 - logged by `_fail_all`
            self._fail_all(error)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Fails the engine on an unexpected error, for the scheduler's state is unknown then. Raises InternalError."""
        try:
            yield
        except TTAError:
            raise
        except Exception as error:
            self._fail_all(error)
            raise InternalError(SCHEDULING_FAILED) from error

    def _fail_all(self, error: BaseException) -> None:
        """Stops the threads and settles every job with InternalError; does so once."""
        with self._lock:
            if self._state == "failed":
                return
            self._state = "failed"
            self._unsettled.close_progress()
            running = self._stop_threads()
        log.critical("%s", SCHEDULING_FAILED, exc_info=error)
        self._health.mark_fatal(SCHEDULING_FAILED)
        request_all(running)
        self._unsettled.fail_all(InternalError(SCHEDULING_FAILED))
        self._on_fatal(SCHEDULING_FAILED)

    def _stop_threads(self) -> list[Abort]:
        """Wakes all threads to check the state. Returns the running steps for the caller to abort. Under the lock."""
        self._wake.wake_all()
        return [running.abort for running in self._running.values()]

    @property
    def _stopped(self) -> bool:
        return self._state in ("closed", "failed")

    def _run_steps(self, thread: int, pick: Picker[W], available: threading.Condition) -> None:
        lower_priority(niceness.SLOT_NICENESS)
        while (step := self._next_step(thread, pick, available)) is not None:
            try:
                self._run_step(step)
            finally:
                self._running.pop(id(step)).end()
            del step  # a waiting thread must not keep a job, and with it an unloaded model, in memory

    def _next_step(self, thread: int, pick: Picker[W], available: threading.Condition) -> Step[W] | None:
        """Waits for the next step of this thread; None when the engine has stopped."""
        while True:
            with self._lock:
                if self._stopped:
                    return None
                now = time.monotonic()
                finished = self._scheduler.due(now)
                asks_in = self._scheduler.asks_at(thread) - now
                step = None if finished or asks_in > 0 else pick(thread, now)
                self._wake.reschedule_clock()
                if step is not None:
                    self._running[id(step)] = self._threads.running(step)
                if step is None and not finished:
                    available.wait(asks_in if 0 < asks_in < math.inf else None)
                else:
                    self._wake.wake_threads()  # each thread that gets a step wakes the next
            if step is not None:
                return step
            self._settle(finished)

    def _run_step(self, step: Step[W]) -> None:
        if isinstance(step, Finish):
            self._settle([Finished(step.job, step.reason)])
        else:
            running = self._running[id(step)]
            self._report(self._steps.run(step, running.abort, running.call))

    def _report(self, report: DecodeResult[W] | BatchResult[W] | StepFailure[W]) -> None:
        now, finished = time.monotonic(), list[Finished[W]]()
        with self._lock:
            match report:
                case DecodeResult(decode, seconds):
                    self._scheduler.ready(decode, seconds, now)
                    self._wake.wake_slot()
                case BatchResult(batch, outcomes, seconds, prepare, limit):
                    self._scheduler.prepared(batch, prepare, now)
                    finished = self._scheduler.completed(batch, outcomes, seconds, now)
                    if limit:
                        self._scheduler.limit_batches(batch.model, limit)
                case StepFailure(step, error):
                    finished = self._scheduler.failed(step, error, now)
            self._wake.wake_worker()  # the slot that completes a job does not make its answer
        if isinstance(report, StepFailure) and isinstance(report.error, DeviceLost) and not self._health.fatal:
            self._end_process(f"the device is lost ({report.error}): the server has to be restarted")
        if isinstance(report, BatchResult):
            for job in dict.fromkeys(job for job, _ in report.step.items):
                job.payload.notify_progress(job.progress)
        self._settle(finished)

    def _settle(self, finished: Sequence[Finished[W]]) -> None:
        """Makes the answers of finished jobs, or fails them, on the calling thread."""
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
                self._wake.drained.notify_all()

    def _run_clock(self) -> None:
        """The loop of the clock thread: finishes jobs that are due, aborts overdue steps, reports stuck slots."""
        while True:
            with self._lock:
                if self._stopped:
                    return
                now = time.monotonic()
                finished = self._scheduler.due(now)
                overdue = [(step, self._running[id(step)].abort) for step in self._scheduler.overdue(now)]
                stuck = self._scheduler.stuck(now)
                self._wake.wake_threads()
                if not (finished or overdue or stuck):
                    self._wake.wait_for_clock(now)
            self._settle(finished)
            for step, abort in overdue:
                log.error(
                    "slot %s runs %s far longer than estimated (%.3f s)",
                    step.slot,
                    step.model,
                    step.estimate,
                )
                request_all([abort])
                del step, abort
            del finished, overdue  # a waiting thread must not keep a job in memory
            if stuck:
                self._mark_stuck(stuck)

    def _mark_stuck(self, stuck: list[int]) -> None:
        slots = f"slot {stuck[0]} is" if len(stuck) == 1 else f"slots {', '.join(map(str, stuck))} are"
        self._end_process(f"{slots} stuck in a run that can't be ended: the server has to be restarted")

    def _end_process(self, reason: str) -> None:
        log.critical("%s", reason)
        self._health.mark_fatal(reason)
        self._on_fatal(reason)
