"""What a scenario comes to: its figures at a load and a number of slots, and how many slots it takes."""

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tta_server.errors import ConfigError
from tta_server.repository.calibration import Calibration
from tta_server.repository.loader import load_model
from tta_server.scheduling.costs import MARGIN, Bucket, CostModel
from tta_server.scheduling.jobs import Bounds
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Options, make_plan
from tta_server.serving.warmup import BATCHES, warm_up
from tta_server.simulation.figures import Row, figures, pool_figures
from tta_server.simulation.pool import Simulation
from tta_server.simulation.scenario import DoorScenario, ModelScenario, Scenario
from tta_server.simulation.traffic import Traffic
from tta_server.simulation.visits import Cost, Noise, Overhead
from tta_server.views.geometry import Size

MOST_SLOTS = 1024


@dataclass(frozen=True, slots=True)
class Priced:
    """What a model costs, and its own calibration where it was measured and has one."""

    cost: Cost
    calibration: Calibration | None = None


class Forecast:
    """One scenario whose costs are known, to be asked about loads and slots."""

    def __init__(self, scenario: Scenario, models: Mapping[str, Priced]) -> None:
        """Raises ConfigError for a file that the scenario names and that is not what it should be."""
        self.scenario = scenario
        self._costs = {name: priced.cost for name, priced in models.items()}
        self._traffic = Traffic(scenario, {n: p.calibration for n, p in models.items() if p.calibration})

    def seconds(self, load: float) -> float:
        """How long requests arrive; infinity where only their number ends them."""
        return self._traffic.seconds(load)

    def rows(self, load: float, slots: int, watch: Callable[[float], None] = lambda now: None) -> list[Row]:
        """Figures of each entry of the traffic, and of all together if there are several; `watch` is told the virtual
        time at each arrival."""
        scenario = self.scenario
        bounds = Bounds(scenario.bounds.max_waiting, scenario.bounds.max_waiting_mb * 1_000_000)
        pool = Simulation(self._costs, slots, bounds, _door(scenario.door), scenario.seed)
        visits = pool.run(self._traffic.requests(load), watch)
        seconds = self.seconds(load) if math.isfinite(self.seconds(load)) else visits[-1].request.at
        common: Row = {"mode": "simulated", "phase": "sweep", "slots": slots, "load": load, "seconds": seconds}
        common |= pool_figures(pool, slots, visits)
        rows = []
        for place, entry in enumerate(scenario.traffic):
            own = [visit for visit in visits if visit.request.stream == place]
            asked: Row = {"model": entry.label, "budget_ms": entry.budget_ms, "max_views": entry.views}
            rows.append(common | asked | {"stop": str(entry.stop)} | figures(own, seconds))
        if len(rows) > 1:
            nothing: Row = dict.fromkeys(("budget_ms", "max_views", "stop"), "")
            rows.append(common | nothing | {"model": "all"} | figures(visits, seconds))
        return rows

    def fewest_slots(self, load: float, share: float, mean_views: float) -> list[Row]:
        """Figures with the fewest slots with which every entry of the traffic gets that share of its requests answered
        in its budget, with so many views on average; with MOST_SLOTS where even those are too few."""
        tried: dict[int, list[Row]] = {}

        def enough(slots: int) -> bool:
            tried[slots] = self.rows(load, slots)
            return all(is_enough(row, share, mean_views) for row in tried[slots])

        below, slots = 0, 1
        while not enough(slots) and slots < MOST_SLOTS:
            below, slots = slots, slots * 2
        while slots - below > 1:
            middle = (below + slots) // 2
            below, slots = (below, middle) if enough(middle) else (middle, slots)
        return tried[slots]


def _door(door: DoorScenario) -> Overhead:
    return Overhead(door.core_ms / 1e3, door.wait_ms / 1e3, Noise(door.noise))


def is_enough(row: Row, share: float, mean_views: float) -> bool:
    return float(row["goodput_share"]) >= share and float(row["mean_views"]) >= mean_views


def priced(name: str, model: ModelScenario, bundled: Path, cores: int) -> Priced:
    """As the scenario states it, or measured here with `cores` cores busy; `bundled` is the folder of models for
    `measure: true`. Raises ConfigError."""
    noise = Noise(model.noise, model.jitter.share, model.jitter.factor)
    patience = math.inf if model.default_budget_ms is None else model.default_budget_ms / 1e3
    if model.view_ms is not None:
        bucket = Bucket(name, 1, 1)
        curve = {n: ms / 1e3 for n, ms in model.view_ms.items()}
        decode, finish = (model.decode_ms or 0.0) / 1e3, (model.finish_ms or 0.0) / 1e3
        return Priced(Cost({bucket: curve}, (bucket,), decode, finish, model.pixels, patience, noise))
    return _measured(name, model, model.folder or bundled / name, noise, cores)


def _measured(name: str, wanted: ModelScenario, folder: Path, noise: Noise, cores: int) -> Priced:
    """Warm-up's medians, for an image of the scenario's size."""
    if not (folder / "tta.yaml").is_file():
        raise ConfigError(f"models.{name}: there is no tta.yaml in {folder}")
    model, costs = load_model(folder), CostModel()
    with closing(model.backend):
        warm_up(model, costs, cores)
        buckets = make_layout(make_plan(model, Options()), Size(*wanted.image)).buckets
    sizes = (1,) if model.backend.signature.shape[0] == 1 else BATCHES
    named = {bucket: bucket._replace(model=name) for bucket in buckets}
    curves = {own: {n: costs.seconds(bucket, n, 0.0) / MARGIN for n in sizes} for bucket, own in named.items()}
    decode, finish = (
        costs.stage_seconds(stage, model.name, wanted.pixels, 0.0) / MARGIN for stage in ("decode", "finish")
    )
    patience = wanted.default_budget_ms or model.config.budget.default_ms
    cost = Cost(
        curves, tuple(named[bucket] for bucket in buckets), decode, finish, wanted.pixels, patience / 1e3, noise
    )
    return Priced(cost, model.calibration)
