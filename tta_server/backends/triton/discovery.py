"""What a server says of a model: its input, its outputs and the batches that it takes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from tta_server.backends.base import Signature
from tta_server.backends.triton import EnsembleInfo, Target, TensorInfo
from tta_server.backends.triton.servers import RemoteError, Server
from tta_server.backends.triton.tensors import DTYPES, IMAGES
from tta_server.errors import BackendUnavailable, ConfigError

SECONDS = 3.0
"""How long a server may take to answer each question."""
MOST_ROWS = 128
"""The largest batch that is ever sent."""
TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
NOT_READY = "its Triton server is not ready"


class NotServed(Exception):
    """A server has the model but does not serve it now, or is itself starting."""


@dataclass(frozen=True)
class Description:
    """A model as a server describes it.

    `ladder` has the batch sizes to send, empty for any; without `has_batch_axis` its tensors have no batch axis, and
    `signature` has one of 1 all the same. Of an `ensemble` all but `version` describes the model in it.
    """

    signature: Signature
    version: str
    ladder: tuple[int, ...]
    has_batch_axis: bool
    ensemble: EnsembleInfo | None = None


async def describe(server: Server, target: Target) -> Description:
    """Raises BackendUnavailable if it may serve the model later, ConfigError if it can't."""
    try:
        await _check_ready(server, target)
        found = await _ask(server, target.model, target.version)
        if not target.is_ensemble:
            return read_description(*found, target)
        ensemble = read_ensemble(*found, target)
        inner = read_description(*await _ask(server, ensemble.model, ensemble.version), target)
    except NotServed as error:
        raise BackendUnavailable(NOT_READY, target.device, target.permits) from error
    except RemoteError as error:
        if error.status in TRANSIENT:
            raise BackendUnavailable(NOT_READY, target.device, target.permits) from error
        raise ConfigError(f"backend.url: the server does not describe model {target.model}: {error}") from error
    return replace(inner, version=target.version or _latest(found[0]), ensemble=ensemble)


async def _ask(server: Server, model: str, version: str) -> tuple[Any, Any]:
    """A model's metadata, and its config: an empty one of servers without the call. Raises RemoteError."""
    metadata = await server.call("ModelMetadata", pb.ModelMetadataRequest(name=model, version=version), SECONDS)
    try:
        answer = await server.call("ModelConfig", pb.ModelConfigRequest(name=model, version=version), SECONDS)
    except RemoteError as error:
        if error.status is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        answer = pb.ModelConfigResponse()
    return metadata, answer.config


async def _check_ready(server: Server, target: Target) -> None:
    """Raises NotServed, ConfigError or RemoteError.

    A Triton of which another model failed says that it is not ready itself, so the model's own state counts.
    """
    if await server.has_model(SECONDS):
        return
    index = await _index(server)
    if index is None:
        if (await server.call("ServerReady", pb.ServerReadyRequest(), SECONDS)).ready:
            raise _mistake("model", f"{server.url} has no model {target.model} that is ready")
        raise NotServed(f"{server.url} is starting")
    own = [entry for entry in index if entry.name == target.model]
    if not own:
        names = ", ".join(sorted({entry.name for entry in index})) or "none"
        raise _mistake("model", f"{server.url} has no model {target.model}; it has {names}")
    versions = [entry.version for entry in own if entry.version]
    if versions and target.version not in ("", *versions):
        found = ", ".join(versions)
        raise _mistake("version", f"{server.url} has no version {target.version} of {target.model}; it has {found}")
    state = own[0].state or "not loaded"
    raise NotServed(f"{server.url}: model {target.model} is {state}: {own[0].reason or 'no reason given'}")


async def _index(server: Server) -> Sequence[Any] | None:
    """The models of a server's repository, None if it has no such call. Raises RemoteError."""
    try:
        return list((await server.call("RepositoryIndex", pb.RepositoryIndexRequest(), SECONDS)).models)
    except RemoteError as error:
        if error.status is grpc.StatusCode.UNIMPLEMENTED:
            return None
        raise


def _mistake(key: str, what: str) -> ConfigError:
    """An error whose cause makes its sentence for clients leave out what the server has: raise it without another."""
    error = ConfigError(f"backend.{key}: {what}")
    error.__cause__ = LookupError(what)
    return error


def read_ensemble(metadata: Any, config: Any, target: Target) -> EnsembleInfo:
    """Raises ConfigError if a model is no ensemble of which the second step may be the model."""
    steps = config.ensemble_scheduling.step
    if len(steps) < 2:
        raise _mistake(
            "model",
            f"{target.model} of {target.device} is no ensemble, which `views: graph` needs: give the name of one that "
            "`tta-server export-triton` wrote, or set views: local",
        )
    return EnsembleInfo(
        steps[1].model_name,
        "" if steps[1].model_version < 0 else str(steps[1].model_version),
        {each.name: TensorInfo(each.datatype, tuple(each.shape)) for each in metadata.inputs},
        {each.name: TensorInfo(each.datatype, tuple(each.shape)) for each in metadata.outputs},
        {name: value.string_value for name, value in config.parameters.items()},
    )


def read_description(metadata: Any, config: Any, target: Target) -> Description:
    """Raises ConfigError for inputs other than one image, and if no output is a tensor of numbers.

    A `max_batch_size` of 0 says that the model itself has the batch axis, or that there is none.
    """
    largest = int(config.max_batch_size)
    place = f"model {metadata.name or target.model} of {target.device}"
    if len(metadata.inputs) != 1:
        found = ", ".join(each.name for each in metadata.inputs)
        raise ConfigError(f"{place} has the inputs {found}; it must have one, an image")
    (image,) = metadata.inputs
    has_batch_axis = largest > 0 or len(image.shape) != 3
    shape = _free(image.shape) if has_batch_axis else (1, *_free(image.shape))
    if image.datatype not in IMAGES or len(shape) != 4:
        raise ConfigError(
            f"{place}: input {image.name} is {image.datatype} {json.dumps(list(image.shape))}; it must have 4 axes, "
            f"or 3 without a batch axis, of {', '.join(IMAGES)}"
        )
    tensors = {each.name: each for each in metadata.outputs if each.datatype in DTYPES}
    outputs = {name: _free(o.shape) if has_batch_axis else (1, *_free(o.shape)) for name, o in tensors.items()}
    others = {each.name: each.datatype for each in metadata.outputs if each.name not in tensors}
    ladder = ladder_up_to(largest)
    if largest == 1:
        shape = (1, *shape[1:])
    signature = Signature(image.name, shape, np.dtype(IMAGES[image.datatype]), outputs, others)
    if not tensors:
        raise ConfigError(f"{place}: {signature.advice}")
    return Description(
        signature, target.version or _latest(metadata), ladder or ((1,) if shape[0] == 1 else ()), has_batch_axis
    )


def _latest(metadata: Any) -> str:
    versions = sorted((version for version in metadata.versions if version.isdigit()), key=int)
    return str(versions[-1]) if versions else "1"


def ladder_up_to(largest: int) -> tuple[int, ...]:
    """1, 2, 4, ... and the largest itself, at most MOST_ROWS; empty for 0."""
    most = min(largest, MOST_ROWS)
    powers = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return (*powers, most) if most else ()


def _free(shape: Any) -> tuple[int | None, ...]:
    return tuple(int(size) if size > 0 else None for size in shape)
