"""`tta.yaml`: what a model's author states about it, validated once, at load."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from tta_server.errors import ConfigError, InvalidInput
from tta_server.geometry import SYMMETRIES
from tta_server.preprocessing import INTERPOLATIONS
from tta_server.stopping import StopSpec, read_stop
from tta_server.tasks import TASKS
from tta_server.tasks.merging import KINDS

Positive = Annotated[int, Field(gt=0, le=16_384)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputConfig(Strict):
    """`size` is [height, width], or `free` for a model that takes any; `resize` is the short side's length before the
    centre crop, or a word."""

    size: Literal["free"] | tuple[Positive, Positive]
    resize: Literal["none", "exact", "letterbox"] | Positive | None = None
    interpolation: Literal[tuple(INTERPOLATIONS)] = "bilinear"  # type: ignore[valid-type]
    multiple: Annotated[int, Field(ge=1, le=512)] = 1
    max_size: Positive = 1024
    letterbox_fill: Annotated[int, Field(ge=0, le=255)] = 114
    color: Literal["RGB", "BGR", "grey"] = "RGB"
    scale: Annotated[float, Field(gt=0)] = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    layout: Literal["NCHW", "NHWC"] = "NCHW"

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
        return self


class OutputConfig(Strict):
    kind: Literal[tuple(KINDS)]  # type: ignore[valid-type]
    name: str | None = None


class BudgetConfig(Strict):
    default_ms: Annotated[float, Field(gt=0)] = 200
    max_ms: Annotated[float, Field(gt=0, le=600_000)] = 5000
    min_views: Annotated[int, Field(ge=1)] | Literal["all"] = 1

    @model_validator(mode="after")
    def _ordered(self) -> "BudgetConfig":
        if self.default_ms > self.max_ms:
            raise ValueError(f"default_ms {self.default_ms:g} is over max_ms {self.max_ms:g}")
        return self


class LimitsConfig(Strict):
    """How far a view may go and still keep the label: degrees, enlargement, pixels of the model's input."""

    rotate: Annotated[float, Field(ge=0, le=45)] = 30.0
    zoom: Annotated[float, Field(ge=1, le=10)] = 2.0
    shift: Annotated[float, Field(ge=0, le=512)] = 32.0


def _stop(spec: Any) -> StopSpec:
    try:
        return read_stop(spec)
    except InvalidInput as mistake:
        raise ValueError(str(mistake)) from None


class ModelConfig(Strict):
    task: Literal[tuple(TASKS)]  # type: ignore[valid-type]
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    description: str = ""
    backend: Literal["onnxruntime"] = "onnxruntime"
    input: InputConfig
    output: OutputConfig
    policy: str | list[Any] | dict[str, Any] = "plain"
    merge: str = "mean_probabilities"
    symmetries: tuple[Literal[tuple(SYMMETRIES)], ...] = ()  # type: ignore[valid-type]
    limits: LimitsConfig = LimitsConfig()
    budget: BudgetConfig = BudgetConfig()
    stop: Annotated[StopSpec, PlainValidator(_stop)] = StopSpec("all")

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from one another")
        cropped = self.input.size != "free" and isinstance(self.input.resize, int)
        if self.task == "segmentation" and cropped:
            raise ValueError(
                "input.resize is a short side with a centre crop: what lies outside would never be seen; "
                "segmentation takes size: free, or resize: exact or letterbox"
            )
        merges = TASKS[self.task].merges
        if self.merge not in merges:
            raise ValueError(f"merge {self.merge!r} is not one of {', '.join(merges)}")
        return self


def read_config(path: Path) -> ModelConfig:
    """Reads `tta.yaml`; raises ConfigError naming file, key, what was found and what is allowed."""
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise ConfigError(f"{path}: is not valid YAML: {where}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds {type(found).__name__}, not keys like 'task' and 'input'")
    try:
        return ModelConfig.model_validate(found)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentences(path, error))) from None


def _sentences(path: Path, error: ValidationError) -> list[str]:
    sentences = []
    for mistake in error.errors(include_url=False):
        key = ".".join(str(part) for part in mistake["loc"] if not _is_branch(part)) or "the file"
        if mistake["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(mistake["loc"][:-1]))
            sentences.append(f"{path}: unknown key {key}; known: {known}")
        elif mistake["type"] == "invalid_key":
            sentences.append(f"{path}: {key} is a key that is not text")
        elif mistake["type"] == "missing":
            sentences.append(f"{path}: {key} is missing")
        elif mistake["type"] == "value_error":
            sentences.append(f"{path}: {key}: {mistake['msg'].removeprefix('Value error, ')}")
        else:
            what = mistake["msg"].removeprefix("Input should be ")
            sentences.append(f"{path}: {key} is {mistake['input']!r}; it should be {what}")
    return sentences


def _is_branch(part: int | str) -> bool:
    """Pydantic adds the tried branch of a union to a mistake's place; a reader has no use for it."""
    return (isinstance(part, str) and any(c in part for c in "[(")) or part in ("int", "str")


def _known_keys(place: tuple[int | str, ...]) -> list[str]:
    model: Any = ModelConfig
    for part in place:
        model = model.model_fields[str(part)].annotation
    return list(model.model_fields)
