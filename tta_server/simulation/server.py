"""A server in virtual time: pools of slots and workers behind one front end. Pure; times are in seconds."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from random import Random

from tta_server.errors import TTAError
from tta_server.scheduling.costs import CostEstimate
from tta_server.scheduling.jobs import Bounds
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.deadline import MAX_RESERVE_SHARE
from tta_server.simulation.costs import REFUSAL_SHARE, ModelCost, Overhead
from tta_server.simulation.events import Events
from tta_server.simulation.jobs import Request, SimulatedJob
from tta_server.simulation.machine import Machine
from tta_server.simulation.pool import PoolSize, SimulatedPool


class SimulatedServer:
    """Pools, each with a scheduler and models of its own, behind a front end that all requests and answers pass.

    Each worker, and each slot of a pool without workers, has a core of its own. The front end has none: where no core
    is idle, it preempts one of them.
    """

    def __init__(
        self,
        sizes: Mapping[str, PoolSize],
        costs: Mapping[str, Mapping[str, ModelCost]],
        bounds: Bounds | None = None,
        overhead: Overhead | None = None,
        seed: int = 0,
        machine: Machine | None = None,
    ) -> None:
        """`sizes` and `costs` are by name of pool, `costs` then by model; the name "" is for a pool without others.

        `machine` slows all slots and workers; in its stalls nothing runs, and requests are read after them.
        """
        self._events = Events(machine)
        self.pools = {
            name: SimulatedPool(
                size, costs[name], bounds, self._events, Random(f"{seed} pool {name}".rstrip()), self._answered
            )
            for name, size in sizes.items()
        }
        self._pool_of = {model: self.pools[name] for name, models in costs.items() for model in models}
        self._overhead = overhead or Overhead()
        self._delivery = CostEstimate(self._overhead.core / 2 + self._overhead.wait)
        self._front_end_free = 0.0
        self._cores = [pool for pool in self.pools.values() for _ in range(pool.cores)]
        self._preempted = 0

    @property
    def now(self) -> float:
        return self._events.now

    def run(
        self, requests: Iterable[Request], on_arrival: Callable[[float], None] = lambda now: None
    ) -> list[SimulatedJob]:
        """A job for every request, in order of arrival; `on_arrival` is called with the virtual time of each."""
        jobs: list[SimulatedJob] = []
        self._expect(iter(requests), jobs, on_arrival)
        pools = list(self.pools.values())
        while True:
            wakes = [pool.wake_at() for pool in pools]
            wake, next_at = min(wakes), self._events.next_at
            if min(wake, next_at) == math.inf:
                return jobs
            if next_at <= wake:
                self._events.run_next()
            else:
                self._events.now = max(self.now, wake)
                pools[wakes.index(wake)].wake()

    # ---- the front end and its clients ----

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
            self._events.at(self._events.machine.resumes_at(request.at), arrive, SimulatedJob(request))

    def _after_front_end(self, action: Callable[[SimulatedJob], None], job: SimulatedJob, share: float = 0.5) -> None:
        """After this share of a request's core time: one after the other, and before the work of slots and workers."""
        if not self._overhead.core:
            action(job)
            return
        seconds = self._overhead.core * share
        self._front_end_free = max(self.now, self._front_end_free) + seconds
        self._preempt(seconds)
        self._events.at(self._front_end_free, action, job)

    def _preempt(self, seconds: float) -> None:
        """The front end needs a core: an idle one, else one of each pool in turn, as often as it has cores."""
        if not any(pool.has_idle_core for pool in self.pools.values()):
            self._preempted = (self._preempted + 1) % len(self._cores)
            self._cores[self._preempted].preempt(seconds)

    def _admit(self, job: SimulatedJob) -> None:
        request = job.request
        budget = request.spec.budget
        reserve = min(3 * self._delivery.estimate(self.now), MAX_RESERVE_SHARE * budget)  # as for HTTP requests
        try:
            self._pool_of[request.spec.model].admit(job, self._overhead.start(request.at, self.now), reserve)
        except TTAError as refusal:
            job.job, job.outcome = None, refusal
            self._after_front_end(self._set_latency, job)
            return
        if request.leaves_after < budget:
            self._events.at(request.at + request.leaves_after, self._leave, job)

    def _leave(self, job: SimulatedJob) -> None:
        assert job.job is not None
        for finished in self._pool_of[job.request.spec.model].scheduler.cancel(job.job, self.now):
            assert not isinstance(finished.outcome, StopReason)
            job.outcome = finished.outcome
            self._set_latency(job)

    def _answered(self, job: SimulatedJob) -> None:
        """A pool has made an answer."""
        job.made_at = self.now
        self._after_front_end(self._deliver, job)

    def _deliver(self, job: SimulatedJob) -> None:
        random = self._pool_of[job.request.spec.model].random
        self._events.at(self.now + self._overhead.draw_wait(random), self._delivered, job)

    def _delivered(self, job: SimulatedJob) -> None:
        self._delivery.observe(self.now - job.made_at, self.now)
        self._set_latency(job)

    def _set_latency(self, job: SimulatedJob) -> None:
        job.latency = self.now - job.request.at
