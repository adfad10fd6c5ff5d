"""A backend that runs an exported program of PyTorch."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tta_server.backends.base import CPU, DEFAULT_OPTIONS, Outputs, RunOptions, Tensor
from tta_server.backends.cancel import Abort
from tta_server.backends.torch.archive import read_archive
from tta_server.backends.torch.loading import batch_sizes, choose_device, import_torch, load_module
from tta_server.errors import BackendFailed, ConfigError

log = logging.getLogger(__name__)


class TorchBackend:
    """A module that slots share on the CPU; on a CUDA device `runs` has its buffers and runs.

    On the CPU a run has `threads` threads: torch's number is set in each slot's thread, but the library of its matrix
    products (MKL) has one number for the process, that of the run that began last. An abort does not end a run: the
    watchdog answers its clients, and a slot that hangs ends the process as with any backend.
    """

    permits = 0

    def __init__(self, path: Path, by: RunOptions = DEFAULT_OPTIONS) -> None:
        """Check and load a file; raise ConfigError if it is invalid or may run code, or if the device is missing."""
        torch = import_torch()
        from tta_server.backends.torch.device_runs import DeviceRuns, device_errors

        self.device, missing = choose_device(torch, by.device)
        archive = read_archive(path, self.device)
        self.signature = archive.program.signature
        self._most, self._guards = archive.program.most, archive.program.guards
        self.ladder: Sequence[int] = (
            () if self.device == CPU else batch_sizes(self.signature.shape[0], by.max_batch, self._most)
        )
        self._torch, self._threads, self._device_errors = torch, by.threads, device_errors
        if self.device != CPU and by.memory_mb:
            _limit_memory(torch, self.device, by.memory_mb)
        self._module = load_module(torch, archive, path)
        dtype = getattr(torch, self.signature.dtype.name)
        self.runs = DeviceRuns(self._module, self.device, list(self.signature.outputs), dtype, by.precision)
        self._fitting: set[tuple[int, ...]] = set()
        self.where = f"backend.device is auto: cpu, for {missing}" if missing else ""
        if self.device != CPU:
            name = torch.cuda.get_device_name(self.device)
            self.where = f"PyTorch {torch.__version__} on {name} ({self.device}), precision {by.precision}"
        self.on_close: list[Callable[[], object]] = []
        """What else frees memory of the device."""

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        """Run a batch; see `Backend.infer`. An abort has no effect on a run that has begun."""
        if abort is not None and abort.requested:
            raise BackendFailed("the run was ended before it began")
        if self.device == CPU:
            return self._infer_on_cpu(batch)
        self.check(batch.shape)
        with self.runs.lock:
            return self.runs.to_host(self.runs.run(self.runs.upload(batch)))

    def infer_filled(self, shape: tuple[int, ...], fill: Callable[[int], None], abort: Abort | None = None) -> Outputs:
        """The same on a device, for a batch of that shape which `fill` writes to an address on the device.

        `fill` begins to write it on the device's default stream, on which torch runs.
        """
        if abort is not None and abort.requested:
            raise BackendFailed("the run was ended before it began")
        self.check(shape)
        with self.runs.lock:
            buffer = self.runs.buffer(shape)
            fill(buffer.data_ptr())
            return self.runs.to_host(self.runs.run(buffer))

    def check(self, shape: Sequence[int]) -> None:
        """Raise BackendFailed if the exported code relies on another shape: its answer could be wrong."""
        key = tuple(shape)
        if key in self._fitting:
            return
        for text, holds in self._guards.items():
            if not holds(key):
                log.warning("the program was exported for inputs with %s; this one is %s", text, list(key))
                raise BackendFailed("the model was not exported for images of this size")
        if len(self._fitting) < 10_000:
            self._fitting.add(key)

    def _infer_on_cpu(self, batch: Tensor) -> Outputs:
        most = self._most or len(batch)
        parts = [self._run_on_cpu(batch[start : start + most]) for start in range(0, len(batch), most)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run_on_cpu(self, batch: Tensor) -> Outputs:
        self.check(batch.shape)
        torch = self._torch
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with self._device_errors(torch.device(CPU)), torch.inference_mode():
            image = torch.from_numpy(batch.copy())  # a module may write into its input
            return self.runs.to_host(self.runs.run(image))

    def close(self) -> None:
        """Release the model and its memory on the device; no run may be active."""
        for free in self.on_close:
            free()
        self.runs.close()
        self._module = None


def _limit_memory(torch: Any, device: str, megabytes: int) -> None:
    """Limit what all torch models of this process may take on a device: the model that is loaded last decides."""
    total = torch.cuda.get_device_properties(device).total_memory
    if megabytes * 2**20 > total:
        raise ConfigError(f"backend.memory_mb is {megabytes}; {device} has {total // 2**20}")
    torch.cuda.set_per_process_memory_fraction(megabytes * 2**20 / total, device)
