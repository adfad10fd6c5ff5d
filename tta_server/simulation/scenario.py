"""The YAML file of `tta-server simulate`: models with their costs, traffic and a pool."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from tta_server.errors import ConfigError, InvalidInput, shown
from tta_server.errors.validation import StrictModel, explain, explain_value, explain_yaml
from tta_server.scheduling.stopping import StopSpec, read_stop
from tta_server.simulation.machine_scenario import MachineScenario
from tta_server.simulation.pool import PoolSize
from tta_server.simulation.pool_scenario import NotNegative, PoolScenario

C = TypeVar("C", dict[Any, Any], tuple[Any, ...])
MAX_VIEWS = 512


def _existing(path: Path, info: ValidationInfo) -> Path:
    """Relative to the scenario's folder, which is the context of validation."""
    assert isinstance(info.context, Path)
    found = info.context / path
    if not found.exists():
        raise ValueError(f"there is no {found}")
    return found


def _read_stop(spec: Any) -> StopSpec:
    try:
        stop = read_stop(spec)
    except InvalidInput as mistake:
        raise ValueError(str(mistake)) from None
    if stop.name == "open":
        raise ValueError("stop open needs masks, which a simulation does not have; use all, certain or epsilon")
    return stop


def _not_empty(found: C) -> C:
    """Instead of `min_length`, which reports a wrong item a second time."""
    if not found:
        raise ValueError("is empty; give at least one")
    return found


ExistingPath = Annotated[Path, AfterValidator(_existing)]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Sigma = Annotated[float, Field(ge=0, le=3)]
Share = Annotated[float, Field(ge=0, le=1)]
Whole = Annotated[int, Field(ge=1, le=1_000_000_000)]
Views = Annotated[int, Field(ge=1, le=MAX_VIEWS)]


class JitterScenario(StrictModel):
    """A `share` of all steps takes `factor` times as long."""

    share: Share
    factor: Annotated[float, Field(ge=1, le=1e6)]


class ModelScenario(StrictModel):
    """Costs are medians: stated (`view_ms` by batch size), or measured here for a bundled model or a folder.

    `noise` is the sigma of the lognormal factor on each duration, `durations` a file of recorded ones from which the
    factors are taken instead; `image` is [width, height]. Optional views leave
    `default_budget_ms` possible for a plain view that may arrive. `margins` is a file that `tta-server calibrate --log`
    wrote, `calibration` a `calibration.json`; without one, `threshold` says where `stop: {epsilon: ...}` stops (see
    `stopping.Confident`).
    """

    pool: str | None = None
    view_ms: Annotated[dict[Views, Positive], AfterValidator(_not_empty)] | None = None
    decode_ms: NotNegative | None = None
    finish_ms: NotNegative | None = None
    default_budget_ms: Positive | None = None
    measure: bool = False
    folder: ExistingPath | None = None
    image: tuple[Annotated[int, Field(ge=1, le=65_535)], Annotated[int, Field(ge=1, le=65_535)]] = (533, 400)
    noise: Sigma = 0.0
    jitter: JitterScenario = JitterScenario(share=0, factor=1)
    durations: ExistingPath | None = None
    margins: ExistingPath | None = None
    calibration: ExistingPath | None = None
    threshold: NotNegative | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "ModelScenario":
        if (self.view_ms is not None) + self.measure + (self.folder is not None) != 1:
            raise ValueError("give one of view_ms, measure: true, folder")
        if self.view_ms is None and (self.decode_ms, self.finish_ms) != (None, None):
            raise ValueError("decode_ms and finish_ms need view_ms; without it they are measured too")
        if self.view_ms is not None and 1 not in self.view_ms:
            raise ValueError("view_ms has no key 1, the milliseconds of a batch of one view")
        return self

    @property
    def pixels(self) -> int:
        return self.image[0] * self.image[1]


class BurstScenario(StrictModel):
    """`base` arrivals a second, and `peak` in the last `for_s` of every `every_s` seconds."""

    base: NotNegative
    peak: Positive
    every_s: Positive
    for_s: Positive

    @model_validator(mode="after")
    def _fits(self) -> "BurstScenario":
        if self.for_s > self.every_s:
            raise ValueError(f"for_s {self.for_s:g} is over every_s {self.every_s:g}")
        return self


class ArrivalScenario(StrictModel):
    """A Poisson process of that many arrivals a second, bursts, or a recorded trace."""

    poisson: Positive | None = None
    bursts: BurstScenario | None = None
    trace: ExistingPath | None = None

    @model_validator(mode="after")
    def _one(self) -> "ArrivalScenario":
        if len(self.model_fields_set) != 1:
            raise ValueError("give one of poisson, bursts, trace")
        return self


class LeaveScenario(StrictModel):
    """A `share` of clients disconnects `after_ms` after its request, if it has no answer by then."""

    share: Share
    after_ms: NotNegative


