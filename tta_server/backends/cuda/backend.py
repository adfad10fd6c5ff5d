"""ONNX Runtime on a CUDA device."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import onnxruntime as ort

from tta_server.backends.base import Outputs, RunOptions, Tensor
from tta_server.backends.call_thread import CallThread
from tta_server.backends.cancel import Abort
from tta_server.backends.cuda.device_memory import CudaMemory, DeviceArray, Memory
from tta_server.backends.cuda.errors import as_backend_error
from tta_server.backends.cuda.requirements import require_cuda
from tta_server.backends.cuda.rungs import Rungs
from tta_server.backends.cuda.sessions import Rung


def open_cuda(path: Path, options: RunOptions) -> "CudaBackend":
    """Load a model file onto `options.device`; raise ConfigError if the file, the device or a package is not fit."""
    device = require_cuda(int(options.device.removeprefix("cuda:")))
    return CudaBackend(path, options, CudaMemory(device), device.name)


class CudaBackend:
    """A model on a device, whose runs are all on `thread`.

    ONNX Runtime's CUDA provider keeps a context for each thread: its CUDA graphs, and the buffers that they read. On a
    second thread a run is recorded again, and memory grows.
    """

    permits = 0

    def __init__(self, path: Path, options: RunOptions, memory: Memory, device_name: str) -> None:
        """Load a model file; raise ConfigError if it can't run there."""
        self.memory = memory
        self.thread = CallThread(f"cuda-{path.parent.parent.name}")
        self.thread.thread.start()
        try:
            self._rungs = self.thread.call(lambda: self._open(path, options))
        except BaseException:
            self.thread.stop()
            raise
        self.device = self._rungs.device
        self.signature = self._rungs.signature
        self.ladder: Sequence[int] = self._rungs.ladder
        self.runs = 0
        """Runs so far; the outputs of one are overwritten by the next."""
        self.on_close: list[Callable[[], object]] = []
        """What else frees memory of the device."""
        how = "CUDA graphs" if self._rungs.captures else "a session for each batch size"
        elsewhere = ", ".join(f"{count} nodes on {name}" for name, count in self._rungs.elsewhere.items())
        self.where = (
            f"ONNX Runtime {ort.__version__} on {device_name} ({self.device}), precision {options.precision}, {how}; "
            f"{elsewhere or 'all nodes there'}"
        )

    def _open(self, path: Path, options: RunOptions) -> Rungs:
        self.memory.activate()
        return Rungs(path, self.memory, options)

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        """Run a batch; see `Backend.infer`."""

        def run() -> Outputs:
            return fetch(self.begin(batch.shape, lambda target: self.memory.upload(target.pointer, batch), abort))

        return self.thread.call(run)

    def begin(self, shape: tuple[int, ...], fill: Callable[[DeviceArray], None], abort: Abort | None = None) -> Rung:
        """Begin a run for a batch of that shape, which `fill` begins to write; its outputs are valid until the next.

        Call it on `thread`, and read the outputs there. An abort takes effect between nodes, so not in a CUDA graph.
        Raises as `Backend.infer`.
        """
        self.runs += 1
        try:
            rung = self._rungs[shape]
            rung.options.terminate = False
            if abort is not None:
                abort.on_request(partial(setattr, rung.options, "terminate", True))
            fill(rung.input)
            rung.run()
        except Exception as error:
            raise as_backend_error(error) from error
        return rung

    def close(self) -> None:
        """Free the device's memory; no run may be active."""
        self.thread.call(self._close)
        self.thread.stop()

    def _close(self) -> None:
        self.memory.synchronize()
        for free in self.on_close:
            free()
        self._rungs.close()


def fetch(rung: Rung) -> Outputs:
    """Copy the outputs of the last run to this process's memory. Raises as `Backend.infer`."""
    try:
        return rung.fetch()
    except Exception as error:
        raise as_backend_error(error) from error
