"""The configuration of a model, `tta.yaml`, validated when the model is loaded."""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationError,
    create_model,
    model_validator,
)

from tta_server.errors import ConfigError, InvalidInput, shown
from tta_server.errors.validation import StrictModel, explain, explain_value, explain_yaml
from tta_server.repository.backend_config import BackendConfig
from tta_server.repository.input_config import InputConfig
from tta_server.repository.labels import parse_labels
from tta_server.repository.triton_config import TritonConfig
from tta_server.scheduling.stopping import StopSpec, read_stop
from tta_server.tasks import TASKS, Description
from tta_server.tasks.checks import CHECKS
from tta_server.views.geometry import SYMMETRIES

OPEN = re.compile(r"^ *(?:# *)?\? +(\w+):", re.MULTILINE)
"""A line that `init` leaves to the user, who may remove one of its marks and forget the other."""


class BudgetConfig(StrictModel):
    """Time budgets of a request in milliseconds, and the number of mandatory views."""

    default_ms: Annotated[float, Field(gt=0)] = 200
    max_ms: Annotated[float, Field(gt=0, le=600_000)] = 5000
    min_views: Annotated[int, Field(ge=1)] | Literal["all"] = 1

    @model_validator(mode="after")
    def _ordered(self) -> "BudgetConfig":
        if self.default_ms > self.max_ms:
            raise ValueError(f"default_ms is {self.default_ms:g}; it should be at most max_ms, {self.max_ms:g}")
        return self


class LimitsConfig(StrictModel):
    """Bounds within which a view keeps the label: degrees, enlargement, pixels of the model's input."""

    rotate: Annotated[float, Field(ge=0, le=45)] = 30.0
    zoom: Annotated[float, Field(ge=1, le=10)] = 2.0
    shift: Annotated[float, Field(ge=0, le=512)] = 32.0


def _parse_stop(spec: Any) -> StopSpec:
    try:
        return read_stop(spec)
    except InvalidInput as mistake:
        raise ValueError(str(mistake)) from None


def _parse_checks(found: Any) -> dict[str, bool]:
    """`off` and `on` are booleans in YAML 1.1 and texts in 1.2."""
    if not isinstance(found, dict):
        raise ValueError(f"checks is {shown(found)}; it should be ids of checks, like {{boxes.units: off}}")
    for name, value in found.items():
        if name not in CHECKS:
            near = get_close_matches(str(name), CHECKS, 3, 0.4) or list(CHECKS)[:3]
            raise ValueError(f"checks has {shown(name)}, which is no check; there are {', '.join(near)}, ...")
        if value not in (True, False, "on", "off"):
            raise ValueError(f"checks.{name} is {shown(value)}; allowed: on, off")
    return {name: value in (True, "on") for name, value in found.items()}


def _parse_backend(found: Any) -> Any:
    """A plain word is the name."""
    return {"name": found} if isinstance(found, str) else found


