"""A pool of slots and workers in virtual time: drives the server's own scheduler as the engine's threads do.

Pure: no clock, no threads, no I/O; it never waits. Times are in seconds.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from tta_server.scheduling.base import BaseScheduler
from tta_server.scheduling.devices.scheduler import DeviceScheduler
from tta_server.scheduling.devices.slots import DeviceSlots
from tta_server.scheduling.jobs import Batch, Bounds, Decode, Finish, Finished, Job
from tta_server.scheduling.scheduler import Scheduler
from tta_server.scheduling.stopping import StopReason
from tta_server.simulation.costs import ModelCost, on_device, warmed_up
from tta_server.simulation.durations import Durations, Step
from tta_server.simulation.events import Events
from tta_server.simulation.jobs import RequestSpec, SimulatedJob


@dataclass(frozen=True, slots=True)
class PoolSize:
    """Numbers of slots and workers; without workers, slots do all work.

    On a device, each batch needs `prepare` seconds of its slot's host work before it may start. With two batches
    `in_flight`, that of the next batch is done while one runs.
    """

    slots: int
    workers: int = 0
    prepare: float = 0.0
    in_flight: int = 2


@dataclass(eq=False, slots=True)
class SimulatedThread:
    """A slot, a worker or the clock. Its step ends at `end`, or later if it is preempted.

    A slot of a device waits for `waits` seconds until its batch is prepared, and may ask for the one after it at
    `asks_at`; `following` is that one, and when it is prepared.
    """

    number: int
    step: Step | None = None
    start: float = 0.0
    waits: float = 0.0
    end: float = 0.0
    answers: deque[Finished[SimulatedJob]] = field(default_factory=deque)
    asks_at: float = math.inf
    following: tuple[Batch[SimulatedJob], float] | None = None


class SimulatedPool:
    """A scheduler with its slots and workers, and a clock that makes the answers for which these are too late."""

    def __init__(
        self,
        size: PoolSize,
        costs: Mapping[str, ModelCost],
        bounds: Bounds | None,
        events: Events,
        random: Random,
        on_answer: Callable[[SimulatedJob], None],
    ) -> None:
        """`on_answer` is called when an answer is made."""
        slots, workers = size.slots, size.workers
        costs = on_device(costs) if workers else costs
        prepare = size.prepare if size.in_flight > 1 else 0.0
        self.scheduler: BaseScheduler[SimulatedJob] = (
            DeviceScheduler(warmed_up(costs), DeviceSlots(slots, prepare), workers, bounds)
            if workers
            else Scheduler(warmed_up(costs), slots, bounds)
        )
        self.size = size
        self.busy = 0.0
        self.batches = 0
        self.batched_views = 0
        self.costs = costs
        self.random = random
        self._events = events
        self._on_answer = on_answer
        self._durations = Durations(costs, random)
        self._slots = [SimulatedThread(number) for number in range(slots)]
        self._clock = SimulatedThread(-1)
        self._idle = deque(self._slots)
        """Slots that may ask for a batch and found none: idle ones, and those that could prepare one."""
        self._workers = [SimulatedThread(slots + number) for number in range(workers)]
        self._idle_workers = deque(self._workers)
        self._preempted = 0

    @property
    def now(self) -> float:
        return self._events.now

    def least_seconds(self, requests: Sequence[RequestSpec]) -> float:
        """Seconds for these requests with all their views if no slot, and no worker, was ever idle."""
        chores = sum(self.costs[request.model].chore_seconds for request in requests)
        views = sum(self.costs[request.model].view_seconds(request.views) for request in requests)
        if self._workers:
            return max(chores / len(self._workers), views / len(self._slots))
        return (chores + views) / len(self._slots)

    # ---- jobs ----

    def admit(self, job: SimulatedJob, start: float, reserve: float) -> None:
        """Admits a job whose budget counts from `start`, answered `reserve` seconds before it ends.

        Raises as `Scheduler.admit`.
        """
        spec, cost = job.request.spec, self.costs[job.request.spec.model]
        job.job = Job(
            payload=job,
            model=spec.model,
            buckets=cost.view_buckets(spec.views),
            mandatory=spec.mandatory,
            deadline=start + spec.budget - reserve,
            reserve=reserve,
            pixels=cost.pixels,
            nbytes=3 * cost.pixels,
            priority=spec.priority,
            default_budget=cost.default_budget,
            expected=spec.rule.expected_views(None, 0, spec.views),
        )
        self.scheduler.admit(job.job, self.now)
        self._wake_worker() if self._workers else self._wake_slot()

    # ---- cores ----

    @property
    def cores(self) -> int:
        """One for each worker; without workers, one for each slot."""
        return len(self._workers or self._slots)

    @property
    def has_idle_core(self) -> bool:
        return bool(self._idle_workers if self._workers else self._idle)

    def preempt(self, seconds: float) -> None:
        """Another thread needs a core: an idle one, else that of a slot or worker, each in turn."""
        threads = self._workers or self._slots
        if not self.has_idle_core:
            self._preempted = (self._preempted + 1) % len(threads)
            threads[self._preempted].end += seconds

    # ---- the clock ----

    def wake_at(self) -> float:
        """When the clock has to check jobs; infinite while it makes an answer, and without jobs."""
        wake = self.scheduler.wake_at() if self._clock.step is None else None
        return math.inf if wake is None else wake

    def wake(self) -> None:
        """Lets the clock check the jobs."""
        self._answer(self._clock, self.scheduler.due(self.now))
        self._wake_all()

    # ---- slots and workers ----

    def _wake_slot(self) -> None:
        """Wakes the slot that has been idle longest; if none is idle, one that could prepare a batch."""
        if self._idle:
            slot = next((slot for slot in self._idle if slot.step is None), self._idle[0])
            self._idle.remove(slot)
            self._events.at(self.now, self._next_step, slot)

    def _wake_worker(self) -> None:
        """Wakes the worker that has been idle longest."""
        if self._idle_workers:
            self._events.at(self.now, self._next_chore, self._idle_workers.popleft())

    def _wake_all(self) -> None:
        """Wakes a slot and a worker if there is work for them; each of these wakes the next."""
        if self.scheduler.has_more_work:
            self._wake_slot()
        if self._workers and self.scheduler.has_more_chores:
            self._wake_worker()

    def _next_step(self, slot: SimulatedThread) -> None:
        """Of an idle slot; or the batch after the one that a device's slot runs, if it may ask for that."""
        if self._workers:
            self._next_batch(slot)
            return
        if finished := self.scheduler.due(self.now):
            self._answer(slot, finished)
            return
        step = self.scheduler.next_batch(slot.number, self.now)
        if step is None:
            self._idle.append(slot)
            return
        self._start(slot, Finished(step.job, step.reason) if isinstance(step, Finish) else step)
        if self.scheduler.has_more_work:
            self._wake_slot()

    def _next_batch(self, slot: SimulatedThread) -> None:
        if slot.step is not None and (slot.following or self.now < slot.asks_at):
            return
        if slot in self._idle:
            self._idle.remove(slot)
        self._leave_to_clock(self.scheduler.due(self.now))
        batch = self.scheduler.next_batch(slot.number, self.now)
        if batch is None:
            self._idle.append(slot)
            return
        assert isinstance(batch, Batch)
        prepared_at = self.now + self.size.prepare
        if slot.step is None:
            self._run_batch(slot, batch, prepared_at)
        else:
            slot.following = batch, prepared_at
            if self.scheduler.has_more_chores:
                self._wake_worker()  # it may decode further ahead now
        if self.scheduler.has_more_work:
            self._wake_slot()

    def _run_batch(self, slot: SimulatedThread, batch: Batch[SimulatedJob], prepared_at: float) -> None:
        """Runs a batch as soon as it is prepared.

        The slot asks for the next one so early that it is prepared when this one ends, if that takes its median time.
        """
        slot.following = None
        self._start(slot, batch, max(0.0, prepared_at - self.now))
        if self.size.prepare and self.size.in_flight > 1:
            starts = self.now + slot.waits
            slot.asks_at = starts + max(0.0, self._durations.batch_median(batch) - self.size.prepare)
            self._events.at(slot.asks_at, self._next_batch, slot)

    def _next_chore(self, worker: SimulatedThread) -> None:
        self._leave_to_clock(self.scheduler.due(self.now))
        step = self.scheduler.next_chore(worker.number, self.now)
        if step is None:
            self._idle_workers.append(worker)
            return
        self._start(worker, Finished(step.job, step.reason) if isinstance(step, Finish) else step)
        if self.scheduler.has_more_chores:
            self._wake_worker()

    def _leave_to_clock(self, finished: Sequence[Finished[SimulatedJob]]) -> None:
        """Lets the clock make these answers, after those that it has to make."""
        if self._clock.step is None:
            self._answer(self._clock, finished)
        else:
            self._clock.answers.extend(finished)

    def _answer(self, thread: SimulatedThread, finished: Sequence[Finished[SimulatedJob]]) -> None:
        """Makes the answers one after another; a slot or worker then takes its next step."""
        thread.answers.extend(finished)
        if thread.answers:
            self._start(thread, thread.answers.popleft())
        elif thread.number >= len(self._slots):
            self._next_chore(thread)
        elif thread is not self._clock:
            self._next_step(thread)

    def _start(self, thread: SimulatedThread, step: Step, waits: float = 0.0) -> None:
        if isinstance(step, Finished):
            step.job.payload.outcome = step.outcome
        seconds = self._events.machine.seconds(self.now + waits, self._durations.draw(step, self.now))
        if thread is self._clock:
            self.preempt(seconds)
        thread.step, thread.start, thread.waits, thread.end = step, self.now, waits, self.now + waits + seconds
        self._events.at(thread.end, self._end, thread)

    def _end(self, thread: SimulatedThread) -> None:
        if thread.end > self.now:  # preempted meanwhile
            self._events.at(thread.end, self._end, thread)
            return
        step, thread.step = thread.step, None
        assert step is not None
        seconds, finished = self.now - thread.start, list[Finished[SimulatedJob]]()
        if isinstance(step, Decode):
            self.scheduler.ready(step, seconds, self.now)
            self._wake_slot()
        elif isinstance(step, Batch):
            finished = self._complete(step, seconds)
        elif isinstance(step.outcome, StopReason):
            self.scheduler.finished(step.job, seconds, self.now)
        if isinstance(step, Finished):
            self._on_answer(step.job.payload)
        if 0 <= thread.number < len(self._slots):
            self.busy += seconds - thread.waits
        if self._workers and 0 <= thread.number < len(self._slots):
            self._leave_to_clock(finished)
            if self.scheduler.has_more_chores:
                self._wake_worker()
            self._run_batch(thread, *thread.following) if thread.following else self._next_batch(thread)
        else:
            self._answer(thread, finished)

    def _complete(self, batch: Batch[SimulatedJob], seconds: float) -> list[Finished[SimulatedJob]]:
        self.batches += 1
        self.batched_views += len(batch.items)
        outcomes = {job: job.payload.merge(views) for job, views in batch.views.items()}
        return self.scheduler.completed(batch, outcomes, seconds, self.now)
