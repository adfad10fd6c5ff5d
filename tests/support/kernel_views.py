"""Views made by the CUDA kernel, on a device or by the stub of one."""

import numpy as np

from tests.support.compiled import GREY_LEVELS, GraphFront, grey_levels_of_one
from tta_server.backends.cuda.driver import DeviceBuffer, Stream, download, upload
from tta_server.backends.cuda.view_kernel import ViewKernel
from tta_server.compiled.rows import Column
from tta_server.repository.view_kernel import kernel_constants

GUARD = 64
"""Bytes behind the output that the kernel must leave as they are."""


class KernelFront:
    """The kernel for a preprocessing: makes inputs of a slab and a table, and compares them with the graph's.

    The slab is stored with noise, not 0, beyond each canvas: the kernel does not read it.
    """

    def __init__(self, device, prep):
        self._device, self._prep = device, prep
        self._kernel = ViewKernel(device, kernel_constants(prep))
        self._graph = GraphFront(prep)

    def __call__(self, slab, table, tensor):
        made = self.run(noisy_beyond(slab, table), table, tensor)
        check_with_graph(self._prep, table, made, self._graph(slab, table, tensor))
        return made

    def run(self, slab, table, tensor):
        """Run the kernel; the output's memory holds other bytes before."""
        self._device.activate()
        stream, out = Stream(), self._prep.empty(len(table), tensor)
        before = np.full(out.nbytes + GUARD, 0x5A, np.uint8)
        buffers = [_uploaded(array, stream) for array in (slab, table, before)]
        pixels, rows, target = (buffer.pointer for buffer in buffers)
        self._kernel.launch(pixels, slab.shape, rows, len(table), target, tensor, stream.handle)
        after = np.empty_like(before)
        download(after, target, after.nbytes, stream.handle)
        self._device.synchronize(stream.handle)
        for buffer in buffers:
            buffer.free()
        stream.close()
        assert (after[out.nbytes :] == 0x5A).all()
        return after[: out.nbytes].view(out.dtype).reshape(out.shape)


def _uploaded(array, stream):
    array = np.ascontiguousarray(array)
    buffer = DeviceBuffer(array.nbytes)
    upload(buffer.pointer, array, array.nbytes, stream.handle)
    return buffer


def noisy_beyond(slab, table):
    """The slab with noise where no canvas of the table is."""
    noisy = np.random.default_rng(0).integers(1, 256, slab.shape, np.uint8)
    for row in table:
        image, width, height = (int(row[column]) for column in (Column.IMAGE, Column.CANVAS, Column.CANVAS + 1))
        noisy[image, :, :height, :width] = slab[image, :, :height, :width]
    return noisy


def check_with_graph(prep, table, made, graph):
    """Rows of exact views without colour are equal, others within the limits of their type."""
    copied = (table[:, Column.EXACT] == 1) & (table[:, Column.COLORED] == 0)
    np.testing.assert_array_equal(made[copied], graph[copied])
    off = np.abs(made.astype(np.float64) - graph)
    if prep.dtype == np.uint8:
        assert off.max() <= 1
    else:
        assert (off * grey_levels_of_one(prep)).max() <= GREY_LEVELS[prep.dtype.name]
