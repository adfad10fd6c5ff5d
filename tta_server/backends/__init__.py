"""Backends by name. A new backend adds one module and one entry in BACKENDS or REMOTE_BACKENDS.

BACKENDS run a file, whose name is in FILES: (file, options) -> backend. REMOTE_BACKENDS run what a server has, and
state its version.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from tta_server.backends.base import CPU, Backend, FramedBackend, Outputs, RunOptions, Signature, Tensor
from tta_server.backends.cancel import Abort
from tta_server.backends.inputs import Frame
from tta_server.backends.onnxruntime import OnnxRuntimeBackend
from tta_server.backends.triton import EnsembleInfo, Target


class RemoteBackend(Backend, Protocol):
    """A backend of a server elsewhere; `version` is the one that it serves.

    `ensemble` describes the one around the model, None where the model is called by itself.
    """

    version: str
    ensemble: EnsembleInfo | None

    def infer_ensemble(
        self, inputs: Mapping[str, Tensor], outputs: Collection[str], abort: Abort | None = None
    ) -> Outputs:
        """Run the ensemble on its inputs by name, as `infer` runs a batch; return the outputs of these names."""


def _triton(target: Target) -> RemoteBackend:
    from tta_server.backends.triton.backend import TritonBackend  # gRPC, only for models that need it

    return TritonBackend(target)


def _onnxruntime(path: Path, options: RunOptions) -> Backend:
    if options.device == CPU:
        return OnnxRuntimeBackend(path, options)
    from tta_server.backends.cuda.backend import open_cuda
    from tta_server.backends.cuda.requirements import FIRST, missing_for_auto

    if options.device != "auto":
        return open_cuda(path, options)
    if missing := missing_for_auto():
        backend = OnnxRuntimeBackend(path, replace(options, device=CPU))
        backend.where = f"backend.device is auto: cpu, for {missing}"
        return backend
    return open_cuda(path, replace(options, device=FIRST))


def _torch(path: Path, options: RunOptions) -> Backend:
    from tta_server.backends.torch.backend import TorchBackend  # torch, only for models that need it

    return TorchBackend(path, options)


BACKENDS: dict[str, Callable[[Path, RunOptions], Backend]] = {"onnxruntime": _onnxruntime, "torch": _torch}
FILES = {"onnxruntime": "model.onnx", "torch": "model.pt2"}
REMOTE_BACKENDS: dict[str, Callable[[Target], RemoteBackend]] = {"triton": _triton}

__all__ = [
    "BACKENDS",
    "CPU",
    "FILES",
    "REMOTE_BACKENDS",
    "Backend",
    "Frame",
    "FramedBackend",
    "Outputs",
    "RemoteBackend",
    "RunOptions",
    "Signature",
    "Tensor",
]
