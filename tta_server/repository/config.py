"""`tta.yaml`: what a model's author states about it, validated once, at load."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PlainValidator, ValidationError, create_model, model_validator

from tta_server.errors import ConfigError, InvalidInput, shown
from tta_server.errors.validation import StrictModel, explain, explain_value, explain_yaml
from tta_server.imaging.preprocessing import INTERPOLATIONS
from tta_server.scheduling.stopping import StopSpec, read_stop
from tta_server.tasks import TASKS
from tta_server.views.geometry import SYMMETRIES

Byte = Annotated[int, Field(ge=0, le=255)]
Level = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[int, Field(gt=0, le=16_384)]


class InputConfig(StrictModel):
    """`size` is [height, width], or `free` for a model that takes any; `resize` is the short side's length before the
    centre crop, or a word. `background` (r, g, b) lies behind transparent pixels; `levels` (low, high) map samples of
    more than 8 bits."""

    size: Literal["free"] | tuple[Positive, Positive]
    resize: Literal["none", "exact", "letterbox"] | Positive | None = None
    max_long_side: Positive | None = None
    interpolation: Literal[tuple(INTERPOLATIONS)] = "bilinear"  # type: ignore[valid-type]
    multiple: Annotated[int, Field(ge=1, le=512)] = 1
    max_size: Positive = 1024
    tile: Positive | None = None
    overlap: Annotated[int, Field(ge=0, le=1024)] = 64
    letterbox_fill: Annotated[int, Field(ge=0, le=255)] = 114
    color: Literal["RGB", "BGR", "grey"] = "RGB"
    scale: Annotated[float, Field(gt=0)] = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    background: tuple[Byte, Byte, Byte] | None = None
    levels: Literal["auto"] | tuple[Level, Level] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "InputConfig":
        channels = 1 if self.color == "grey" else 3
        for key in ("mean", "std"):
            if len(getattr(self, key)) not in (1, channels):
                raise ValueError(f"{key} takes 1 or {channels} numbers for {self.color}")
        if self.size == "free" and self.resize in ("exact", "letterbox"):
            raise ValueError(f"resize {self.resize} needs a fixed size; size: free takes none or a short side")
        if self.size != "free" and self.resize == "none":
            raise ValueError("resize none needs size: free; a fixed size takes exact, letterbox or a short side")
        if self.size != "free" and isinstance(self.resize, int) and self.resize < max(self.size):
            raise ValueError(f"resize {self.resize} leaves less than the centre crop of {max(self.size)}")
        self._check_long_side()
        if isinstance(self.levels, tuple) and self.levels[0] >= self.levels[1]:
            raise ValueError(f"levels takes [low, high] or auto; {list(self.levels)} does not go up")
        self._check_tiles()
        return self

    def _check_long_side(self) -> None:
        if self.max_long_side is None:
            return
        if self.size != "free":
            raise ValueError(
                "max_long_side is for size: free; with a fixed size the centre crop could be larger than the image"
            )
        if not isinstance(self.resize, int):
            raise ValueError("max_long_side needs resize: a number, the short side's length")
        if self.max_long_side <= self.resize:
            raise ValueError(f"max_long_side {self.max_long_side} must be over the short side's length {self.resize}")

    @property
    def largest(self) -> int:
        """Pixels on the long side up to which an image is taken whole: `max_size`, or `max_long_side` where only that
        is stated and is more."""
        return self.max_size if "max_size" in self.model_fields_set else max(self.max_size, self.max_long_side or 0)

    def _check_tiles(self) -> None:
        if self.tile is None:
            return
        if self.size != "free":
            raise ValueError("tile is for size: free; a fixed size takes every image whole")
        if self.tile % self.multiple or not 2 * self.overlap < self.tile <= self.largest:
            raise ValueError(
                f"tile {self.tile} must be a multiple of {self.multiple}, at most max_size {self.largest}, and over "
                f"twice the overlap of {self.overlap}"
            )

    @property
    def tile_side(self) -> int:
        """What is stated, else TILE or the largest multiple under max_size; 0 where that is too small to overlap."""
        side = self.tile or min(TILE, self.largest) // self.multiple * self.multiple
        return side if side > 2 * self.overlap else 0


TILE = 512
"""Pixels of a tile's side where none is stated."""


