"""Views made on a device by one kernel, the model run there, and its outputs summed there."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tta_server.backends import Backend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.backends.cuda.backend import CudaBackend, fetch
from tta_server.backends.cuda.device_memory import CudaMemory, DeviceArray, HostBuffer, Memory
from tta_server.backends.cuda.errors import as_backend_error
from tta_server.backends.cuda.sessions import DeviceGraph, Rung
from tta_server.backends.cuda.view_kernel import ViewKernel
from tta_server.compiled.graph import require_onnx
from tta_server.compiled.map_rows import MAP_WIDTH, MapColumn, all_exact, map_inputs
from tta_server.compiled.rows import WIDTH, Column, front_table, stack_canvases, stacked_shape
from tta_server.errors import BackendFailed
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.repository.graphs import TailKey, Tails, owner_matrix, shaped_maps
from tta_server.repository.pipeline import BatchOutputs, Planes, Rows
from tta_server.repository.view_kernel import kernel_constants
from tta_server.tasks.sums import SumSpec
from tta_server.views.geometry import Size


def on_device(preprocessing: Preprocessing, backend: Backend) -> "DevicePipeline":
    """Return what makes a model's views on its device. Raises ConfigError if the kernel can't be compiled there."""
    assert isinstance(backend, CudaBackend)
    memory = backend.memory
    assert isinstance(memory, CudaMemory)
    return DevicePipeline(preprocessing, backend, ViewKernel(memory.device, kernel_constants(preprocessing)))


NO_IMAGE = -1
"""Of a row of zeros."""
PER_ROW = ("sound", "peaks")
"""Outputs of tails that have a row for each of theirs."""


class ViewMaker(Protocol):
    """Makes views on a device from canvases that are there."""

    def launch(  # noqa: PLR0913 - those of the kernel
        self,
        slab: int,
        slab_shape: tuple[int, int, int, int],
        table: int,
        rows: int,
        out: int,
        tensor: Size,
        stream: int,
    ) -> None:
        """Begin to write `rows` views of size `tensor` to `out`; slab (N, C, Hs, Ws) and table are as of `front`."""


class Staged:
    """What is copied to the device for a batch, in memory that it copies from: the table of rows, then the canvases."""

    def __init__(self, buffer: HostBuffer, rows: int, slab_shape: tuple[int, int, int, int], tensor: Size) -> None:
        self.buffer = buffer
        self.rows = rows
        self.slab_shape = slab_shape
        self.tensor = tensor

    @property
    def table_bytes(self) -> int:
        """Bytes of the table, which end where the canvases begin."""
        return self.rows * WIDTH * 4

    @property
    def nbytes(self) -> int:
        """All bytes."""
        return self.table_bytes + int(np.prod(self.slab_shape))

    @property
    def array(self) -> NDArray[np.uint8]:
        """All bytes, as they are copied."""
        return self.buffer.array[: self.nbytes]


class HostBuffers:
    """Memory for staging, reused. Thread-safe."""

    LEAST = 1 << 20

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._free: list[HostBuffer] = []

    def take(self, nbytes: int) -> HostBuffer:
        """Return memory of at least that size."""
        for buffer in list(self._free):
            if len(buffer.array) >= nbytes:
                try:
                    self._free.remove(buffer)
                except ValueError:  # another thread has it
                    continue
                return buffer
        return self._memory.allocate_host(max(self.LEAST, 1 << (nbytes - 1).bit_length()))

    def give_back(self, buffer: HostBuffer) -> None:
        """Take memory back; of many, the first goes."""
        self._free.append(buffer)
        if len(self._free) > 4:
            self._free.pop(0).free()


class DevicePipeline:
    """From canvases to outputs on a device; see `Pipeline`."""

    def __init__(self, preprocessing: Preprocessing, backend: CudaBackend, maker: ViewMaker) -> None:
        """Raise ConfigError without the `onnx` package, which writes the graphs that sum outputs."""
        require_onnx()
        self._preprocessing = preprocessing
        self._backend = backend
        self._memory = memory = backend.memory
        self._maker = maker
        self._buffers = HostBuffers(memory)
        self._staging = memory.allocate(HostBuffers.LEAST)
        self._tails = Tails(lambda key: DeviceGraph(key.to_bytes(), memory))

    def prepare(self, planes: Planes, rows: Rows, tensor: Size) -> Staged:
        """Write the table and the canvases to memory that the device copies from."""
        self._memory.activate()
        found = {i: row for i, row in enumerate(rows) if row is not None}
        shape = stacked_shape(planes) if planes else (1, self._preprocessing.depth, 1, 1)
        staged = Staged(self._buffers.take(len(rows) * WIDTH * 4 + int(np.prod(shape))), len(rows), shape, tensor)
        weakref.finalize(staged, self._buffers.give_back, staged.buffer)
        table = staged.array[: staged.table_bytes].view(np.float32).reshape(-1, WIDTH)
        table[:] = 0
        table[:, Column.IMAGE] = NO_IMAGE
        if found:
            table[list(found)] = front_table(list(found.values()), self._preprocessing.channels)
        stack_canvases(planes, staged.array[staged.table_bytes :].reshape(shape))
        return staged

    def infer(self, prepared: Staged, abort: Abort | None = None) -> BatchOutputs:
        """Copy, make the views, run the model: all of it is begun when this returns."""
        tensor, depth = prepared.tensor, self._preprocessing.depth
        planar = (depth, tensor.height, tensor.width)
        sides = (*planar[1:], depth) if self._preprocessing.layout == "NHWC" else planar
        rung = self._backend.begin((prepared.rows, *sides), lambda target: self._make(prepared, target), abort)
        return DeviceOutputs(self._backend, rung, self._tails)

    def _make(self, staged: Staged, target: DeviceArray) -> None:
        memory = self._memory
        if self._staging.nbytes < staged.nbytes:
            memory.synchronize()
            self._staging.free()
            self._staging = memory.allocate(2 * staged.nbytes)
        table = self._staging.pointer
        memory.upload(table, staged.array)
        slab = table + staged.table_bytes
        rows, out = staged.rows, target.pointer
        self._maker.launch(slab, staged.slab_shape, table, rows, out, staged.tensor, memory.stream)


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
        every[:] = table[0]
        every[:, MapColumn.WEIGHT] = 0
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
        try:
            found: Outputs = self._tails[key].run("z", z, inputs)
        except Exception as error:
            raise as_backend_error(error) from error
        return {name: values[list(rows)] if name in PER_ROW else values for name, values in found.items()}

    def _check(self) -> None:
        """Raises BackendFailed if another run has overwritten the outputs."""
        if self._backend.runs != self._run:
            raise BackendFailed("the device ran another batch before this one's outputs were read")
