"""Views made on a device by one kernel, the model run there, and its outputs summed there."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.backends import Backend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.backends.cuda.backend import CudaBackend, fetch
from tta_server.backends.cuda.device_memory import DefaultStreamMemory, DeviceArray, Memory
from tta_server.backends.cuda.driver import open_device
from tta_server.backends.cuda.errors import as_backend_error
from tta_server.backends.cuda.sessions import DeviceGraph, Rung
from tta_server.backends.cuda.view_kernel import ViewKernel
from tta_server.backends.graphs import GraphSession
from tta_server.compiled.graph import require_onnx
from tta_server.compiled.map_rows import MAP_WIDTH, all_exact, map_inputs
from tta_server.errors import BackendFailed
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.repository.graphs import TailKey, Tails, owner_matrix, shaped_maps
from tta_server.repository.pipeline import BatchOutputs, Pipeline, Planes, Rows, T
from tta_server.repository.staging import NO_IMAGE, Staged, Staging
from tta_server.repository.view_kernel import kernel_constants
from tta_server.tasks.sums import SumSpec
from tta_server.views.geometry import Size


def on_device(preprocessing: Preprocessing, backend: Backend) -> Pipeline:
    """Return what makes a model's views on its device. Raises ConfigError if the kernel can't be compiled there."""
    constants = kernel_constants(preprocessing)
    if isinstance(backend, CudaBackend):
        memory = backend.memory
        staging = Staging(preprocessing, memory, ViewKernel(memory.device, constants))
        return DevicePipeline(backend, staging)
    from tta_server.backends.torch.backend import TorchBackend
    from tta_server.repository.torch_pipeline import TorchPipeline

    assert isinstance(backend, TorchBackend)
    memory = DefaultStreamMemory(open_device(int(backend.device.removeprefix("cuda:"))))
    return TorchPipeline(backend, Staging(preprocessing, memory, ViewKernel(memory.device, constants)))


log = logging.getLogger(__name__)

PER_ROW = ("sound", "peaks")
"""Outputs of tails that have a row for each of theirs."""


class DevicePipeline:
    """From canvases to outputs on a device; see `Pipeline`."""

    def __init__(self, backend: CudaBackend, staging: Staging) -> None:
        """Raise ConfigError without the `onnx` package, which writes the graphs that sum outputs."""
        require_onnx()
        self._backend = backend
        self._staging = staging
        backend.on_close.append(staging.close)
        self._tails = Tails(lambda key: _make_tail(key, backend.memory))

    def call(self, function: Callable[[], T]) -> T:
        """Call it on the backend's thread; see `Pipeline.call`."""
        return self._backend.thread.call(function)

    def prepare(self, planes: Planes, rows: Rows, tensor: Size) -> Staged:
        """Write the table and the canvases to memory that the device copies from."""
        return self._staging.prepare(planes, rows, tensor)

    def infer(self, prepared: Staged, abort: Abort | None = None) -> BatchOutputs:
        """Copy, make the views, run the model: all of it is begun when this returns."""
        staging = self._staging
        shape = staging.input_shape(prepared)
        rung = self._backend.begin(shape, lambda target: staging.make(prepared, target.pointer), abort)
        return DeviceOutputs(self._backend, rung, self._tails)


def _make_tail(key: TailKey, memory: Memory) -> DeviceGraph | GraphSession:
    """Return the graph that sums outputs, on the CPU if it has a node that the device can't run."""
    content = key.to_bytes()
    try:
        return DeviceGraph(content, memory)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's own exceptions share no public base
        reason = str(error).splitlines()[0]
        log.warning("outputs are summed on the CPU, for the device can't run the graph (%s): %s", key.spec, reason)
        return GraphSession(content)


class DeviceOutputs:
    """Outputs in a device's memory, until the next run."""

    def __init__(self, backend: CudaBackend, rung: Rung, tails: Tails) -> None:
        self._backend = backend
        self._rung = rung
        self._tails = tails
        self._run = backend.runs
        self._arrays = rung.outputs()

    def shape(self, output: str) -> tuple[int, ...]:
        return self._arrays[output].shape

    def fetch(self) -> Outputs:
        self._check()
        return fetch(self._rung)

    def sum_vectors(
        self, spec: SumSpec, rows: Sequence[int], weight: NDArray[np.float64], owner: NDArray[np.intp]
    ) -> Outputs:
        z = self._arrays[spec.output]
        count = z.shape[0]
        flat = DeviceArray(z.pointer, (count, int(np.prod(z.shape[1:]))), z.dtype)
        weights = np.zeros((count, weight.shape[1]), spec.dtype)
        weights[list(rows)] = weight
        inputs = {"weight": weights, "owner": self._owners(rows, owner, count, spec)}
        return self._sum(TailKey(spec, flat.shape[1], z.dtype), flat, inputs, rows)

    def sum_maps(
        self, spec: SumSpec, rows: Sequence[int], table: NDArray[np.float32], owner: NDArray[np.intp], cells: Size
    ) -> Outputs:
        z = self._arrays[spec.output]
        count, classes = z.shape[:2]
        every = np.zeros((count, MAP_WIDTH), np.float32)
        every[:] = table[0]  # what other rows give is of no image
        every[list(rows)] = table
        like = np.broadcast_to(np.zeros((), z.dtype), z.shape)
        inputs = map_inputs(like, every, self._owners(rows, owner, count, spec), cells, bool(spec.mirror_order))
        del inputs["z"]
        found = self._sum(TailKey(spec, classes, z.dtype, all_exact(every)), z, inputs, rows)
        return shaped_maps(found, classes, cells)

    def _owners(self, rows: Sequence[int], owner: NDArray[np.intp], count: int, spec: SumSpec) -> Tensor:
        """The matrix (N, B) for all rows of the batch; the others are of no image."""
        every = np.full(count, NO_IMAGE)
        every[list(rows)] = owner
        return owner_matrix(every, spec.dtype)

    def _sum(self, key: TailKey, z: DeviceArray, inputs: Mapping[str, Any], rows: Sequence[int]) -> Outputs:
        self._check()
        tail = self._tails[key]
        try:
            if isinstance(tail, GraphSession):
                found = tail.run({"z": fetch(self._rung)[key.spec.output].reshape(z.shape), **inputs})
            else:
                found = tail.run("z", z, inputs)
        except Exception as error:
            raise as_backend_error(error) from error
        return {name: values[list(rows)] if name in PER_ROW else values for name, values in found.items()}

    def _check(self) -> None:
        """Raises BackendFailed if another run has overwritten the outputs."""
        if self._backend.runs != self._run:
            raise BackendFailed("the device ran another batch before this one's outputs were read")
