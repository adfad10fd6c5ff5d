"""Simulates a scenario: its figures at a load and a number of slots, and the fewest slots that meet a target."""

import math
from collections.abc import Callable, Mapping

from tta_server.scheduling.jobs import Bounds
from tta_server.simulation.costs import Noise, Overhead
from tta_server.simulation.figures import Row, figures, pool_figures
from tta_server.simulation.pool import PoolSize
from tta_server.simulation.profiles import ModelProfile
from tta_server.simulation.scenario import FrontEndScenario, Scenario
from tta_server.simulation.server import SimulatedServer
from tta_server.simulation.traffic import Traffic

MOST_SLOTS = 1024


class Forecast:
    """A scenario with the profiles of its models, to be simulated at loads and numbers of slots."""

    def __init__(self, scenario: Scenario, models: Mapping[str, ModelProfile]) -> None:
        """Raises ConfigError for a wrong file that the scenario names."""
        self.scenario = scenario
        self._costs = {name: model.cost for name, model in models.items()}
        self._traffic = Traffic(scenario, {n: model.calibration for n, model in models.items() if model.calibration})

    def seconds(self, load: float) -> float:
        """For how long requests arrive; infinite where only their number is bounded."""
        return self._traffic.seconds(load)

    def rows(self, load: float, slots: int, on_arrival: Callable[[float], None] = lambda now: None) -> list[Row]:
        """Figures of each entry of the traffic, and of all together if there are several.

        `on_arrival` is called with the virtual time of each arrival.
        """
        scenario = self.scenario
        bounds = Bounds(scenario.bounds.max_waiting, scenario.bounds.max_waiting_mb * 1_000_000)
        size = PoolSize(slots, scenario.workers)
        server = SimulatedServer({"": size}, {"": self._costs}, bounds, _overhead(scenario.door), scenario.seed)
        jobs = server.run(self._traffic.requests(load), on_arrival)
        seconds = self.seconds(load) if math.isfinite(self.seconds(load)) else jobs[-1].request.at
        common: Row = {"mode": "simulated", "phase": "sweep", "slots": slots, "workers": scenario.workers}
        common |= {"load": load, "seconds": seconds}
        common |= pool_figures(server.pools[""], slots, jobs)
        rows = []
        for place, entry in enumerate(scenario.traffic):
            own = [job for job in jobs if job.request.entry == place]
            requested: Row = {"model": entry.label, "budget_ms": entry.budget_ms, "max_views": entry.views}
            rows.append(common | requested | {"stop": str(entry.stop)} | figures(own, seconds))
        if len(rows) > 1:
            mixed: Row = dict.fromkeys(("budget_ms", "max_views", "stop"), "")
            rows.append(common | mixed | {"model": "all"} | figures(jobs, seconds))
        return rows

    def fewest_slots(self, load: float, share: float, mean_views: float) -> list[Row]:
        """Figures with the fewest slots that meet the target for every entry of the traffic.

        With MOST_SLOTS if even those do not.
        """
        tried: dict[int, list[Row]] = {}

        def enough(slots: int) -> bool:
            tried[slots] = self.rows(load, slots)
            return all(meets_target(row, share, mean_views) for row in tried[slots])

        below, slots = 0, 1
        while not enough(slots) and slots < MOST_SLOTS:
            below, slots = slots, slots * 2
        while slots - below > 1:
            middle = (below + slots) // 2
            below, slots = (below, middle) if enough(middle) else (middle, slots)
        return tried[slots]


def meets_target(row: Row, share: float, mean_views: float) -> bool:
    """True if that share of all requests is answered within its budget, with that many views on average."""
    return float(row["goodput_share"]) >= share and float(row["mean_views"]) >= mean_views


def _overhead(scenario: FrontEndScenario) -> Overhead:
    return Overhead(scenario.core_ms / 1e3, scenario.wait_ms / 1e3, Noise(scenario.noise))
