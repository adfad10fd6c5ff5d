"""From a scenario to the requests that arrive: when, asking what, and what their images will show."""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from random import Random

from tta_server.calibration.fit import Trail
from tta_server.errors import ConfigError, InvalidInput
from tta_server.repository.calibration import Calibration
from tta_server.scheduling.jobs import Priority
from tta_server.scheduling.stopping import All, Certain, Confident, StopRule, StopSpec
from tta_server.simulation.recordings import Arrival, read_table, read_trace, read_trails
from tta_server.simulation.scenario import ArrivalScenario, BurstScenario, Scenario, TrafficScenario
from tta_server.simulation.visits import Ask, Request

DURATION_S = 60.0
IMAGES = 1000
"""How many images are made up where a scenario names no margins."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of one model's images: what they show, and a calibration or a margin to stop at."""

    trails: Sequence[Trail]
    calibration: Calibration | None
    threshold: float | None

    def worth(self, margin: float, done: int) -> float:
        return self.calibration.expected_gain(margin, done) if self.calibration else 1.0 - margin

    def rule(self, stop: StopSpec) -> StopRule:
        """Raises InvalidInput where nothing says at what margin to stop."""
        if stop.name != "epsilon":
            return Certain() if stop.name == "certain" else All()
        if self.threshold is not None:
            return Confident(self.threshold)
        if self.calibration is None:
            raise InvalidInput(f"stop {stop} needs a calibration, or a threshold")
        return Confident(self.calibration.threshold(stop.value or 0.0))


class Traffic:
    """All that arrives in a scenario, from the same draws at every load."""

    def __init__(self, scenario: Scenario, calibrations: Mapping[str, Calibration]) -> None:
        """`calibrations` are those of measured models; the scenario's own come first. Raises ConfigError."""
        self._scenario = scenario
        self._calibrations = calibrations
        self._known: dict[tuple[str, int], Knowledge] = {}
        self._traces = {
            place: self._traced(entry, entry.arrivals.trace)
            for place, entry in enumerate(scenario.traffic)
            if entry.arrivals.trace
        }
        self._asks = [self._ask(entry, Arrival(seconds=0)) for entry in scenario.traffic]

    def _traced(self, entry: TrafficScenario, path: Path) -> list[tuple[float, Ask]]:
        asks: dict[tuple[object, ...], Ask] = {}
        found = []
        for row in read_trace(path):
            if row.model is not None and row.model not in self._scenario.models:
                known = ", ".join(self._scenario.models)
                raise ConfigError(f"{path}: model {row.model!r} is not in the scenario; known: {known}")
            kind = (row.model, row.budget_ms, row.views)
            if kind not in asks:
                asks[kind] = self._ask(entry, row)
            found.append((row.seconds, asks[kind]))
        return found

    def _ask(self, entry: TrafficScenario, row: Arrival) -> Ask:
        """What the row states, and else the entry."""
        model, views = row.model or entry.model, row.views or entry.views
        known = self._knowledge(model, views)
        return Ask(
            model=model,
            budget=(row.budget_ms or entry.budget_ms) / 1e3,
            views=views,
            mandatory=views if entry.min_views == "all" else min(entry.min_views, views),
            priority=Priority(entry.priority),
            rule=known.rule(entry.stop),
            worth=known.worth,
            trails=known.trails,
        )

    def _knowledge(self, name: str, views: int) -> Knowledge:
        if (name, views) not in self._known:
            model, random = self._scenario.models[name], Random(f"{self._scenario.seed} {name}")
            calibration = read_table(model.calibration) if model.calibration else self._calibrations.get(name)
            trails = read_trails(model.margins, views) if model.margins else invented(views, random)
            self._known[name, views] = Knowledge(trails, calibration, model.threshold)
        return self._known[name, views]

    def seconds(self, load: float) -> float:
        """How long requests arrive; infinity where only their number ends them."""
        scenario = self._scenario
        if scenario.requests is not None:
            return math.inf
        if scenario.duration_s is None and len(self._traces) == len(scenario.traffic):
            return math.nextafter(max(trace[-1][0] for trace in self._traces.values()) / load, math.inf)
        return scenario.duration_s or DURATION_S

    def requests(self, load: float) -> Iterator[Request]:
        """In order of arrival; `load` multiplies the rate of all traffic."""
        streams = [self._stream(place, load) for place in range(len(self._scenario.traffic))]
        end = self.seconds(load)
        arriving = takewhile(lambda request: request.at < end, heapq.merge(*streams, key=lambda request: request.at))
        return islice(arriving, self._scenario.requests)

    def _stream(self, place: int, load: float) -> Iterator[Request]:
        leaves, random = self._scenario.traffic[place].leaves, Random(f"{self._scenario.seed} {place} images")
        for at, ask in self._arrivals(place, load):
            goes = leaves and random.random() < leaves.share
            yield Request(
                at, place, ask, random.choice(ask.trails), leaves.after_ms / 1e3 if leaves and goes else math.inf
            )

    def _arrivals(self, place: int, load: float) -> Iterator[tuple[float, Ask]]:
        if place in self._traces:
            return ((at / load, ask) for at, ask in self._traces[place])
        random, arrivals = Random(f"{self._scenario.seed} {place} times"), self._scenario.traffic[place].arrivals
        return ((at, self._asks[place]) for at in times(arrivals, load, random))


# ---- times ----


def times(arrivals: ArrivalScenario, load: float, random: Random) -> Iterator[float]:
    """Without end, in seconds from 0: independent clients, at a rate that may change."""
    if arrivals.bursts is None:
        return _poisson((arrivals.poisson or 0.0) * load, random)
    return _bursts(arrivals.bursts, load, random)


def _poisson(rate: float, random: Random) -> Iterator[float]:
    at = random.expovariate(rate)
    while True:
        yield at
        at += random.expovariate(rate)


def _bursts(bursts: BurstScenario, load: float, random: Random) -> Iterator[float]:
    """Candidates at the highest rate, of which each stays with the chance of the rate at its time (thinning)."""
    most = max(bursts.base, bursts.peak)
    for at in _poisson(most * load, random):
        bursting = at % bursts.every_s >= bursts.every_s - bursts.for_s
        if random.random() < (bursts.peak if bursting else bursts.base) / most:
            yield at


def invented(views: int, random: Random) -> list[Trail]:
    """Images of two classes: each view leads by its image's own lead (mostly near 1), give or take 0.2, and the merged
    answer by the mean of its views, whichever way. They have no labels."""
    return [_invented(views, random) for _ in range(IMAGES)]


def _invented(views: int, random: Random) -> Trail:
    own, total = random.betavariate(2.5, 0.7), 0.0
    leads = []
    for done in range(1, views + 1):
        total += max(-1.0, min(1.0, own + random.gauss(0.0, 0.2)))
        leads.append(abs(total) / done)
    return Trail(leads, [])