class ModelConfig(StrictModel):
    """The keys of `tta.yaml`; the type of `output` depends on the task. `labels` are names, also if a file has them."""

    task: Literal[tuple(TASKS)]  # type: ignore[valid-type]
    labels: Annotated[tuple[str, ...], BeforeValidator(parse_labels)] = ()
    description: str = ""
    backend: Annotated[BackendConfig | TritonConfig, BeforeValidator(_parse_backend)] = BackendConfig()
    input: InputConfig
    output: Any
    policy: str | list[Any] | dict[str, Any] = "plain"
    merge: str | None = None
    symmetries: tuple[Literal[tuple(SYMMETRIES)], ...] = ()  # type: ignore[valid-type]
    limits: LimitsConfig = LimitsConfig()
    budget: BudgetConfig = BudgetConfig()
    stop: Annotated[StopSpec, PlainValidator(_parse_stop)] = StopSpec("all")
    checks: Annotated[dict[str, bool], PlainValidator(_parse_checks)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        task = TASKS[self.task]
        if task.labels_are and not self.labels:
            raise ValueError(f"labels is missing; {self.task} needs one name for each {task.labels_are}")
        if self.labels and not task.labels_are:
            raise ValueError(f"labels has {len(self.labels)} names; {self.task} takes none; remove the key")
        if self.input.crops and not task.sees_crops:
            found = "resize is a number" if isinstance(self.input.resize, int) else f"resize is {self.input.how}"
            found = "crop_from is set" if self.input.crop_from else found
            raise ValueError(
                f"input.{found}, so that a centre crop hides the image's border from {self.task}; allowed: "
                "size: free, or resize: exact or letterbox"
            )
        self._check_tiling(task)
        self._check_other_inputs()
        return self

    def _check_other_inputs(self) -> None:
        """Raise ValueError for inputs beside the image that the backend does not pass."""
        if not self.input.others:
            return
        backend = self.backend
        if not isinstance(backend, BackendConfig) or (backend.name, backend.device) != ("onnxruntime", "cpu"):
            raise ValueError(
                f"input.others has {', '.join(self.input.others)}, which only backend: onnxruntime passes, with "
                "device: cpu; set these, or export a model that takes the image alone"
            )
        masks = [name for name, function in self.input.others.items() if function == "mask"]
        if masks and backend.views == "graph":
            raise ValueError(
                f"input.others has {masks[0]}: mask, which backend.views: graph does not make; set views: local"
            )

    def _check_tiling(self, task: type[Description]) -> None:
        """Raise ValueError if `input` needs tiles that the task does not support."""
        if task.can_tile:
            return
        longest = self.input.stated_long_side
        if longest > self.input.max_whole_side:
            key = "max_long_side" if self.input.max_long_side else "long_side"
            raise ValueError(
                f"input.max_size is {self.input.max_whole_side}, under {key}, {longest}; {self.task} does not "
                "tile, so it should be at least that"
            )
        limit = self.input.long_side_limit(can_tile=False)
        if isinstance(self.input.resize, int) and 0 < limit <= self.input.resize:
            raise ValueError(
                f"input.max_size is {limit}; it limits the long side for {self.task}, which does not tile, so it "
                f"should be over the short side's length, {self.input.resize} (input.resize)"
            )
        if self.input.tile:
            raise ValueError(f"input.tile is not available for {self.task}, which does not tile; remove the key")


def read_config(path: Path) -> ModelConfig:
    """Read `tta.yaml`; raise ConfigError naming file, key, what was found and what is allowed."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: {explain_yaml(error)}") from error
    return parse_config(text, str(path), path.parent)


def parse_config(text: str, place: str, folder: Path) -> ModelConfig:
    """Return what the text of a tta.yaml states; raise ConfigError as `read_config` does, with `place` for the file.

    `folder` is that of the files that it may name.
    """
    if left := OPEN.findall(text):
        raise ConfigError(
            f"{place}: lines are still open: {', '.join(left)}; write values into them and remove their marks `# ?`, "
            "or remove a line to take the key's default"
        )
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{place}: {explain_yaml(error)}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{place}: the file holds {shown(found)}; it should hold keys like 'task' and 'input'")
    kind = _config_of(found)
    try:
        return kind.model_validate(found, context={"folder": folder, "text": text})
    except ValidationError as error:
        sentences = (
            explain_value(mistake, _known_keys(kind, mistake.place[:-1]) if mistake.kind == "unknown" else ())
            for mistake in explain(error, found)
        )
        raise ConfigError("; ".join(f"{place}: {sentence}" for sentence in sentences)) from None


def all_keys() -> list[str]:
    """Return the keys of tta.yaml for any task, those of `input` and `output` as in `input.size`."""
    outputs = dict.fromkeys(key for task in TASKS.values() for key in _keys(task.Output))
    sections = {"input": _keys(InputConfig), "output": outputs}
    inner = [f"{section}.{key}" for section, keys in sections.items() for key in keys]
    return [*(key for key in _keys(ModelConfig) if key not in sections), *inner]


def _config_of(found: Mapping[Any, Any]) -> type[ModelConfig]:
    """Return ModelConfig with the types of this `output` and `backend`; validation reports an unknown task."""
    task, backend = found.get("task"), _parse_backend(found.get("backend"))
    is_triton = isinstance(backend, dict) and backend.get("name") == "triton"
    kind: Any = TritonConfig if is_triton else BackendConfig
    fields: dict[str, Any] = {"backend": (Annotated[kind, BeforeValidator(_parse_backend)], BackendConfig())}
    if isinstance(task, str) and task in TASKS:
        fields["output"] = (TASKS[task].Output, ...)
    return create_model("ModelConfig", __base__=ModelConfig, **fields)


def _known_keys(model: Any, place: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed at a place, a path of keys from the top."""
    for part in place:
        model = model.model_fields[str(part)].annotation
    return _keys(model)


def _keys(model: Any) -> list[str]:
    return [field.name for field in fields(model)] if is_dataclass(model) else list(model.model_fields)
