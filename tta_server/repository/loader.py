"""models/<name>/{tta.yaml, 1/model.onnx} to a Model: config, file and policy checked against each other."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tta_server.backends import BACKENDS, Backend, Signature
from tta_server.errors import ConfigError, InvalidInput
from tta_server.errors.validation import explain_yaml
from tta_server.imaging.preprocessing import Channels, Normalization, Preprocessing, Resize
from tta_server.imaging.samples import Rendering
from tta_server.repository.cache import ByteCache
from tta_server.repository.calibration import FILE, Calibration, digest_of, read_calibration
from tta_server.repository.config import InputConfig, ModelConfig, read_config
from tta_server.repository.lifetime import Lifetime
from tta_server.scheduling.stopping import All, Certain, Confident, Precise, Settled, StopRule, StopSpec
from tta_server.tasks import TASKS, Task
from tta_server.views.geometry import Size
from tta_server.views.presets import read_policy
from tta_server.views.view import Policy, Symmetries, View

WARM_SIZE = Size(256, 256)
"""A model of free size is warmed and priced with an image of this size."""

CACHE_BYTES = 16_000_000
"""Of policies, plans and layouts of one model."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model and everything that its author stated about it. `cache` has what was derived from it for requests,
    so that nothing of it outlives the model. `lifetime` counts uses of `backend`: admitted jobs and running batches.
    """

    name: str
    version: str
    config: ModelConfig
    task: Task[Any, Any]
    preprocessing: Preprocessing
    symmetries: Symmetries
    policy: Policy
    backend: Backend
    calibration: Calibration | None = None
    cache: ByteCache = field(init=False, repr=False)
    lifetime: Lifetime = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """It is taken into service, maybe again by another application than before."""
        object.__setattr__(self, "cache", ByteCache(CACHE_BYTES))
        object.__setattr__(self, "lifetime", Lifetime(self.backend.close))

    def retire(self) -> None:
        """Its backend is closed now, or when its last admitted job is settled and no batch of it runs; what was derived
        from it is let go at once. Another time it does nothing."""
        self.cache.close()
        self.lifetime.retire()

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.name, self.version

    @property
    def merge(self) -> str:
        """The author's, else the task's usual one."""
        return self.config.merge or self.task.merges[0]

    def stop_rule(self, spec: StopSpec, policy: Policy, merge: str) -> StopRule:
        """Raises InvalidInput, saying what it takes, where a rule can't keep its promise."""
        if spec.name not in self.task.stops:
            raise InvalidInput(
                f"stop {spec.name} is not for {self.task.name}, which knows {', '.join(self.task.stops)}"
            )
        if spec.value is None and spec.name == "all":
            return All()
        if spec.name == "epsilon":
            return Confident(self._calibrated(policy, merge).threshold(spec.value or 0.0))
        try:
            if spec.name == "tolerance":
                self.task.check_mean(merge)
                return Precise(spec.value or 0.0)
            self.task.check_bounded(merge, [view.weight for view in policy.views])
        except InvalidInput as mistake:
            raise InvalidInput(f"stop {spec}: {mistake}") from None
        return Certain() if spec.value is None else Settled(spec.value)

    def _calibrated(self, policy: Policy, merge: str) -> Calibration:
        if self.calibration is None:
            raise InvalidInput(f"stop epsilon needs a calibration: run `tta-server calibrate {self.name} --data DIR`")
        if not self.calibration.matches(policy.digest, merge):
            raise InvalidInput(
                f"stop epsilon is calibrated for {self.name}'s own policy and merge {self.calibration.merge} only"
            )
        return self.calibration

    def check_views(self, policy: Policy) -> None:
        """Raises InvalidInput, naming the view, where a policy breaks labels or does not fit the model's input."""
        for view in policy.views:
            self.symmetries.check(view)
            self._check_fit(view)
            weights = view.weight if isinstance(view.weight, tuple) else ()
            if weights and len(weights) != len(self.config.labels):
                raise InvalidInput(
                    f"view {view.name!r} has {len(weights)} weights; one is taken"
                    + (f", or one for each of the {len(self.config.labels)} labels" if self.config.labels else "")
                )

    def _check_fit(self, view: View) -> None:
        size = self.preprocessing.size
        if size is None:
            return
        fixed = self.spatial != (None, None)
        if view.geometry.swaps and size.width != size.height and (fixed or self._letterboxed):
            raise InvalidInput(
                f"view {view.name!r} swaps width and height, which this model's input of {size} does not take"
            )
        if any(abs(v) >= min(size) / 2 for v in view.geometry.offset):
            raise InvalidInput(f"view {view.name!r} shifts by half of this model's input of {size} or more")
        least = self._least_scale
        if view.scale < least - 1e-9:
            raise InvalidInput(
                f"view {view.name!r} has a scale of {view.scale:g}; this model's input takes at least {least:g}"
            )

    @property
    def spatial(self) -> tuple[int | None, int | None]:
        """Height and width as the model file states them; None is free."""
        return spatial_axes(self.backend.signature, self.config.input.layout)

    @property
    def _letterboxed(self) -> bool:
        return self.preprocessing.resize is Resize.LETTERBOX

    @property
    def _least_scale(self) -> float:
        """Below this the canvas would not fill the window."""
        prep = self.preprocessing
        if prep.size is None or self._letterboxed:
            return 0.0
        return max(prep.size) / prep.resize_to if prep.resize is Resize.SHORT else 1.0


def spatial_axes(signature: Signature, layout: str) -> tuple[int | None, int | None]:
    first = 1 if layout == "NHWC" else 2
    return signature.shape[first], signature.shape[first + 1]


