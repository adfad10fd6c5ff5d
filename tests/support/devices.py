"""A device pool in virtual time: drives a DeviceScheduler as the engine's threads do; every step takes its true cost.

Each decision is checked against the laws (`tests.support.device_laws`) when it is made.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.support import device_laws as laws
from tests.support.simulator import Arrival, Bucket, Faults, Record, cost_model
from tta_server.errors import BackendFailed, TTAError
from tta_server.scheduling.devices.scheduler import DeviceScheduler
from tta_server.scheduling.devices.slots import DeviceSlots
from tta_server.scheduling.jobs import Batch, Bounds, Decode, Finish, Finished, Job, Quote

NO_FAULTS = Faults()

Step = Decode[Record] | Batch[Record] | Finish[Record]


@dataclass(frozen=True)
class Machine:
    """A device: for each bucket, batch size -> milliseconds; and the milliseconds of decoding and answering.

    A slot asks for its next batch `prepare_ms` before the end of one that runs; 0: when it is idle.
    """

    curves: Mapping[Bucket, Mapping[int, float]]
    slots: int = 1
    workers: int = 1
    decode_ms: float = 0.0
    finish_ms: float = 0.0
    prepare_ms: float = 0.0

    @property
    def in_flight(self) -> int:
        """Of one slot; one as of a remote server, whose slots ask when they are idle."""
        return 2 if self.prepare_ms else 1


class Device:
    """Runs a history of arrivals to its end."""

    def __init__(
        self,
        machine: Machine,
        bounds: Bounds | None = None,
        faults: Faults = NO_FAULTS,
        scheduler: type[DeviceScheduler[Any]] = DeviceScheduler,
    ) -> None:
        def costs() -> Any:
            return cost_model(machine.curves, machine.decode_ms, machine.finish_ms)

        self.machine = machine
        self.bounds = bounds or Bounds()
        self.truth = costs()
        self.scheduler: DeviceScheduler[Record] = scheduler(
            costs(), DeviceSlots(machine.slots, machine.prepare_ms / 1e3, machine.in_flight), machine.workers, bounds
        )
        self.now = 0.0
        self.records: list[Record] = []
        self.quotes = False
        self.live: dict[Record, None] = {}
        self.batches: list[tuple[float, Batch[Record]]] = []
        self.running: dict[int, Step] = {}
        self.until: dict[int, float] = {}
        self.prepared: dict[int, Batch[Record]] = {}
        """The batch that a slot runs next."""
        self.longest = {"decode": 0.0, "finish": 0.0}
        """Seconds that any image's decoding and answer take."""
        self.truthful = faults.truthful
        self._faults = faults
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    # ---- true costs ----

    def batch_seconds(self, batch: Batch[Record]) -> float:
        return float(self.truth.seconds(batch.bucket, batch.rows, 0)) * self._faults.factor(self.now)

    def stage_seconds(self, stage: str, job: Job[Record]) -> float:
        return float(self.truth.stage_seconds(stage, job.model, job.pixels, 0)) * self._faults.factor(self.now)

    @property
    def idle_slots(self) -> list[int]:
        return [slot for slot in range(self.machine.slots) if slot not in self.running]

    @property
    def idle_workers(self) -> list[int]:
        first = self.machine.slots
        return [worker for worker in range(first, first + self.machine.workers) if worker not in self.running]

    def start_of_next(self, slot: int) -> float:
        """Return when a batch that this slot takes now starts."""
        return self.until.get(slot, self.now)

    # ---- the world ----

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (seconds, next(self._order), action))

    def run(self, arrivals: Sequence[Arrival]) -> list[Record]:
        for arrival in arrivals:
            record = Record(arrival, number=len(self.records))
            self.records.append(record)
            self.at(arrival.at_ms / 1e3, lambda record=record: self._admit(record))  # type: ignore[misc]
            for stage in self.longest:
                seconds = float(self.truth.stage_seconds(stage, arrival.buckets[0].model, arrival.pixels, 0))
                self.longest[stage] = max(self.longest[stage], seconds)
        rounds = 0
        while (first := self._next_moment()) < math.inf:
            self.now = max(self.now, first)
            laws.check_rounds(rounds := rounds + 1)
            if self._events and self._events[0][0] == first:
                heapq.heappop(self._events)[2]()
            elif self.scheduler.wake_at() == first:
                self._wake(first)
            else:
                self._end_overdue()
            self._fill()
            laws.check_idle(self)
        laws.check_end(self)
        return self.records

    def _next_moment(self) -> float:
        event = self._events[0][0] if self._events else None
        times = (event, self.scheduler.wake_at(), self.scheduler.watch_at())
        return min((time for time in times if time is not None), default=math.inf)

    def _wake(self, wake: float) -> None:
        finished = self.scheduler.due(self.now)
        after = self.scheduler.wake_at()
        laws.check_due(self, finished)
        self._settle(finished)
        laws.check_progress(wake, after, bool(finished))

    def _end_overdue(self) -> None:
        for step in self.scheduler.overdue(self.now):
            if self.running.get(step.slot) is step:
                self._end(step, fails=True)
        self.scheduler.stuck(self.now)

    def _admit(self, record: Record) -> None:
        record.arrived_at = self.now
        record.job = record.arrival.job(record, self.now)
        quoted = self._quote(record.arrival) if self.quotes else None
        try:
            self.scheduler.admit(record.job, self.now)
        except TTAError as refusal:
            record.refused = refusal
            laws.check_refusal(self, record)
            laws.check_quote(quoted, record)
            return
        laws.check_quote(quoted, record)
        self.live[record] = None
        if record.arrival.cancels_ms is not None:
            self.at(self.now + record.arrival.cancels_ms / 1e3, lambda: self._cancel(record))

    def _quote(self, arrival: Arrival) -> Quote | TTAError:
        try:
            return self.scheduler.quote(arrival.job(None, self.now), self.now)
        except TTAError as refusal:
            return refusal

    def _cancel(self, record: Record) -> None:
        record.left |= record.live
        self._settle(self.scheduler.cancel(record.job, self.now))

    # ---- slots and workers ----

    def _fill(self) -> None:
        """Lets all idle threads ask until none finds anything."""
        busy = True
        while busy:
            busy = False
            finished = self.scheduler.due(self.now)
            laws.check_due(self, finished)
            self._settle(finished)
            for worker in self.idle_workers:
                if chore := self.scheduler.next_chore(worker, self.now):
                    laws.check_chore(self, chore)
                    self._start(chore)
                    busy = True
            for slot in self.idle_slots:
                ready = laws.before_batch(self)
                if batch := self.scheduler.next_batch(slot, self.now):
                    laws.check_batch(self, batch, ready)
                    self._start(batch)
                    busy = True

    def _prepare(self, running: Batch[Record]) -> None:
        """Asks for the batch after one that runs."""
        if self.running.get(running.slot) is not running or running.slot in self.prepared:
            return
        ready = laws.before_batch(self)
        if batch := self.scheduler.next_batch(running.slot, self.now):
            laws.check_batch(self, batch, ready)
            self._dispatch(batch)
            self.prepared[batch.slot] = batch

    def _dispatch(self, batch: Batch[Record]) -> None:
        for job, view in batch.items:
            job.payload.dispatched.append(view)
            job.payload.running += 1

    def _start(self, step: Step) -> None:
        if isinstance(step, Batch):
            self._dispatch(step)
            self._start_batch(step)
            return
        self.running[step.slot] = step
        if isinstance(step, Decode):
            step.job.payload.decode_started = True
            seconds = self.stage_seconds("decode", step.job)
        else:
            self._settle([Finished(step.job, step.reason)])
            seconds = self.stage_seconds(step.job.finish, step.job)
        self.until[step.slot] = self.now + seconds
        self.at(self.now + seconds, lambda: self._end(step, fails=False))

    def _start_batch(self, batch: Batch[Record]) -> None:
        number, seconds = len(self.batches), self.batch_seconds(batch)
        self.batches.append((self.now, batch))
        self.running[batch.slot] = batch
        self.until[batch.slot] = end = self.now + seconds
        if self.machine.prepare_ms:
            self.at(max(self.now, end - self.machine.prepare_ms / 1e3), lambda: self._prepare(batch))
        if number not in self._faults.hangs:
            self.at(end, lambda: self._end(batch, number in self._faults.fails))

    def _end(self, step: Step, fails: bool) -> None:
        """Completes a step, unless it was ended before."""
        if self.running.get(step.slot) is not step:
            return
        del self.running[step.slot], self.until[step.slot]
        if isinstance(step, Finish):
            laws.check_answer_time(self, step.job)
            self.scheduler.finished(step.job, self.stage_seconds(step.job.finish, step.job), self.now)
        elif isinstance(step, Decode):
            self._end_decode(step, fails)
        else:
            self._end_batch(step, fails)

    def _end_decode(self, step: Decode[Record], fails: bool) -> None:
        if fails:
            step.job.payload.hit_by_failure = True
            self._settle(self.scheduler.failed(step, BackendFailed("it took too long"), self.now))
            return
        step.job.payload.decoded = True
        self.scheduler.ready(step, self.stage_seconds("decode", step.job), self.now)

    def _end_batch(self, batch: Batch[Record], fails: bool) -> None:
        for job, view in batch.items:
            job.payload.running -= 1
            job.payload.hit_by_failure |= fails and view < job.mandatory
        if fails:
            live = [job.payload for job in dict(batch.items) if job.payload.live]
            finished = self.scheduler.failed(batch, BackendFailed("it broke"), self.now)
            laws.check_failed(live, finished)
        else:
            outcomes = {job: job.payload.merge(views) for job, views in batch.views.items()}
            finished = self.scheduler.completed(batch, outcomes, self.batch_seconds(batch), self.now)
        self._settle(finished)
        if prepared := self.prepared.pop(batch.slot, None):
            self._start_batch(prepared)

    def _settle(self, finished: Sequence[Finished[Record]]) -> None:
        for done in finished:
            record = done.job.payload
            laws.check_answer(self, done)
            self.live.pop(record, None)
            record.answers.append((self.now, done.outcome))
