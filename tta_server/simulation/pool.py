"""A pool of slots in virtual time: asks the server's own Scheduler as the engine's threads do, and never waits.

Pure: no clock, no threads, no I/O. Times are in seconds.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from random import Random
from typing import Any

from tta_server.errors import TTAError
from tta_server.scheduling.costs import Bucket, CostEstimate
from tta_server.scheduling.jobs import Batch, Bounds, Decode, Finish, Finished, Job
from tta_server.scheduling.scheduler import Scheduler
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.deadline import MAX_RESERVE_SHARE
from tta_server.simulation.visits import Cost, Overhead, Request, SimulatedJob, warmed


@dataclass(eq=False, slots=True)
class Worker:
    """A thread: one of the slots, or the clock. Its step ends at `end`, or later if the door takes its core."""

    number: int
    step: Decode[SimulatedJob] | Batch[SimulatedJob] | Finished[SimulatedJob] | None = None
    start: float = 0.0
    end: float = 0.0
    answers: deque[Finished[SimulatedJob]] = field(default_factory=deque)


class Simulation:
    """One pool behind a door. Slots are cores: what the door does keeps one of them from its work, if none is idle."""

    def __init__(
        self,
        costs: Mapping[str, Cost],
        slots: int,
        bounds: Bounds | None = None,
        door: Overhead | None = None,
        seed: int = 0,
    ) -> None:
        self.scheduler: Scheduler[SimulatedJob] = Scheduler(warmed(costs), slots, bounds)
        self.now = 0.0
        self.busy = 0.0
        self.batches = 0
        self.batched = 0
        self.costs = costs
        self._truth = lru_cache(maxsize=None)(self._true_seconds)
        self._exact = warmed(costs, margin=1.0)
        self._random = Random(f"{seed} pool")
        self._door = door or Overhead()
        self._handing_out = CostEstimate(self._door.core / 2 + self._door.wait)
        self._door_free = 0.0
        self._slots = [Worker(number) for number in range(slots)]
        self._clock = Worker(-1)
        self._idle = deque(self._slots)
        self._robbed = 0
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._order = count()

    def run(self, requests: Iterable[Request], watch: Callable[[float], None] = lambda now: None) -> list[SimulatedJob]:
        """Every request's visit, in order of arrival; `watch` is told the virtual time at each arrival."""
        visits: list[SimulatedJob] = []
        self._expect(iter(requests), visits, watch)
        while True:
            wake = self.scheduler.wake_at() if self._clock.step is None else None
            if self._events and (wake is None or self._events[0][0] <= wake):
                self.now, _, action, subject = heapq.heappop(self._events)
                action(subject)
            elif wake is not None:
                self.now = max(self.now, wake)
                self._settle(self._clock, self.scheduler.due(self.now))
                if self.scheduler.has_more_work:
                    self._notify()
            else:
                return visits

    def _at(self, time: float, action: Callable[[Any], None], subject: Any) -> None:
        heapq.heappush(self._events, (time, next(self._order), action, subject))

    # ---- clients and the door ----

    def _expect(self, requests: Iterator[Request], visits: list[SimulatedJob], watch: Callable[[float], None]) -> None:
        def arrive(visit: SimulatedJob) -> None:
            watch(self.now)
            visits.append(visit)
            self._through_door(self._admit, visit)
            self._expect(requests, visits, watch)

        if request := next(requests, None):
            self._at(request.at, arrive, SimulatedJob(request))

    def _through_door(self, action: Callable[[SimulatedJob], None], visit: SimulatedJob) -> None:
        """The door does one thing after another, and comes before the slots."""
        if not self._door.core:
            action(visit)
            return
        seconds = self._door.core / 2
        self._door_free = max(self.now, self._door_free) + seconds
        self._rob(seconds)
        self._at(self._door_free, action, visit)

    @property
    def _reserve(self) -> float:
        """As the HTTP door takes it off the budget."""
        return 3 * self._handing_out.estimate(self.now)

    def _hand_out(self, visit: SimulatedJob) -> None:
        self._at(self.now + self._door.waits(self._random), self._handed_out, visit)

    def _handed_out(self, visit: SimulatedJob) -> None:
        self._handing_out.observe(self.now - visit.made_at, self.now)
        self._told(visit)

    def _rob(self, seconds: float) -> None:
        """Another thread needs a core: an idle one, or the slots' in turn."""
        if not self._idle:
            self._robbed = (self._robbed + 1) % len(self._slots)
            self._slots[self._robbed].end += seconds

    def _admit(self, visit: SimulatedJob) -> None:
        request = visit.request
        ask, cost = request.ask, self.costs[request.ask.model]
        reserve = min(self._reserve, MAX_RESERVE_SHARE * ask.budget)
        visit.job = Job(
            payload=visit,
            model=ask.model,
            buckets=cost.of_views(ask.views),
            mandatory=ask.mandatory,
            deadline=self.now + ask.budget - reserve,
            reserve=reserve,
            pixels=cost.pixels,
            nbytes=3 * cost.pixels,
            priority=ask.priority,
            default_budget=cost.patience,
        )
        try:
            self.scheduler.admit(visit.job, self.now)
        except TTAError as refusal:
            visit.job, visit.outcome = None, refusal
            self._through_door(self._told, visit)
            return
        self._notify()
        if request.leaves < ask.budget:
            self._at(request.at + request.leaves, self._leave, visit)

    def _leave(self, visit: SimulatedJob) -> None:
        assert visit.job is not None
        for done in self.scheduler.cancel(visit.job, self.now):
            assert not isinstance(done.outcome, StopReason)
            visit.outcome = done.outcome
            self._told(visit)

    def _told(self, visit: SimulatedJob) -> None:
        visit.latency = self.now - visit.request.at

    # ---- slots and the clock ----

    def _notify(self) -> None:
        """Wakes the slot that has waited longest."""
        if self._idle:
            self._at(self.now, self._ask, self._idle.popleft())

    def _ask(self, slot: Worker) -> None:
        finished = self.scheduler.due(self.now)
        if finished:
            self._settle(slot, finished)
            return
        step = self.scheduler.next_batch(slot.number, self.now)
        if step is None:
            self._idle.append(slot)
            return
        self._begin(slot, Finished(step.job, step.reason) if isinstance(step, Finish) else step)
        if self.scheduler.has_more_work:
            self._notify()

    def _settle(self, worker: Worker, finished: Sequence[Finished[SimulatedJob]]) -> None:
        """Makes the answers one after another; a slot asks for more after that."""
        worker.answers.extend(finished)
        if worker.answers:
            self._begin(worker, worker.answers.popleft())
        elif worker is not self._clock:
            self._ask(worker)

    def _begin(self, worker: Worker, step: Decode[SimulatedJob] | Batch[SimulatedJob] | Finished[SimulatedJob]) -> None:
        if isinstance(step, Finished):
            step.job.payload.outcome = step.outcome
        seconds = self._seconds(step)
        if worker is self._clock:
            self._rob(seconds)
        worker.step, worker.start, worker.end = step, self.now, self.now + seconds
        self._at(worker.end, self._ended, worker)

    def _seconds(self, step: Decode[SimulatedJob] | Batch[SimulatedJob] | Finished[SimulatedJob]) -> float:
        """How long it takes this time."""
        if isinstance(step, Batch):
            median, name = self._truth(step.bucket, len(step.items)), step.bucket.model
        elif isinstance(step, Decode):
            median, name = self.costs[step.job.model].decode, step.job.model
        elif isinstance(step.outcome, StopReason):
            median, name = self.costs[step.job.model].finish, step.job.model
        else:
            return 0.0
        return median * self.costs[name].noise.draw(self._random)

    def _true_seconds(self, bucket: Bucket, n: int) -> float:
        return self._exact.seconds(bucket, n, 0.0)

    def _ended(self, worker: Worker) -> None:
        if worker.end > self.now:  # it was robbed meanwhile
            self._at(worker.end, self._ended, worker)
            return
        step, worker.step = worker.step, None
        assert step is not None
        seconds, finished = self.now - worker.start, list[Finished[SimulatedJob]]()
        if isinstance(step, Decode):
            self.scheduler.ready(step, seconds, self.now)
            self._notify()
        elif isinstance(step, Batch):
            finished = self._ran(step, seconds)
        elif isinstance(step.outcome, StopReason):
            self.scheduler.finished(step.job, seconds, self.now)
        if isinstance(step, Finished):
            step.job.payload.made_at = self.now
            self._through_door(self._hand_out, step.job.payload)
        if worker is not self._clock:
            self.busy += seconds
        self._settle(worker, finished)

    def _ran(self, batch: Batch[SimulatedJob], seconds: float) -> list[Finished[SimulatedJob]]:
        self.batches += 1
        self.batched += len(batch.items)
        outcomes = [job.payload.merge(view) for job, view in batch.items]
        return self.scheduler.completed(batch, outcomes, seconds, self.now)
