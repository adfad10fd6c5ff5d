"""What the models of a scenario cost: as it states, or measured on this machine."""

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tta_server.errors import ConfigError
from tta_server.repository.calibration import Calibration
from tta_server.repository.described import is_described
from tta_server.repository.loader import load_model
from tta_server.scheduling.costs import MARGIN, Bucket, CostModel
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Options, make_plan
from tta_server.serving.warmup import BATCHES, warm_up
from tta_server.simulation.costs import ModelCost, Noise, RecordedNoise
from tta_server.simulation.recordings import read_durations
from tta_server.simulation.scenario import ModelScenario
from tta_server.views.geometry import Size


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """A model's costs, and the calibration beside its tta.yaml where it was measured and has one."""

    cost: ModelCost
    calibration: Calibration | None = None


def profile_model(name: str, scenario: ModelScenario, bundled: Path, cores: int) -> ModelProfile:
    """As the scenario states it, or measured with `cores` cores busy; `bundled` is the folder for `measure: true`.

    Raises ConfigError.
    """
    if scenario.view_ms is None:
        return _measure(name, scenario, scenario.folder or bundled / name, cores)
    bucket = Bucket(name, 1, 1)
    return ModelProfile(
        ModelCost(
            curves={bucket: {n: ms / 1e3 for n, ms in scenario.view_ms.items()}},
            buckets=(bucket,),
            decode=(scenario.decode_ms or 0.0) / 1e3,
            finish=(scenario.finish_ms or 0.0) / 1e3,
            pixels=scenario.pixels,
            default_budget=math.inf if scenario.default_budget_ms is None else scenario.default_budget_ms / 1e3,
            noise=_noise(scenario),
            recorded=_recorded(scenario),
        )
    )


def _measure(name: str, scenario: ModelScenario, folder: Path, cores: int) -> ModelProfile:
    """Medians of a warm-up, for an image of the scenario's size."""
    if not is_described(folder):
        raise ConfigError(f"models.{name}: there is no tta.yaml in {folder}")
    model, costs = load_model(folder), CostModel()
    with closing(model.backend):
        warm_up(model, costs, cores)
        buckets = make_layout(make_plan(model, Options()), Size(*scenario.image)).buckets
    sizes = BATCHES if model.can_batch else (1,)
    renamed = {bucket: bucket._replace(model=name) for bucket in buckets}
    decode, finish = (
        costs.stage_seconds(stage, model.name, scenario.pixels, 0.0) / MARGIN for stage in ("decode", "finish")
    )
    cost = ModelCost(
        curves={own: {n: costs.seconds(bucket, n, 0.0) / MARGIN for n in sizes} for bucket, own in renamed.items()},
        buckets=tuple(renamed[bucket] for bucket in buckets),
        decode=decode,
        finish=finish,
        pixels=scenario.pixels,
        default_budget=(scenario.default_budget_ms or model.config.budget.default_ms) / 1e3,
        noise=_noise(scenario),
        recorded=_recorded(scenario),
    )
    return ModelProfile(cost, model.calibration)


def _recorded(scenario: ModelScenario) -> RecordedNoise | None:
    return read_durations(scenario.durations) if scenario.durations else None


def _noise(scenario: ModelScenario) -> Noise:
    return Noise(scenario.noise, scenario.jitter.share, scenario.jitter.factor)
