"""Backends by name. A new backend adds one module and one entry in BACKENDS or REMOTE_BACKENDS.

BACKENDS run a file: (file, threads a run) -> backend. REMOTE_BACKENDS run what a server has, and state its version.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tta_server.backends.base import CPU, Backend, Outputs, Signature, Tensor
from tta_server.backends.onnxruntime import OnnxRuntimeBackend
from tta_server.backends.triton import Target


class RemoteBackend(Backend, Protocol):
    """A backend of a server elsewhere; `version` is the one that it serves."""

    version: str


def _triton(target: Target) -> RemoteBackend:
    from tta_server.backends.triton.backend import TritonBackend  # gRPC, only for models that need it

    return TritonBackend(target)


BACKENDS: dict[str, Callable[[Path, int], Backend]] = {"onnxruntime": OnnxRuntimeBackend}
REMOTE_BACKENDS: dict[str, Callable[[Target], RemoteBackend]] = {"triton": _triton}

__all__ = ["BACKENDS", "CPU", "REMOTE_BACKENDS", "Backend", "Outputs", "RemoteBackend", "Signature", "Tensor"]
