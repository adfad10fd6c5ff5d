"""Backends by name. A new backend adds one module and one entry in BACKENDS: (file, threads a run) -> backend."""

from collections.abc import Callable
from pathlib import Path

from tta_server.backends.base import CPU, Backend, Outputs, Signature, Tensor
from tta_server.backends.onnxruntime import OnnxRuntimeBackend

BACKENDS: dict[str, Callable[[Path, int], Backend]] = {"onnxruntime": OnnxRuntimeBackend}

__all__ = ["BACKENDS", "CPU", "Backend", "Outputs", "Signature", "Tensor"]
