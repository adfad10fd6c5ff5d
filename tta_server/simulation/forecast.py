"""Simulates a scenario: its figures at a load and a number of slots, and the fewest slots that meet a target."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tta_server.scheduling.jobs import Bounds
from tta_server.serving.cores import available_cores
from tta_server.simulation.costs import Noise, Overhead
from tta_server.simulation.figures import Row, figures, pool_figures
from tta_server.simulation.pool import PoolSize
from tta_server.simulation.pool_scenario import MOST_SLOTS
from tta_server.simulation.profiles import ModelProfile
from tta_server.simulation.scenario import FrontEndScenario, Scenario
from tta_server.simulation.server import SimulatedServer
from tta_server.simulation.traffic import Traffic


class Forecast:
    """A scenario with the profiles of its models, to be simulated at loads and numbers of slots."""

    def __init__(self, scenario: Scenario, models: Mapping[str, ModelProfile]) -> None:
        """Raises ConfigError for a wrong file that the scenario names."""
        self.scenario = scenario
        self._cores = available_cores()
        self._costs = {name: model.cost for name, model in models.items()}
        self._traffic = Traffic(scenario, {n: model.calibration for n, model in models.items() if model.calibration})

    def seconds(self, load: float) -> float:
        """For how long requests arrive; infinite where only their number is bounded."""
        return self._traffic.seconds(load)

    def rows(
        self, load: float, slots: int | None = None, on_arrival: Callable[[float], None] = lambda now: None
    ) -> list[Row]:
        """As `pool_rows`; `slots` replaces the number of slots of the only pool, if it is given."""
        scenario = self.scenario if slots is None else self.scenario.with_pool("", slots=slots)
        return self.pool_rows(load, scenario.sizes(self._cores), on_arrival)

    def pool_rows(
        self, load: float, sizes: Mapping[str, PoolSize], on_arrival: Callable[[float], None] = lambda now: None
    ) -> list[Row]:
        """Figures of each entry of the traffic and of its pool, and of all together if there are several.

        `on_arrival` is called with the virtual time of each arrival.
        """
        scenario = self.scenario
        bounds = Bounds(scenario.bounds.max_waiting, scenario.bounds.max_waiting_mb * 1_000_000)
        costs = {name: {m: self._costs[m] for m in scenario.models_of(name)} for name in sizes}
        machine = scenario.machine.machine(scenario.seed)
        server = SimulatedServer(sizes, costs, bounds, _overhead(scenario.door), scenario.seed, machine)
        jobs = server.run(self._traffic.requests(load), on_arrival)
        seconds = self.seconds(load) if math.isfinite(self.seconds(load)) else jobs[-1].request.at
        common: Row = {"mode": "simulated", "phase": "sweep", "load": load, "seconds": seconds}
        pools = {
            name: pool_figures(name, pool, [job for job in jobs if job.request.spec.model in costs[name]])
            for name, pool in server.pools.items()
        }
        rows = []
        for place, entry in enumerate(scenario.traffic):
            own = [job for job in jobs if job.request.entry == place]
            requested: Row = {"model": entry.label, "budget_ms": entry.budget_ms, "max_views": entry.views}
            used = pools[scenario.models[entry.model].pool or ""]
            rows.append(common | used | requested | {"stop": str(entry.stop)} | figures(own, seconds))
        if len(rows) > 1:
            mixed: Row = {"model": "all", **dict.fromkeys(("budget_ms", "max_views", "stop"), "")}
            used = pools[""] if "" in pools else dict.fromkeys(next(iter(pools.values())), "")
            rows.append(common | used | mixed | figures(jobs, seconds))
        return rows

    def fewest(self, load: float, target: "Target", pool: str = "", find_workers: bool = False) -> list[Row]:
        """Figures of a pool with the fewest slots that meet the target for every entry of its traffic.

        With `find_workers`, then with the fewest workers beside these. With MOST_SLOTS if even those do not.
        """
        tried: dict[tuple[int, int], list[Row]] = {}
        stated = self.scenario.sizes(self._cores)

        def enough(slots: int, workers: int) -> bool:
            size = replace(stated[pool], slots=slots, workers=workers)
            rows = self.pool_rows(load, {**stated, pool: size})
            tried[slots, workers] = [row for row in rows if row["pool"] == pool]
            return all(target.is_met(row) for row in tried[slots, workers])

        workers = stated[pool].workers
        if find_workers:
            _, both = _bracket(lambda n: enough(n, n))
            workers = min(2 * both, MOST_SLOTS)
        slots = _fewest(lambda n: enough(n, workers))
        if find_workers and enough(slots, workers):
            workers = _fewest(lambda n: enough(slots, n))
        return tried[slots, workers]


@dataclass(frozen=True, slots=True)
class Target:
    """A share of all requests that is answered within its budget, with that many views on average."""

    share: float
    mean_views: float = 0.0

    def is_met(self, row: Row) -> bool:
        return float(row["goodput_share"]) >= self.share and float(row["mean_views"]) >= self.mean_views


def _bracket(enough: Callable[[int], bool]) -> tuple[int, int]:
    """A power of two, up to MOST_SLOTS, that is enough or the largest, and the one before."""
    below, number = 0, 1
    while not enough(number) and number < MOST_SLOTS:
        below, number = number, number * 2
    return below, number


def _fewest(enough: Callable[[int], bool]) -> int:
    """The fewest that are enough; MOST_SLOTS if even those are not."""
    below, number = _bracket(enough)
    while number - below > 1:
        middle = (below + number) // 2
        below, number = (below, middle) if enough(middle) else (middle, number)
    return number


def _overhead(scenario: FrontEndScenario) -> Overhead:
    return Overhead(scenario.core_ms / 1e3, scenario.wait_ms / 1e3, Noise(scenario.noise), scenario.bound)
