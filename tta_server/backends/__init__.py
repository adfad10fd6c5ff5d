"""Backends by name. A new backend adds one module and one entry in BACKENDS."""

from collections.abc import Callable
from pathlib import Path

from tta_server.backends.base import Backend, Outputs, Signature, Tensor
from tta_server.backends.onnxruntime import OnnxRuntimeBackend

BACKENDS: dict[str, Callable[[Path], Backend]] = {"onnxruntime": OnnxRuntimeBackend}

__all__ = ["BACKENDS", "Backend", "Outputs", "Signature", "Tensor"]
