"""The path of a CUDA device without one: its driver is the stub, and ONNX Runtime runs on this machine's cores."""

from pathlib import Path

from tta_server.backends import RunOptions
from tta_server.backends.cuda.backend import CudaBackend
from tta_server.backends.cuda.device_memory import CudaMemory
from tta_server.backends.cuda.driver import open_device


class StubMemory(CudaMemory):
    """Memory of the stub is this process's, which ONNX Runtime calls cpu."""

    kind = "cpu"


def open_stub(path: Path, options: RunOptions) -> CudaBackend:
    """A model on the stub's device 0."""
    return CudaBackend(path, options, StubMemory(open_device(0)), "stub")