class TrafficScenario(StrictModel):
    model: str
    name: str = ""
    arrivals: ArrivalScenario
    budget_ms: Positive
    views: Views = 8
    min_views: Views | Literal["all"] = 1
    priority: Literal["interactive", "batch"] = "interactive"
    stop: Annotated[StopSpec, PlainValidator(_read_stop)] = StopSpec("all")
    leaves: LeaveScenario | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "TrafficScenario":
        if self.min_views != "all" and self.min_views > self.views:
            raise ValueError(f"min_views {self.min_views} is over views {self.views}")
        return self

    @property
    def label(self) -> str:
        return self.name or self.model


class BoundsScenario(StrictModel):
    """As the settings of `serve`."""

    max_waiting: Whole = 1024
    max_waiting_mb: Whole = 1000


class FrontEndScenario(StrictModel):
    """What a request takes outside the slots: HTTP, parsing, clients on the same machine.

    `core_ms` is time of a core; `wait_ms` is the median, and `noise` the sigma, of an answer's further delay; `bound`
    is the setting `api_bound` of `serve`.
    """

    core_ms: NotNegative = 0.0
    wait_ms: NotNegative = 0.0
    noise: Sigma = 0.0
    bound: bool = True


class Scenario(PoolScenario):
    """Requests arrive for `duration_s`, or until there are `requests` of them.

    Its own keys of a pool are for the pool of all models, if it has no `pools`.
    """

    pools: dict[str, PoolScenario] = Field(default_factory=dict)
    bounds: BoundsScenario = BoundsScenario()
    door: FrontEndScenario = FrontEndScenario()
    machine: MachineScenario = MachineScenario()
    models: Annotated[dict[str, ModelScenario], AfterValidator(_not_empty)]
    traffic: Annotated[tuple[TrafficScenario, ...], AfterValidator(_not_empty)]
    loads: Annotated[tuple[Positive, ...], AfterValidator(_not_empty)] = (1.0,)
    duration_s: Positive | None = None
    requests: Whole | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> "Scenario":
        if self.duration_s is not None and self.requests is not None:
            raise ValueError("give one of duration_s, requests")
        self._check_pools()
        for place, traffic in enumerate(self.traffic):
            known = self.models.get(traffic.model)
            if known is None:
                raise ValueError(f"traffic.{place}.model is {traffic.model!r}; known: {', '.join(self.models)}")
            has_threshold = known.view_ms is None or known.calibration or known.threshold is not None
            if traffic.stop.name == "epsilon" and not has_threshold:
                raise ValueError(
                    f"traffic.{place}.stop is {traffic.stop}, but models.{traffic.model} has neither threshold "
                    f"nor calibration; give one of them"
                )
        return self

    def _check_pools(self) -> None:
        given = [key for key in PoolScenario.model_fields if key in self.model_fields_set]
        if self.pools and given:
            raise ValueError(f"give one of {given[0]}, pools; each of the pools has its own {given[0]}")
        for name, model in self.models.items():
            if not self.pools and model.pool is not None:
                raise ValueError(
                    f"models.{name}.pool is {model.pool!r}, but there are no pools; add pools, or remove it"
                )
            if self.pools and model.pool not in self.pools:
                found = "missing" if model.pool is None else repr(model.pool)
                raise ValueError(f"models.{name}.pool is {found}; known: {', '.join(self.pools)}")

    @property
    def all_pools(self) -> Mapping[str, PoolScenario]:
        """By name; a pool without others has the name ""."""
        return self.pools or {"": self}

    def models_of(self, pool: str) -> list[str]:
        """The names of its models."""
        return [name for name, model in self.models.items() if (model.pool or "") == pool]

    def sizes(self, cores: int) -> dict[str, PoolSize]:
        """The size of each pool by name; what the scenario leaves out depends on the number of cores."""
        pools = self.all_pools
        beside_device = any(pool.is_device for pool in pools.values())
        return {name: pool.size(cores, beside_device) for name, pool in pools.items()}

    def with_pool(self, name: str, **changes: int) -> "Scenario":
        """The same with changed keys of a pool, which are not checked again."""
        if not self.pools:
            return self.model_copy(update=changes)
        pools = {**self.pools, name: self.pools[name].model_copy(update=changes)}
        return self.model_copy(update={"pools": pools})


def read_scenario(path: Path) -> Scenario:
    """Raises ConfigError with file, key, what was found and what is allowed."""
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {explain_yaml(error)}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds {shown(found)}, not keys like 'models' and 'traffic'")
    try:
        return Scenario.model_validate(found, context=path.parent)
    except ValidationError as error:
        sentences = (
            explain_value(mistake, _known_keys(mistake.place[:-1]) if mistake.kind == "unknown" else ())
            for mistake in explain(error, found)
        )
        raise ConfigError("; ".join(f"{path}: {sentence}" for sentence in sentences)) from None


def _known_keys(place: Sequence[int | str]) -> list[str]:
    """Of the mapping at that place of a scenario."""
    kind: Any = Scenario
    for part in place:
        kind = kind.model_fields[part].annotation if hasattr(kind, "model_fields") else _item_type(kind)
        kind = get_args(kind)[0] if get_origin(kind) is UnionType else kind  # X | None
    return list(kind.model_fields)


def _item_type(kind: Any) -> Any:
    """X of dict[str, X] and of tuple[X, ...]."""
    arguments = get_args(kind)
    return arguments[1] if get_origin(kind) is dict else arguments[0]
