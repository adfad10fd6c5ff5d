"""From a scenario to the requests that arrive: when, what they request, and what their images show."""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from random import Random

from tta_server.calibration.fit import Run
from tta_server.errors import ConfigError, InvalidInput
from tta_server.repository.calibration import Calibration
from tta_server.scheduling.jobs import Priority
from tta_server.scheduling.stopping import All, Certain, Confident, StopRule, StopSpec
from tta_server.simulation.jobs import Request, RequestSpec
from tta_server.simulation.recordings import TraceRow, read_calibration_file, read_runs, read_trace
from tta_server.simulation.scenario import ArrivalScenario, BurstScenario, Scenario, TrafficScenario

DURATION_S = 60.0
IMAGES = 1000
"""Number of synthetic images where a scenario names no margins."""


@dataclass(frozen=True, slots=True)
class ModelBehavior:
    """What the images of one model show, and the calibration or threshold that says when to stop."""

    images: Sequence[Run]
    calibration: Calibration | None
    threshold: float | None

    def expected_gain(self, margin: float, done: int) -> float:
        return self.calibration.expected_gain(margin, done) if self.calibration else 1.0 - margin

    def rule(self, stop: StopSpec) -> StopRule:
        """Raises InvalidInput for `epsilon` without a calibration or threshold."""
        if stop.name != "epsilon":
            return Certain() if stop.name == "certain" else All()
        if self.threshold is not None:
            return Confident(self.threshold)
        if self.calibration is None:
            raise InvalidInput(f"stop {stop} needs a calibration or a threshold")
        return Confident(self.calibration.threshold(stop.value or 0.0).threshold)


class Traffic:
    """The requests of a scenario, from the same random draws at every load."""

    def __init__(self, scenario: Scenario, calibrations: Mapping[str, Calibration]) -> None:
        """`calibrations` of measured models apply where the scenario names none. Raises ConfigError."""
        self._scenario = scenario
        self._calibrations = calibrations
        self._behaviors: dict[tuple[str, int], ModelBehavior] = {}
        self._traces = {
            place: self._read_trace(entry, entry.arrivals.trace)
            for place, entry in enumerate(scenario.traffic)
            if entry.arrivals.trace
        }
        self._specs = [self._spec(entry, TraceRow(seconds=0)) for entry in scenario.traffic]

    def _read_trace(self, entry: TrafficScenario, path: Path) -> list[tuple[float, RequestSpec]]:
        specs: dict[tuple[object, ...], RequestSpec] = {}
        found = []
        for row in read_trace(path):
            if row.model is not None and row.model not in self._scenario.models:
                known = ", ".join(self._scenario.models)
                raise ConfigError(f"{path}: model {row.model!r} is not in the scenario; known: {known}")
            kind = (row.model, row.budget_ms, row.views)
            if kind not in specs:
                specs[kind] = self._spec(entry, row)
            found.append((row.seconds, specs[kind]))
        return found

    def _spec(self, entry: TrafficScenario, row: TraceRow) -> RequestSpec:
        """From the row, and the entry where the row is empty."""
        model, views = row.model or entry.model, row.views or entry.views
        behavior = self._behavior(model, views)
        return RequestSpec(
            model=model,
            budget=(row.budget_ms or entry.budget_ms) / 1e3,
            views=views,
            mandatory=views if entry.min_views == "all" else min(entry.min_views, views),
            priority=Priority(entry.priority),
            rule=behavior.rule(entry.stop),
            expected_gain=behavior.expected_gain,
            images=behavior.images,
        )

    def _behavior(self, name: str, views: int) -> ModelBehavior:
        if (name, views) not in self._behaviors:
            model, random = self._scenario.models[name], Random(f"{self._scenario.seed} {name}")
            calibration = (
                read_calibration_file(model.calibration) if model.calibration else self._calibrations.get(name)
            )
            images = read_runs(model.margins, views) if model.margins else synthetic_runs(views, random)
            self._behaviors[name, views] = ModelBehavior(images, calibration, model.threshold)
        return self._behaviors[name, views]

    def seconds(self, load: float) -> float:
        """For how long requests arrive; infinite where only their number is bounded."""
        scenario = self._scenario
        if scenario.requests is not None:
            return math.inf
        if scenario.duration_s is None and len(self._traces) == len(scenario.traffic):
            return math.nextafter(max(trace[-1][0] for trace in self._traces.values()) / load, math.inf)
        return scenario.duration_s or DURATION_S

    def requests(self, load: float) -> Iterator[Request]:
        """In order of arrival; `load` multiplies every rate."""
        entries = [self._entry_requests(place, load) for place in range(len(self._scenario.traffic))]
        end = self.seconds(load)
        arriving = takewhile(lambda request: request.at < end, heapq.merge(*entries, key=lambda request: request.at))
        return islice(arriving, self._scenario.requests)

    def _entry_requests(self, place: int, load: float) -> Iterator[Request]:
        """Those of one entry of the traffic."""
        leave, random = self._scenario.traffic[place].leaves, Random(f"{self._scenario.seed} {place} images")
        for at, spec in self._arrivals(place, load):
            leaves_after = leave.after_ms / 1e3 if leave and random.random() < leave.share else math.inf
            yield Request(at, place, spec, random.choice(spec.images), leaves_after)

    def _arrivals(self, place: int, load: float) -> Iterator[tuple[float, RequestSpec]]:
        if place in self._traces:
            return ((at / load, spec) for at, spec in self._traces[place])
        random, arrivals = Random(f"{self._scenario.seed} {place} times"), self._scenario.traffic[place].arrivals
        return ((at, self._specs[place]) for at in arrival_times(arrivals, load, random))


def arrival_times(arrivals: ArrivalScenario, load: float, random: Random) -> Iterator[float]:
    """A Poisson process, of a rate that may change; endless, in seconds from 0."""
    if arrivals.bursts is None:
        return _poisson((arrivals.poisson or 0.0) * load, random)
    return _bursts(arrivals.bursts, load, random)


def _poisson(rate: float, random: Random) -> Iterator[float]:
    at = random.expovariate(rate)
    while True:
        yield at
        at += random.expovariate(rate)


def _bursts(bursts: BurstScenario, load: float, random: Random) -> Iterator[float]:
    """Thinning: draws arrivals at the highest rate, and keeps each with the probability `rate then / highest rate`."""
    most = max(bursts.base, bursts.peak)
    for at in _poisson(most * load, random):
        bursting = at % bursts.every_s >= bursts.every_s - bursts.for_s
        if random.random() < (bursts.peak if bursting else bursts.base) / most:
            yield at


def synthetic_runs(views: int, random: Random) -> list[Run]:
    """Runs of images of two classes, without labels.

    An image has a lead of its own, mostly near 1; a view's lead strays from it by about 0.2; the margin after k views
    is the absolute mean of their leads.
    """
    return [_synthetic_run(views, random) for _ in range(IMAGES)]


def _synthetic_run(views: int, random: Random) -> Run:
    lead, total = random.betavariate(2.5, 0.7), 0.0
    margins = []
    for done in range(1, views + 1):
        total += max(-1.0, min(1.0, lead + random.gauss(0.0, 0.2)))
        margins.append(abs(total) / done)
    return Run(margins, [])