class BudgetConfig(StrictModel):
    default_ms: Annotated[float, Field(gt=0)] = 200
    max_ms: Annotated[float, Field(gt=0, le=600_000)] = 5000
    min_views: Annotated[int, Field(ge=1)] | Literal["all"] = 1

    @model_validator(mode="after")
    def _ordered(self) -> "BudgetConfig":
        if self.default_ms > self.max_ms:
            raise ValueError(f"default_ms {self.default_ms:g} is over max_ms {self.max_ms:g}")
        return self


class LimitsConfig(StrictModel):
    """How far a view may go and still keep the label: degrees, enlargement, pixels of the model's input."""

    rotate: Annotated[float, Field(ge=0, le=45)] = 30.0
    zoom: Annotated[float, Field(ge=1, le=10)] = 2.0
    shift: Annotated[float, Field(ge=0, le=512)] = 32.0


def _stop(spec: Any) -> StopSpec:
    try:
        return read_stop(spec)
    except InvalidInput as mistake:
        raise ValueError(str(mistake)) from None


class ModelConfig(StrictModel):
    task: Literal[tuple(TASKS)]  # type: ignore[valid-type]
    labels: tuple[str, ...] = ()
    description: str = ""
    backend: Literal["onnxruntime"] = "onnxruntime"
    input: InputConfig
    output: Any
    policy: str | list[Any] | dict[str, Any] = "plain"
    merge: str | None = None
    symmetries: tuple[Literal[tuple(SYMMETRIES)], ...] = ()  # type: ignore[valid-type]
    limits: LimitsConfig = LimitsConfig()
    budget: BudgetConfig = BudgetConfig()
    stop: Annotated[StopSpec, PlainValidator(_stop)] = StopSpec("all")

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from one another")
        task = TASKS[self.task]
        if bool(self.labels) != bool(task.labels_are):
            takes = f"one name for each {task.labels_are}, which is missing" if task.labels_are else "none"
            raise ValueError(f"labels: {self.task} takes {takes}")
        cropped = self.input.size != "free" and isinstance(self.input.resize, int)
        if cropped and not task.sees_crops:
            raise ValueError(
                f"input.resize is a short side with a centre crop: what lies outside would never be seen; "
                f"{self.task} takes size: free, or resize: exact or letterbox"
            )
        longest = self.input.max_long_side or 0
        if longest > self.input.largest and not task.can_tile:
            raise ValueError(
                f"input.max_size {self.input.largest} is under max_long_side {longest}, so images between the two "
                f"would be refused: {self.task} sees every image whole"
            )
        if self.input.tile and not task.can_tile:
            raise ValueError(f"input.tile is for segmentation; {self.task} sees every image whole")
        return self


def read_config(path: Path) -> ModelConfig:
    """Reads `tta.yaml`; raises ConfigError naming file, key, what was found and what is allowed."""
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {explain_yaml(error)}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds {shown(found)}, not keys like 'task' and 'input'")
    kind = _config_of(found.get("task"))
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        sentences = (
            explain_value(mistake, _known_keys(kind, mistake.place[:-1]) if mistake.kind == "unknown" else ())
            for mistake in explain(error, found)
        )
        raise ConfigError("; ".join(f"{path}: {sentence}" for sentence in sentences)) from None


def _config_of(task: object) -> type[ModelConfig]:
    """With `output` as that task wants it; an unknown task is told of by the validation."""
    if not isinstance(task, str) or task not in TASKS:
        return ModelConfig
    return create_model("ModelConfig", __base__=ModelConfig, output=(TASKS[task].Output, ...))


def _known_keys(model: Any, place: tuple[int | str, ...]) -> list[str]:
    for part in place:
        model = model.model_fields[str(part)].annotation
    return [field.name for field in fields(model)] if is_dataclass(model) else list(model.model_fields)
