"""Load models/<name>/{tta.yaml, 1/model.onnx}; config, model file and policy are checked against each other.

A model file may have the text of its tta.yaml in its metadata instead.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import yaml

from tta_server.backends import BACKENDS, CPU, FILES, REMOTE_BACKENDS, Backend, RemoteBackend, Signature
from tta_server.errors import ConfigError, InvalidInput
from tta_server.errors.validation import explain_yaml
from tta_server.imaging.formats.samples import Rendering
from tta_server.imaging.normalization import Channels, Normalization
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.repository.backend_config import BackendConfig
from tta_server.repository.calibration import FILE, digest_of, read_calibration, remote_digest
from tta_server.repository.checks import check_input_name, check_min_views, check_signature
from tta_server.repository.config import ModelConfig
from tta_server.repository.described import config_place, find_file, is_described, read_folder_config
from tta_server.repository.graphs import GraphPipeline
from tta_server.repository.input_config import InputConfig
from tta_server.repository.model import Model
from tta_server.repository.pipeline import Pipeline
from tta_server.repository.triton_config import TritonConfig
from tta_server.repository.triton_ensemble import Ensemble, check_ensemble, check_outputs
from tta_server.tasks import TASKS, Task
from tta_server.views.geometry import Size
from tta_server.views.presets import read_policy
from tta_server.views.view import Policy, Symmetries


def find_models(folder: Path) -> list[Path]:
    """Return the model folders in a repository, sorted by name; raise ConfigError if there are none."""
    check_repository(folder)
    found = sorted(path for path in folder.iterdir() if path.is_dir() and is_described(path))
    if not found:
        raise ConfigError(
            f"{folder}: no model found; expected {folder}/<name>/tta.yaml and <name>/1/model.onnx, or the file alone "
            "with the text of a tta.yaml in its metadata (`tta-server init --embed`)"
        )
    return found


def check_repository(folder: Path) -> None:
    """Raise ConfigError if there is no such folder: that of the default, where the package has no models with it."""
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: no such folder; give --models a folder that holds <name>/tta.yaml for each model, or try the "
            "bundled ones: pip install 'tta-server[models]'"
        )


def load_model(folder: Path, name: str | None = None, config: ModelConfig | None = None) -> Model:
    """Load a model and its calibration, if any; raise ConfigError naming file, key, found and allowed values.

    The model has the folder's name and the configuration in it unless they are given. Raise BackendUnavailable if it
    runs in a server elsewhere, which is not ready.
    """
    model = load_uncalibrated(folder, name, config)
    digest = model_digest(folder, model)
    if (folder / FILE).is_file():
        model = replace(model, calibration=read_calibration(folder, digest, model.policy.digest))
    model = replace(model, digest=_whole_digest(digest, model))
    try:
        model.stop_rule(model.config.stop, model.policy, model.merge)
    except InvalidInput as mistake:
        raise ConfigError(f"{config_place(folder)}: stop: {mistake}") from None
    return model


def _whole_digest(digest: str, model: Model) -> str:
    """Of the model file's digest, and all else in its folder that answers depend on."""
    calibration = model.calibration.model_dump_json() if model.calibration else ""
    parts = (digest, model.policy.digest, model.config.model_dump_json(warnings=False), calibration)
    return f"sha256:{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}"


def model_digest(folder: Path, model: Model) -> str:
    """Return the digest that a calibration must match, besides the policy's."""
    backend = model.config.backend
    if isinstance(backend, TritonConfig):
        return remote_digest((backend.model, model.version, model.backend.signature), model.config)
    return digest_of(_find_file(folder, FILES[backend.name])[0], model.config)


def load_uncalibrated(folder: Path, name: str | None = None, config: ModelConfig | None = None) -> Model:
    """Load a model as `load_model` does, but ignore its calibration."""
    config = config or read_folder_config(folder)
    backend, version = _open_backend(folder, config)
    try:
        check_input_name(config.input, backend.signature)
        preprocessing = make_preprocessing(config.input, backend.signature, TASKS[config.task].can_tile)
        model = Model(
            name=name or folder.absolute().name,
            version=version,
            config=config,
            task=_task(config, backend.signature),
            preprocessing=preprocessing,
            symmetries=Symmetries(config.symmetries, **config.limits.model_dump()),
            policy=_policy(config.policy, folder, preprocessing.crops),
            backend=backend,
            pipeline=_pipeline(preprocessing, backend, config.backend),
        )
        if model.merge not in model.task.merges:
            raise ConfigError(f"merge is {model.merge!r}; allowed for this task: {', '.join(model.task.merges)}")
        model = replace(model, ensemble=_ensemble(model))
        model.check_views(model.policy)
        check_min_views(config, len(model.policy.views))
    except InvalidInput as mistake:
        backend.close()
        raise ConfigError(f"{config_place(folder)}: policy: {mistake}") from None
    except ConfigError as mistake:
        backend.close()
        raise ConfigError(f"{config_place(folder)}: {mistake}") from None
    return model


