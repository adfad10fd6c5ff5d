"""A scenario for `tta-server simulate`: models with their costs, traffic and a pool; validated once, when read."""

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

E = TypeVar("E", dict[Any, Any], tuple[Any, ...])
MAX_VIEWS = 512


def _there(path: Path, info: ValidationInfo) -> Path:
    """Paths are relative to the scenario's folder."""
    assert isinstance(info.context, Path)
    found = info.context / path
    if not found.exists():
        raise ValueError(f"there is no {found}")
    return found


def _stop(spec: Any) -> StopSpec:
    try:
        stop = read_stop(spec)
    except InvalidInput as mistake:
        raise ValueError(str(mistake)) from None
    if stop.name == "open":
        raise ValueError("stop open looks at masks, which a simulation does not have; all, certain, epsilon do not")
    return stop


def _some(found: E) -> E:
    """Not by `min_length`, which complains a second time where an item is wrong."""
    if not found:
        raise ValueError("is empty; there should be at least one")
    return found


There = Annotated[Path, AfterValidator(_there)]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Sigma = Annotated[float, Field(ge=0, le=3)]
Share = Annotated[float, Field(ge=0, le=1)]
Whole = Annotated[int, Field(ge=1, le=1_000_000_000)]
Views = Annotated[int, Field(ge=1, le=MAX_VIEWS)]


class JitterScenario(StrictModel):
    """A `share` of all runs takes `factor` times as long."""

    share: Share
    factor: Annotated[float, Field(ge=1, le=1e6)]


class ModelScenario(StrictModel):
    """Costs are medians: stated (`view_ms` by batch size), or measured here, of a bundled model or of a folder.

    `noise` is the sigma of the lognormal that each true duration is multiplied by; `image` is [width, height].
    `default_budget_ms` is what a plain view that might arrive must still find possible before an optional one runs.
    `margins` is what `tta-server calibrate --log` wrote, `calibration` a `calibration.json`; `threshold` says where
    `stop: {epsilon: ...}` stops (see `stopping.Confident`) if no calibration does.
    """

    view_ms: Annotated[dict[Views, Positive], AfterValidator(_some)] | None = None
    decode_ms: NotNegative | None = None
    finish_ms: NotNegative | None = None
    default_budget_ms: Positive | None = None
    measure: bool = False
    folder: There | None = None
    image: tuple[Annotated[int, Field(ge=1, le=65_535)], Annotated[int, Field(ge=1, le=65_535)]] = (533, 400)
    noise: Sigma = 0.0
    jitter: JitterScenario = JitterScenario(share=0, factor=1)
    margins: There | None = None
    calibration: There | None = None
    threshold: NotNegative | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "ModelScenario":
        if (self.view_ms is not None) + self.measure + (self.folder is not None) != 1:
            raise ValueError("give one of view_ms, measure: true, folder")
        if self.view_ms is None and (self.decode_ms, self.finish_ms) != (None, None):
            raise ValueError("decode_ms and finish_ms are measured, too, where view_ms is not given")
        if self.view_ms is not None and 1 not in self.view_ms:
            raise ValueError("view_ms has no 1: what a batch of one view takes")
        return self

    @property
    def pixels(self) -> int:
        return self.image[0] * self.image[1]


class BurstScenario(StrictModel):
    """`base` arrivals a second, but `peak` in the last `for_s` of every `every_s` seconds."""

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
    """Arrivals a second at random, bursts of them, or a recorded trace."""

    poisson: Positive | None = None
    bursts: BurstScenario | None = None
    trace: There | None = None

    @model_validator(mode="after")
    def _one(self) -> "ArrivalScenario":
        if len(self.model_fields_set) != 1:
            raise ValueError("give one of poisson, bursts, trace")
        return self


class LeaveScenario(StrictModel):
    """A `share` of clients hangs up so long after asking, if it has no answer by then."""

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
    stop: Annotated[StopSpec, PlainValidator(_stop)] = StopSpec("all")
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
    """As `serve` has them."""

    max_waiting: Whole = 1024
    max_waiting_mb: Whole = 1000


class DoorScenario(StrictModel):
    """`core_ms` is the time of a core that a request takes outside the slots: HTTP, parsing, clients on the same
    machine; `wait_ms` the median, and `noise` the sigma, of how long an answer waits besides."""

    core_ms: NotNegative = 0.0
    wait_ms: NotNegative = 0.0
    noise: Sigma = 0.0


class Scenario(StrictModel):
    """Arrivals last for `duration_s`, or end after so many `requests`."""

    slots: Annotated[int, Field(ge=1, le=1024)] | None = None
    bounds: BoundsScenario = BoundsScenario()
    door: DoorScenario = DoorScenario()
    models: Annotated[dict[str, ModelScenario], AfterValidator(_some)]
    traffic: Annotated[tuple[TrafficScenario, ...], AfterValidator(_some)]
    loads: Annotated[tuple[Positive, ...], AfterValidator(_some)] = (1.0,)
    duration_s: Positive | None = None
    requests: Whole | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> "Scenario":
        if self.duration_s is not None and self.requests is not None:
            raise ValueError("give one of duration_s, requests")
        for place, traffic in enumerate(self.traffic):
            known = self.models.get(traffic.model)
            if known is None:
                raise ValueError(f"traffic.{place}.model is {traffic.model!r}; known: {', '.join(self.models)}")
            untold = known.view_ms is not None and known.calibration is None and known.threshold is None
            if traffic.stop.name == "epsilon" and untold:
                raise ValueError(
                    f"traffic.{place}.stop is {traffic.stop}, but models.{traffic.model} has neither threshold "
                    f"nor calibration, which say where that is"
                )
        return self


def read_scenario(path: Path) -> Scenario:
    """Raises ConfigError naming file, key, what was found and what is allowed."""
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
            explain_value(mistake, _known_keys(list(mistake.place[:-1])) if mistake.kind == "unknown" else ())
            for mistake in explain(error, found)
        )
        raise ConfigError("; ".join(f"{path}: {sentence}" for sentence in sentences)) from None


def _known_keys(place: list[int | str]) -> list[str]:
    """Of the mapping at that place of a scenario."""
    kind: Any = Scenario
    for part in place:
        kind = kind.model_fields[part].annotation if hasattr(kind, "model_fields") else _item(kind)
        kind = get_args(kind)[0] if get_origin(kind) is UnionType else kind  # X | None
    return list(kind.model_fields)


def _item(kind: Any) -> Any:
    """Of dict[str, X] and tuple[X, ...]: X."""
    arguments = get_args(kind)
    return arguments[1] if get_origin(kind) is dict else arguments[0]
