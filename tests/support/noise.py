"""A CPU pool in virtual time whose costs vary as on a busy machine, and what must hold on average.

Costs are like those of clothing on two slots: decoding 2.5 ms, a view 4, an answer 0.3, with lognormal noise.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

from tests.simulation.pools import SPEC, cost
from tests.support.laws import require
from tta_server.errors import Overloaded
from tta_server.scheduling.jobs import Phase
from tta_server.scheduling.stopping import StopReason
from tta_server.simulation.jobs import Request, RequestSpec, SimulatedJob
from tta_server.simulation.machine import Machine, SlowSpell, Stalls
from tta_server.simulation.pool import PoolSize
from tta_server.simulation.server import SimulatedServer

DECODE_MS, VIEW_MS, FINISH_MS, SIGMA, SLOTS, VIEWS = 2.5, 4.0, 0.3, 0.3, 2, 8
MEAN = math.exp(SIGMA**2 / 2)
"""Of the noise, whose median is 1."""
CLOSED_PER_S = SLOTS / (DECODE_MS + VIEWS * VIEW_MS + FINISH_MS) * 1e3
"""1x: what the slots can do with all views."""
WINDOW_S = 0.25
IN_TIME, WINDOWS, MOST_VIEWS, GOODPUT, USED = 0.99, 0.9, 1.35, 0.9, 0.6


class NoisyLaw(StrEnum):
    IN_TIME = "of the admitted jobs that meet no stall and no slowdown 99 % are answered within their budget"
    VIEWS_FIRST = "in 90 % of the windows with a refusal, but none soon after a stall, answers have at most 1.35 views"
    GOODPUT = "as many answers are in time as 0.9 of those of the same pool with one view an answer"
    REFUSED_LATE = "95 % of the refused would have waited for work of at least 0.6 of the time that they had left"


@dataclass(frozen=True)
class Weather:
    """What the machine and its clients do: stalls a second, a slow spell, and how many times as many come in bursts.

    A burst is the last half second of every two.
    """

    stalls_per_s: float = 0.5
    spells: tuple[SlowSpell, ...] = ()
    burst: float = 1.0


STALLS = Weather()
SLOW = Weather(spells=(SlowSpell(5.0, 10.0, 2.0),))
BURSTS = Weather(stalls_per_s=0.0, burst=4.0)


@dataclass(frozen=True)
class Refused:
    """A refused request: what it would have waited for at true mean costs, and what was left of its budget."""

    work: float
    left: float


class NoisyServer(SimulatedServer):
    """Records for each refusal the mandatory work that waited."""

    def __init__(self, weather: Weather, budget: float, seed: int) -> None:
        self.machine = Machine(Stalls(weather.stalls_per_s), weather.spells, seed)
        costs = cost({1: VIEW_MS}, decode=DECODE_MS, finish=FINISH_MS, noise=SIGMA)
        costs = replace(costs, default_budget=budget)
        super().__init__({"": PoolSize(SLOTS)}, {"": {"m": costs}}, seed=seed, machine=self.machine)
        self.refused: list[Refused] = []
        self._spells = weather.spells

    def _admit(self, job: SimulatedJob) -> None:
        work = self._waiting_ms() * MEAN / 1e3 * self._factor()
        left = job.request.at + job.request.spec.budget - self.now
        super()._admit(job)
        if isinstance(job.outcome, Overloaded) and not self.has_stalled(self.now - 0.3, self.now):
            self.refused.append(Refused(work, left))

    def _waiting_ms(self) -> float:
        """Until one more job would be answered: all waiting mandatory work and its own, and half a view that runs."""
        live = self.pools[""].scheduler._pool.live  # type: ignore[attr-defined]
        waiting = [job for job in live if not job.mandatory_dispatched]
        decoding = sum(job.phase is Phase.WAITING for job in waiting) + 1
        views = len(waiting) + 1
        return (decoding * DECODE_MS + views * (VIEW_MS + FINISH_MS)) / SLOTS + VIEW_MS / 2

    def _factor(self) -> float:
        return math.prod(spell.factor for spell in self._spells if spell.start <= self.now < spell.end)

    def has_changed(self, start: float, end: float) -> bool:
        """True if a stall or the beginning of a slow spell lies between."""
        return self.has_stalled(start, end) or any(start <= spell.start < end for spell in self._spells)

    def has_stalled(self, start: float, end: float) -> bool:
        return any(stall.start < end and stall.end > start for stall in self.machine.stalls)


def arrivals(load: float, weather: Weather, spec: RequestSpec, seconds: float, seed: int) -> Iterator[Request]:
    random, at = Random(seed), 0.0
    while (at := at + random.expovariate(load * CLOSED_PER_S * weather.burst)) < seconds:
        if at % 2 >= 1.5 or random.random() < 1 / weather.burst:
            yield Request(at, 0, spec, random.choice(spec.images))


@dataclass(frozen=True)
class Case:
    """Requests at `load` times the rate that is possible with all views, each with `budget` seconds."""

    load: float
    budget: float
    weather: Weather = STALLS
    seed: int = 0

    def run(self, seconds: float, views: int = VIEWS) -> "Found":
        server = NoisyServer(self.weather, self.budget, self.seed)
        spec = replace(SPEC, budget=self.budget, views=views)
        return Found(server, server.run(arrivals(self.load, self.weather, spec, seconds, self.seed)))


class Found:
    """What became of the requests of a case."""

    def __init__(self, server: NoisyServer, jobs: Sequence[SimulatedJob]) -> None:
        self.server = server
        self.jobs = jobs

    @property
    def in_time(self) -> int:
        return sum(map(_is_in_time, self.jobs))

    @property
    def in_time_share(self) -> float:
        """Of the admitted jobs that met no stall, and no slowdown."""
        met = (
            job
            for job in self.jobs
            if not isinstance(job.outcome, Overloaded)
            and not self.server.has_changed(job.request.at, job.request.at + job.request.spec.budget)
        )
        return statistics.fmean(map(_is_in_time, met))

    def windows(self) -> Iterator[float]:
        """The mean number of views of the answers to requests of each window with a refusal.

        Without those that hold a stall, or follow one: requests that the stall has made late are refused there, while
        later ones get views again.
        """
        windows: dict[int, list[SimulatedJob]] = defaultdict(list)
        for job in self.jobs:
            windows[int(job.request.at / WINDOW_S)].append(job)
        for number, jobs in windows.items():
            views = [job.merged for job in jobs if isinstance(job.outcome, StopReason)]
            stalled = self.server.has_stalled((number - 1) * WINDOW_S, (number + 1) * WINDOW_S)
            if views and not stalled and any(isinstance(job.outcome, Overloaded) for job in jobs):
                yield statistics.fmean(views)


def _is_in_time(job: SimulatedJob) -> bool:
    return isinstance(job.outcome, StopReason) and job.latency <= job.request.spec.budget + 1e-6


def check(cases: Iterable[Case], seconds: float) -> tuple[int, int]:
    """Require all laws of these cases; returns the numbers of windows and of refusals that were judged."""
    windows, refused = list[float](), list[Refused]()
    for case in cases:
        found = case.run(seconds)
        share = found.in_time_share
        require(share >= IN_TIME, NoisyLaw.IN_TIME, f"{case}: {share:.4f}")
        ratio = found.in_time / case.run(seconds, views=1).in_time
        require(ratio >= GOODPUT, NoisyLaw.GOODPUT, f"{case}: {ratio:.3f}")
        windows += found.windows()
        refused += found.server.refused
    few = sum(views <= MOST_VIEWS for views in windows)
    require(few >= WINDOWS * len(windows), NoisyLaw.VIEWS_FIRST, f"{few} of {len(windows)} windows")
    late = sum(one.work >= USED * one.left for one in refused)
    require(late >= 0.95 * len(refused), NoisyLaw.REFUSED_LATE, f"{late} of {len(refused)}")
    return len(windows), len(refused)
