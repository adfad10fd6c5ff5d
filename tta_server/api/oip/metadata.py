"""The protocol's descriptions of server, models, statistics and repository, and loading of models.

As JSON, which the gRPC service parses into its messages.
"""

import logging
from typing import Any

from tta_server import __version__
from tta_server.api.describe import model_notes
from tta_server.api.oip.tensors import DATATYPES, IMAGE, PIXELS, specs_of
from tta_server.application import Application
from tta_server.backends import CPU
from tta_server.errors import ConfigError, Disabled, InvalidInput, UnknownModel
from tta_server.repository.failure import public_sentence
from tta_server.repository.model import Model
from tta_server.tasks.base import TensorSpec

log = logging.getLogger(__name__)

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "schedule_policy", "statistics")


def find_model(application: Application, name: str, version: str = "") -> Model:
    """Raises UnknownModel, also for a version that is not loaded, and NotReady for a model that failed to load."""
    model = application.predictor.model(name)
    if version not in ("", model.version):
        raise UnknownModel(f"{name} has only version {model.version}, not {version[:64]!r}")
    return model


def describe_server(application: Application) -> dict[str, Any]:
    """Name, version and extensions."""
    disabled = () if application.settings.model_control else ("model_repository",)
    return {
        "name": "tta-server",
        "version": __version__,
        "extensions": [extension for extension in EXTENSIONS if extension not in disabled],
    }


def describe_metadata(model: Model) -> dict[str, Any]:
    """In a shape, -1 is a size that depends on the request; the first one is the number of images."""
    specs = specs_of(model.task.tensor_specs).values()
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": model.config.backend.name,
        "inputs": [
            {"name": IMAGE, "datatype": "BYTES", "shape": [-1, 1]},
            {"name": PIXELS, "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
        ],
        "outputs": [
            {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": [-1, *_sizes(spec)]} for spec in specs
        ],
    }


def describe_config(model: Model, application: Application) -> dict[str, Any]:
    """Triton's ModelConfig; settings that it has no fields for are in `parameters`."""
    parameters = {
        "tta_task": model.task.name,
        "tta_policy": model.policy.name,
        "tta_merge": model.merge,
        "tta_stop": str(model.config.stop),
        "tta_policy_digest": model.policy.digest,
    }
    return {
        "name": model.name,
        "platform": model.config.backend.name,
        "backend": "tta-server",
        "max_batch_size": application.settings.max_images_per_request,
        "input": [
            {"name": IMAGE, "data_type": "TYPE_STRING", "dims": [1], "optional": True},
            {"name": PIXELS, "data_type": "TYPE_UINT8", "dims": [-1, -1, 3], "optional": True},
        ],
        "output": [
            {"name": spec.name, "data_type": _config_type(spec), "dims": _sizes(spec)}
            for spec in specs_of(model.task.tensor_specs).values()
        ],
        "instance_group": [_instance_group(application, model)],
        "dynamic_batching": {"priority_levels": 2, "default_priority_level": 1},
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": application.settings.cache_mb > 0},
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }


def _instance_group(application: Application, model: Model) -> dict[str, Any]:
    kind = "KIND_CPU" if model.backend.device == CPU else "KIND_AUTO" if model.backend.permits else "KIND_GPU"
    return {"name": "slots", "kind": kind, "count": application.pools.of(model).size.slots}


def _config_type(spec: TensorSpec) -> str:
    datatype = DATATYPES[spec.dtype]
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def _sizes(spec: TensorSpec) -> list[int]:
    return [-1 if size is None else size for size in spec.shape]


def describe_statistics(application: Application, name: str = "", version: str = "") -> dict[str, Any]:
    """Statistics of one model, or of all without a name. Raises UnknownModel."""
    models = [find_model(application, name, version)] if name else list(application.models.values())
    return {"model_stats": [application.statistics.of(model.key) for model in models]}


def load_model(application: Application, name: str) -> None:
    """Load and warm up a model. Raises Disabled, UnknownModel, or InvalidInput that says why it can't be loaded."""
    _check_control(application)
    try:
        model = application.load_model(name)
    except ConfigError as error:
        log.error("%s is not loaded: %s", name, error)
        raise InvalidInput(public_sentence(error, application.folders.roots)) from None
    for note in model_notes(model):
        log.warning("model %s: %s", name, note)


def unload_model(application: Application, name: str) -> None:
    """Raises Disabled or UnknownModel."""
    _check_control(application)
    application.unload_model(name)


def _check_control(application: Application) -> None:
    application.check_admitting()
    if not application.settings.model_control:
        raise Disabled("loading and unloading models is disabled; the operator can enable it with --model-control")


def describe_repository(application: Application, ready_only: bool) -> list[dict[str, str]]:
    """The models of the folder, loaded or not."""
    index, failures = [], application.health.load_failures
    for name in application.model_names():
        model = application.models.get(name)
        ready = application.is_ready(name)
        if ready or not ready_only:
            reason = "" if ready else "not loaded" if model is None else "not ready"
            if model is None and name in failures:
                reason = f"failed to load: {failures[name].public}"
            index.append(
                {
                    "name": name,
                    "version": model.version if model else "",
                    "state": "READY" if ready else "UNAVAILABLE",
                    "reason": reason,
                }
            )
    return index
