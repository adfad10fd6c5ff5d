"""How long the scheduler of a device pool takes to decide, with 500 live jobs, against targets.

`admit`, `next_chore`, `next_batch` and `completed` are timed one call at a time, in seconds of the processor, while a
device like that of docs/scenarios/h100.yaml is offered what it bears with one to four views each. Exits with 1 where a
target is missed.

    .venv/bin/python benchmarks/decisions.py [--seconds 1]
"""

import argparse
import gc
import heapq
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any, TypeVar

from rich.console import Console

from tta_server.errors import Overloaded
from tta_server.scheduling.costs import MARGIN, Bucket, CostModel
from tta_server.scheduling.devices.scheduler import DeviceScheduler
from tta_server.scheduling.devices.slots import DeviceSlots
from tta_server.scheduling.jobs import Batch, Bounds, Decode, Job, Outcome

T = TypeVar("T")
BUCKET = Bucket("m", 224, 224)
CURVE = {1: 1.5, 2: 1.53, 4: 1.59, 8: 1.7, 16: 2.0, 32: 3.0, 64: 5.2, 128: 9.8}
LIVE, VIEWS, WORKERS, PIXELS = 500, 8, 15, 100_000
P50_MS, P99_MS, FULL_MS = 0.1, 1.0, 1.0
"""Targets in milliseconds: the median and 99th percentile of a decision, the median for the outcomes of 64 views."""


class Clocked:
    """A device in virtual time; its scheduler's calls are timed."""

    def __init__(self, rate: float, budget: float) -> None:
        costs = CostModel()
        costs.warm(BUCKET, {n: ms / 1e3 / MARGIN for n, ms in CURVE.items()})
        costs.warm_stage("decode", "m", PIXELS, 0.5e-3 / MARGIN)
        costs.warm_stage("finish", "m", PIXELS, 0.05e-3 / MARGIN)
        self.costs = costs
        self.scheduler: DeviceScheduler[Any] = DeviceScheduler(costs, DeviceSlots(1), WORKERS, Bounds(jobs=4096))
        self.rate, self.budget = rate, budget
        self.now, self.refused = 0.0, 0
        self.taken: dict[str, list[float]] = defaultdict(list)
        self.live: list[int] = []
        self._idle = set(range(WORKERS + 1))
        self._ended: set[int] = set()
        """Workers that have ended a step and not asked since."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order, self._random = count(), Random(0)

    def timed(self, name: str, call: Callable[[], T]) -> T:
        begun = time.thread_time()
        found = call()
        self.taken[name].append(time.thread_time() - begun)
        return found

    def run(self, seconds: float) -> None:
        self._expect()
        while self._events and self.now < seconds:
            wake = self.scheduler.wake_at()
            if wake is not None and wake < self._events[0][0]:
                self.now = max(self.now, wake)
                self.timed("due", lambda: self.scheduler.due(self.now))
            else:
                self.now, _, action = heapq.heappop(self._events)
                action()
            self._fill()
            self.live.append(len(self.scheduler))

    def _at(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (seconds, next(self._order), action))

    def _expect(self) -> None:
        self._at(self.now + self._random.expovariate(self.rate), self._arrive)

    def _arrive(self) -> None:
        job: Job[Any] = Job(None, "m", (BUCKET,) * VIEWS, 1, self.now + self.budget, PIXELS)
        try:
            self.timed("admit", lambda: self.scheduler.admit(job, self.now))
        except Overloaded:
            self.refused += 1
        self._expect()

    def _fill(self) -> None:
        for thread in sorted(self._idle):
            if thread == 0:
                if self.scheduler.has_more_work:
                    self._start(self.timed("next_batch", lambda: self.scheduler.next_batch(0, self.now)))
            elif thread in self._ended or self.scheduler.has_more_chores:
                self._ended.discard(thread)
                self._start(self.timed("next_chore", lambda n=thread: self.scheduler.next_chore(n, self.now)))  # type: ignore[misc]

    def _start(self, step: Any) -> None:
        if step is None:
            return
        self._idle.discard(step.slot)
        seconds = CURVE[step.rows] / 1e3 if isinstance(step, Batch) else step.estimate
        self._at(self.now + seconds * self._random.lognormvariate(0, 0.05), lambda: self._end(step, seconds))

    def _end(self, step: Any, seconds: float) -> None:
        self._idle.add(step.slot)
        self._ended.add(step.slot)
        if isinstance(step, Batch):
            outcomes = {job: Outcome(expected_gain=self._random.random()) for job in step.views}
            for job, view in step.items:
                job.merge(view)  # as the slot does
            name = "completed 64" if len(step.items) == 64 else "completed"
            self.timed(name, lambda: self.scheduler.completed(step, outcomes, seconds, self.now))
        elif isinstance(step, Decode):
            self.timed("ready", lambda: self.scheduler.ready(step, seconds, self.now))
        else:
            self.timed("finished", lambda: self.scheduler.finished(step.job, seconds, self.now))


def quantile(values: list[float], share: float) -> float:
    """In milliseconds."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] * 1e3


def report(console: Console, rate: float, views: float, seconds: float) -> int:
    """The number of missed targets at a rate."""
    clocked = Clocked(rate, LIVE / rate * 1.05)
    gc.collect()
    gc.freeze()  # as the server does once it has started
    clocked.run(seconds)
    live = sorted(clocked.live[len(clocked.live) // 4 :])
    console.print(
        f"{rate:.0f} requests/s, about {views:g} views each, budget {clocked.budget * 1e3:.0f} ms: "
        f"{live[len(live) // 2]} live jobs, {clocked.refused} refused"
    )
    missed = 0
    decisions = [(name, clocked.taken[name]) for name in ("admit", "next_chore", "next_batch")]
    decisions.append(("next", clocked.taken["next_chore"] + clocked.taken["next_batch"]))
    decisions.append(("completed", clocked.taken["completed"] + clocked.taken["completed 64"]))
    for name, values in decisions:
        p50, p99 = quantile(values, 0.5), quantile(values, 0.99)
        target = name in ("admit", "next")
        met = (p50 <= P50_MS or not target) and p99 <= P99_MS
        missed += not met
        aim = f"p50 <= {P50_MS}, p99 <= {P99_MS}" if target else f"p99 <= {P99_MS}"
        console.print(f"    {name:12} {len(values):6} calls  p50 {p50:.3f}  p99 {p99:.3f} ms  {aim}: {_verdict(met)}")
    for name in ("due", "ready", "finished"):
        values = clocked.taken[name]
        console.print(
            f"    {name:12} {len(values):6} calls  p50 {quantile(values, 0.5):.3f}  p99 {quantile(values, 0.99):.3f} ms"
        )
    full = quantile(clocked.taken["completed 64"], 0.5)
    missed += full > FULL_MS
    console.print(f"    outcomes of 64 views: p50 {full:.3f} ms  <= {FULL_MS}: {_verdict(full <= FULL_MS)}")
    return missed


def _verdict(met: bool) -> str:
    return "met" if met else "[red]MISSED[/]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1, help="of virtual time at each rate")
    args = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False)
    missed = sum(report(console, rate, views, args.seconds) for rate, views in ((3_000, 4), (6_000, 2), (11_500, 1)))
    console.print(f"{missed} targets missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