def find_models(folder: Path) -> list[Path]:
    """The model folders in a repository, by name; raises ConfigError if there are none."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder of models")
    found = sorted(path.parent for path in folder.glob("*/tta.yaml"))
    if not found:
        raise ConfigError(f"{folder}: holds no model: expected {folder}/<name>/tta.yaml and <name>/1/model.onnx")
    return found


def load_model(folder: Path) -> Model:
    """With its calibration if there is one. Raises ConfigError naming file, key, what was found and what is allowed."""
    model = load_uncalibrated(folder)
    if (folder / FILE).is_file():
        model = replace(model, calibration=read_calibration(folder, model_digest(folder, model), model.policy.digest))
    try:
        model.stop_rule(model.config.stop, model.policy, model.merge)
    except InvalidInput as mistake:
        raise ConfigError(f"{folder / 'tta.yaml'}: stop: {mistake}") from None
    return model


def model_digest(folder: Path, model: Model) -> str:
    """What a calibration is tied to, besides the policy."""
    return digest_of(folder / model.version / "model.onnx", model.config)


def load_uncalibrated(folder: Path) -> Model:
    """As `load_model`, whatever calibration there is."""
    path = folder / "tta.yaml"
    config = read_config(path)
    version = _latest_version(folder)
    backend = BACKENDS[config.backend](folder / version / "model.onnx")
    try:
        kind = TASKS[config.task]
        preprocessing = _preprocessing(config.input, backend.signature, kind.can_tile)
        model = Model(
            name=folder.absolute().name,
            version=version,
            config=config,
            task=kind(config.labels, config.output, backend.signature.outputs),
            preprocessing=preprocessing,
            symmetries=Symmetries(config.symmetries, **config.limits.model_dump()),
            policy=_policy(config.policy, folder, preprocessing.crops),
            backend=backend,
        )
        if model.merge not in model.task.merges:
            raise ConfigError(f"merge {model.merge!r} is not one of {', '.join(model.task.merges)}")
        model.check_views(model.policy)
        _check_min_views(model)
    except InvalidInput as mistake:
        backend.close()
        raise ConfigError(f"{path}: policy: {mistake}") from None
    except ConfigError as mistake:
        backend.close()
        raise ConfigError(f"{path}: {mistake}") from None
    return model


def _check_min_views(model: Model) -> None:
    least, views = model.config.budget.min_views, len(model.policy.views)
    if least != "all" and least > views:
        raise ConfigError(f"budget.min_views is {least}, but the policy has {views} views")


def _latest_version(folder: Path) -> str:
    versions = [p.parent.name for p in folder.glob("*/model.onnx") if p.parent.name.isdigit()]
    if not versions:
        raise ConfigError(f"{folder}: there is no {folder}/1/model.onnx")
    return max(versions, key=int)


def _policy(spec: str | list[Any] | dict[str, Any], folder: Path, crops: bool) -> Policy:
    """As `read_policy`, or the name of a YAML file beside tta.yaml that holds a list or a mapping."""
    if isinstance(spec, str) and spec.endswith((".yaml", ".yml")):
        views = _policy_file(folder, spec)
        return read_policy({"name": Path(spec).stem, "views": views} if isinstance(views, list) else views, crops)
    return read_policy(spec, crops)


def _policy_file(folder: Path, name: str) -> Any:
    if Path(name).name != name or not (folder / name).is_file():
        raise InvalidInput(f"there is no file {name!r} beside tta.yaml")
    try:
        return yaml.safe_load((folder / name).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = "can't be read" if isinstance(error, OSError) else explain_yaml(error)
        raise InvalidInput(f"{name} {reason}") from error


def _preprocessing(config: InputConfig, signature: Signature, can_tile: bool) -> Preprocessing:
    size = None if config.size == "free" else Size(config.size[1], config.size[0])
    _check_signature(config, signature)
    short = isinstance(config.resize, int)
    word = config.resize or ("none" if size is None else "exact")
    return Preprocessing(
        size=size,
        resize=Resize.SHORT if short else Resize(str(word)),
        resize_to=config.resize if isinstance(config.resize, int) else 0,
        max_long_side=config.max_long_side or 0,
        interpolation=config.interpolation,
        multiple=config.multiple,
        max_size=config.largest,
        tile=config.tile_side if can_tile and size is None else 0,
        overlap=config.overlap,
        letterbox_fill=config.letterbox_fill,
        channels=Channels(config.color),
        normalization=Normalization(config.scale, config.mean, config.std),
        layout=config.layout,
        dtype=signature.dtype,
        rendering=Rendering(config.background, config.levels),
    )


def _check_signature(config: InputConfig, signature: Signature) -> None:
    channels = 1 if config.color == "grey" else 3
    axis = 3 if config.layout == "NHWC" else 1
    if signature.shape[axis] not in (None, channels):
        raise ConfigError(
            f"input.color {config.color} with layout {config.layout} needs {channels} channels; "
            f"the model file has {signature.shape[axis]}"
        )
    if signature.dtype == np.uint8 and (unused := config.model_fields_set & {"scale", "mean", "std"}):
        raise ConfigError(
            f"input.{min(unused)} would do nothing: the model file takes uint8, so pixels go in as they are"
        )
    if signature.shape[0] not in (None, 1):
        raise ConfigError(f"the model file has a fixed batch of {signature.shape[0]}; it should be free, or 1")
    stated = spatial_axes(signature, config.layout)
    if config.size == "free" and stated != (None, None):
        raise ConfigError(f"input.size is free, but the model file takes only {list(stated)}")
    if config.size != "free":
        multiple = 1 if config.resize == "letterbox" else config.multiple
        padded = [-(-side // multiple) * multiple for side in config.size]
        if any(s not in (None, p) for s, p in zip(stated, padded, strict=True)):
            raise ConfigError(f"input.size is {list(config.size)}, but the model file takes {list(stated)}")