def _open_backend(folder: Path, config: ModelConfig) -> tuple[Backend, str]:
    """The backend of the newest file, or of a server, and its version. Raises ConfigError, BackendUnavailable."""
    if not isinstance(config.backend, TritonConfig):
        file, version = _find_file(folder, FILES[config.backend.name])
        options = replace(config.backend.options, inputs=config.input.names)
        return BACKENDS[config.backend.name](file, options), version
    try:
        remote = REMOTE_BACKENDS[config.backend.name](config.backend.target(folder))
    except ConfigError as mistake:
        raise ConfigError(f"{config_place(folder)}: {mistake}") from mistake.__cause__
    return remote, remote.version


def _ensemble(model: Model) -> Ensemble | None:
    """The ensemble in the server that runs the model, if tta.yaml asks for one. Raises ConfigError."""
    if not isinstance(model.config.backend, TritonConfig):
        return None
    backend = cast("RemoteBackend", model.backend)
    if backend.ensemble is None:
        return None
    spec = check_ensemble(backend.ensemble, model.preprocessing, model.task, model.merge)
    check_outputs(backend.ensemble, backend.signature.outputs, spec)
    return Ensemble(backend.infer_ensemble, spec)


def _pipeline(preprocessing: Preprocessing, backend: Backend, config: BackendConfig | TritonConfig) -> Pipeline | None:
    """What makes views where the model runs, if they are made there."""
    if isinstance(config, TritonConfig) or (config.views or ("local" if backend.device == CPU else "graph")) == "local":
        return None
    if backend.device == CPU:
        return GraphPipeline(preprocessing, backend, config.threads)
    from tta_server.repository.device_pipeline import on_device  # the driver, only where there is one

    return on_device(preprocessing, backend)


def _task(config: ModelConfig, signature: Signature) -> Task[Any, Any]:
    """Make the task; a ConfigError about the outputs also says why some are left out."""
    try:
        return TASKS[config.task](config.labels, config.output, signature.outputs)
    except ConfigError as mistake:
        raise ConfigError("; ".join(filter(None, [str(mistake), signature.advice]))) from None


def _find_file(folder: Path, file: str) -> tuple[Path, str]:
    """The model's file and version. Raises ConfigError."""
    found = find_file(folder, file)
    if found is None:
        raise ConfigError(f"{folder}: no model file; expected {folder}/1/{file}")
    return found


def _policy(spec: str | list[Any] | dict[str, Any], folder: Path, crops: bool) -> Policy:
    """Read a policy; `spec` may also name a YAML file beside tta.yaml that holds a list or a mapping."""
    if isinstance(spec, str) and spec.endswith((".yaml", ".yml")):
        views = _policy_file(folder, spec)
        return read_policy({"name": Path(spec).stem, "views": views} if isinstance(views, list) else views, crops)
    return read_policy(spec, crops)


def _policy_file(folder: Path, name: str) -> Any:
    if Path(name).name != name or not (folder / name).is_file():
        raise InvalidInput(f"no file {name!r} beside tta.yaml")
    try:
        return yaml.safe_load((folder / name).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = "can't be read" if isinstance(error, OSError) else explain_yaml(error)
        raise InvalidInput(f"{name} {reason}") from error


def make_preprocessing(config: InputConfig, signature: Signature, can_tile: bool) -> Preprocessing:
    """Return how images become the input of a model file; raise ConfigError if `config` does not fit the file."""
    size = None if config.size == "free" else Size(config.size[1], config.size[0])
    check_signature(config, signature)
    return Preprocessing(
        size=size,
        resize=config.how,
        resize_to=config.resize if isinstance(config.resize, int) else config.long_side or 0,
        crop_from=Size(*reversed(config.crop_from)) if config.crop_from else None,
        max_long_side=config.long_side_limit(can_tile),
        size_like=config.size_like,
        resize_like=config.resize_like,
        interpolation=config.interpolation,
        multiple=config.multiple,
        pad=config.pad,
        rounding=config.rounding,
        max_size=config.max_whole_side,
        tile=config.tile_side if can_tile and size is None else 0,
        overlap=config.overlap,
        letterbox_anchor=config.letterbox_anchor,
        letterbox_fill=config.letterbox_fill,
        channels=Channels(config.color),
        normalization=Normalization(config.scale, config.mean, config.std),
        layout=config.layout,
        dtype=signature.dtype,
        rendering=Rendering(config.background, config.levels),
    )
