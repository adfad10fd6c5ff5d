"""A pool of slots in virtual time: drives the server's own Scheduler as the engine's threads do, and never waits.

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
from tta_server.scheduling.base import BaseScheduler
from tta_server.scheduling.costs import Bucket, CostEstimate
from tta_server.scheduling.devices.scheduler import DeviceScheduler
from tta_server.scheduling.jobs import Batch, Bounds, Decode, Finish, Finished, Job
from tta_server.scheduling.scheduler import Scheduler
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.deadline import MAX_RESERVE_SHARE
from tta_server.simulation.costs import REFUSAL_SHARE, ModelCost, Overhead, on_device, warmed_up
from tta_server.simulation.jobs import Request, RequestSpec, SimulatedJob

Step = Decode[SimulatedJob] | Batch[SimulatedJob] | Finished[SimulatedJob]


@dataclass(eq=False, slots=True)
class SimulatedThread:
    """One of the slots, or the clock. Its step ends at `end`, or later if it is preempted."""

    number: int
    step: Step | None = None
    start: float = 0.0
    end: float = 0.0
    answers: deque[Finished[SimulatedJob]] = field(default_factory=deque)


class SimulatedPool:
    """A pool behind a front end. Slots are cores: where none is idle, the front end preempts one of them."""

    def __init__(
        self,
        costs: Mapping[str, ModelCost],
        slots: int,
        bounds: Bounds | None = None,
        overhead: Overhead | None = None,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        costs = on_device(costs) if workers else costs
        self.scheduler: BaseScheduler[SimulatedJob] = (
            DeviceScheduler(warmed_up(costs), slots, workers, bounds)
            if workers
            else Scheduler(warmed_up(costs), slots, bounds)
        )
        self.now = 0.0
        self.busy = 0.0
        self.batches = 0
        self.batched_views = 0
        self.costs = costs
        self._median_seconds = lru_cache(maxsize=None)(self._exact_seconds)
        self._exact = warmed_up(costs, margin=1.0)
        self._random = Random(f"{seed} pool")
        self._overhead = overhead or Overhead()
        self._delivery = CostEstimate(self._overhead.core / 2 + self._overhead.wait)
        self._front_end_free = 0.0
        self._slots = [SimulatedThread(number) for number in range(slots)]
        self._clock = SimulatedThread(-1)
        self._idle = deque(self._slots)
        self._workers = [SimulatedThread(slots + number) for number in range(workers)]
        self._idle_workers = deque(self._workers)
        self._preempted = 0
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._order = count()

    def run(
        self, requests: Iterable[Request], on_arrival: Callable[[float], None] = lambda now: None
    ) -> list[SimulatedJob]:
        """A job for every request, in order of arrival; `on_arrival` is called with the virtual time of each."""
        jobs: list[SimulatedJob] = []
        self._expect(iter(requests), jobs, on_arrival)
        while True:
            wake = self.scheduler.wake_at() if self._clock.step is None else None
            if self._events and (wake is None or self._events[0][0] <= wake):
                self.now, _, action, argument = heapq.heappop(self._events)
                action(argument)
            elif wake is not None:
                self.now = max(self.now, wake)
                self._answer(self._clock, self.scheduler.due(self.now))
                self._wake_all()
            else:
                return jobs

    def least_seconds(self, requests: Sequence[RequestSpec]) -> float:
        """Seconds for these requests with all their views if no slot, and no worker, was ever idle."""
        chores = sum(self.costs[request.model].chore_seconds for request in requests)
        views = sum(self.costs[request.model].view_seconds(request.views) for request in requests)
        if self._workers:
            return max(chores / len(self._workers), views / len(self._slots))
        return (chores + views) / len(self._slots)

    def _at(self, time: float, action: Callable[[Any], None], argument: Any) -> None:
        heapq.heappush(self._events, (time, next(self._order), action, argument))

    # ---- clients and the front end ----

    def _expect(
        self, requests: Iterator[Request], jobs: list[SimulatedJob], on_arrival: Callable[[float], None]
    ) -> None:
        """Adds the arrival of the next request, if there is one."""

        def arrive(job: SimulatedJob) -> None:
            on_arrival(self.now)
            jobs.append(job)
            job.outcome = self._overhead.refusal(self._front_end_free - self.now, job.request.spec.budget)
            action, share = (self._set_latency, REFUSAL_SHARE) if job.outcome else (self._admit, 0.5)
            self._after_front_end(action, job, share)
            self._expect(requests, jobs, on_arrival)

        if request := next(requests, None):
            self._at(request.at, arrive, SimulatedJob(request))

    def _after_front_end(self, action: Callable[[SimulatedJob], None], job: SimulatedJob, share: float = 0.5) -> None:
        """After this share of a request's core time: the front end does one thing at a time, before the slots."""
        if not self._overhead.core:
            action(job)
            return
        seconds = self._overhead.core * share
        self._front_end_free = max(self.now, self._front_end_free) + seconds
        self._preempt(seconds)
        self._at(self._front_end_free, action, job)

    def _preempt(self, seconds: float) -> None:
        """Another thread needs a core: an idle one, else that of a slot or worker, each in turn."""
        threads, idle = (self._workers, self._idle_workers) if self._workers else (self._slots, self._idle)
        if not idle:
            self._preempted = (self._preempted + 1) % len(threads)
            threads[self._preempted].end += seconds

    def _admit(self, job: SimulatedJob) -> None:
        request = job.request
        spec, cost = request.spec, self.costs[request.spec.model]
        reserve = min(3 * self._delivery.estimate(self.now), MAX_RESERVE_SHARE * spec.budget)  # as for HTTP requests
        job.job = Job(
            payload=job,
            model=spec.model,
            buckets=cost.view_buckets(spec.views),
            mandatory=spec.mandatory,
            deadline=self._overhead.start(request.at, self.now) + spec.budget - reserve,
            reserve=reserve,
            pixels=cost.pixels,
            nbytes=3 * cost.pixels,
            priority=spec.priority,
            default_budget=cost.default_budget,
        )
        try:
            self.scheduler.admit(job.job, self.now)
        except TTAError as refusal:
            job.job, job.outcome = None, refusal
            self._after_front_end(self._set_latency, job)
            return
        self._wake_worker() if self._workers else self._wake_slot()
        if request.leaves_after < spec.budget:
            self._at(request.at + request.leaves_after, self._leave, job)

    def _leave(self, job: SimulatedJob) -> None:
        assert job.job is not None
        for finished in self.scheduler.cancel(job.job, self.now):
            assert not isinstance(finished.outcome, StopReason)
            job.outcome = finished.outcome
            self._set_latency(job)

    def _deliver(self, job: SimulatedJob) -> None:
        self._at(self.now + self._overhead.draw_wait(self._random), self._delivered, job)

    def _delivered(self, job: SimulatedJob) -> None:
        self._delivery.observe(self.now - job.made_at, self.now)
        self._set_latency(job)

    def _set_latency(self, job: SimulatedJob) -> None:
        job.latency = self.now - job.request.at

    # ---- slots and the clock ----

    def _wake_slot(self) -> None:
        """Wakes the slot that has been idle longest."""
        if self._idle:
            self._at(self.now, self._next_step, self._idle.popleft())

    def _wake_worker(self) -> None:
        """Wakes the worker that has been idle longest."""
        if self._idle_workers:
            self._at(self.now, self._next_chore, self._idle_workers.popleft())

    def _wake_all(self) -> None:
        """Wakes a slot and a worker if there is work for them; each of these wakes the next."""
        if self.scheduler.has_more_work:
            self._wake_slot()
        if self._workers and self.scheduler.has_more_chores:
            self._wake_worker()

    def _next_step(self, slot: SimulatedThread) -> None:
        finished = self.scheduler.due(self.now)
        if finished and not self._workers:
            self._answer(slot, finished)
            return
        self._leave_to_clock(finished)
        step = self.scheduler.next_batch(slot.number, self.now)
        if step is None:
            self._idle.append(slot)
            return
        self._start(slot, Finished(step.job, step.reason) if isinstance(step, Finish) else step)
        if self.scheduler.has_more_work:
            self._wake_slot()

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

    def _start(self, thread: SimulatedThread, step: Step) -> None:
        if isinstance(step, Finished):
            step.job.payload.outcome = step.outcome
        seconds = self._draw_seconds(step)
        if thread is self._clock:
            self._preempt(seconds)
        thread.step, thread.start, thread.end = step, self.now, self.now + seconds
        self._at(thread.end, self._end, thread)

    def _draw_seconds(self, step: Step) -> float:
        """How long a step takes this time: its median times noise."""
        if isinstance(step, Batch):
            median, name = self._median_seconds(step.bucket, step.rows or len(step.items)), step.bucket.model
        elif isinstance(step, Decode):
            median, name = self.costs[step.job.model].decode, step.job.model
        elif isinstance(step.outcome, StopReason):
            median, name = self.costs[step.job.model].finish, step.job.model
        else:
            return 0.0
        return median * self.costs[name].noise.draw(self._random)

    def _exact_seconds(self, bucket: Bucket, n: int) -> float:
        return self._exact.seconds(bucket, n, 0.0)

    def _end(self, thread: SimulatedThread) -> None:
        if thread.end > self.now:  # preempted meanwhile
            self._at(thread.end, self._end, thread)
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
            step.job.payload.made_at = self.now
            self._after_front_end(self._deliver, step.job.payload)
        if 0 <= thread.number < len(self._slots):
            self.busy += seconds
        if self._workers and 0 <= thread.number < len(self._slots):
            self._leave_to_clock(finished)
            if self.scheduler.has_more_chores:
                self._wake_worker()
            self._next_step(thread)
        else:
            self._answer(thread, finished)

    def _complete(self, batch: Batch[SimulatedJob], seconds: float) -> list[Finished[SimulatedJob]]:
        self.batches += 1
        self.batched_views += len(batch.items)
        outcomes = [job.payload.merge(view) for job, view in batch.items]
        return self.scheduler.completed(batch, outcomes, seconds, self.now)
