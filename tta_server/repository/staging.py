"""Batches on their way to a device: the table of rows and the canvases, which a kernel makes views of there."""

import weakref

import numpy as np
from numpy.typing import NDArray

from tta_server.backends.cuda.device_memory import HostBuffer, Memory
from tta_server.backends.cuda.view_kernel import ViewKernel
from tta_server.compiled.rows import WIDTH, Column, front_table, stack_canvases, stacked_shape
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.repository.pipeline import Planes, Rows
from tta_server.views.geometry import Size

NO_IMAGE = -1
"""Of a row of zeros."""


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
    MOST = 4

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._free: list[HostBuffer] = []
        self._most = self.MOST

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
        if len(self._free) > self._most:
            self._free.pop(0).free()

    def close(self) -> None:
        """Free all memory, also what is given back later."""
        self._most = 0
        while self._free:
            self._free.pop().free()


class Staging:
    """Collects batches on any thread, and makes their views on the device, one batch at a time."""

    def __init__(self, preprocessing: Preprocessing, memory: Memory, kernel: ViewKernel) -> None:
        """Raises OutOfDeviceMemory."""
        self._preprocessing = preprocessing
        self._memory = memory
        self._kernel = kernel
        self._buffers = HostBuffers(memory)
        self._target = memory.allocate(HostBuffers.LEAST)

    def prepare(self, planes: Planes, rows: Rows, tensor: Size) -> Staged:
        """Write the table and the canvases to memory that the device copies from; see `Pipeline.prepare`."""
        self._memory.activate()
        found = {i: row for i, row in enumerate(rows) if row is not None}
        shape = stacked_shape(planes) if planes else (1, self._preprocessing.depth, 1, 1)
        staged = Staged(self._buffers.take(len(rows) * WIDTH * 4 + int(np.prod(shape))), len(rows), shape, tensor)
        weakref.finalize(staged, self._buffers.give_back, staged.buffer).atexit = False
        table = staged.array[: staged.table_bytes].view(np.float32).reshape(-1, WIDTH)
        table[:] = 0
        table[:, Column.IMAGE] = NO_IMAGE
        if found:
            table[list(found)] = front_table(list(found.values()), self._preprocessing.channels)
        stack_canvases(planes, staged.array[staged.table_bytes :].reshape(shape))
        return staged

    def close(self) -> None:
        """Free its memory; nothing may be on its way."""
        self._buffers.close()
        self._target.free()

    def input_shape(self, staged: Staged) -> tuple[int, ...]:
        """The shape of the model's input for a batch."""
        depth, (width, height) = self._preprocessing.depth, staged.tensor
        sides = (height, width, depth) if self._preprocessing.layout == "NHWC" else (depth, height, width)
        return (staged.rows, *sides)

    def make(self, staged: Staged, target: int) -> None:
        """Begin to copy a batch and to write its views to `target`, an address on the device."""
        memory = self._memory
        memory.activate()
        if self._target.nbytes < staged.nbytes:
            memory.synchronize()
            self._target.free()
            self._target = memory.allocate(2 * staged.nbytes)
        table = self._target.pointer
        memory.upload(table, staged.array)
        slab = table + staged.table_bytes
        self._kernel.launch(slab, staged.slab_shape, table, staged.rows, target, staged.tensor, memory.stream)
