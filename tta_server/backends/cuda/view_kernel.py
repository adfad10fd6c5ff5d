"""The kernel that makes a model's inputs from canvases on a device, in one pass: what the graph `front` does."""

import ctypes
from ctypes import c_float, c_int, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from tta_server.backends.cuda.driver import Device, Module, launch
from tta_server.views.geometry import Size

TABLE_WIDTH = 28
"""Columns of the table of views, which are those of `compiled.rows`."""
TILE_WIDTH, TILE_HEIGHT = 32, 8
"""Pixels that a block makes, one a thread; as in views.cu."""
MAX_ROWS = 65_535
"""Blocks along the last axis of a grid, at most."""

PerChannel = tuple[float, ...]
_Three = c_float * 3


@dataclass(frozen=True, slots=True)
class KernelConstants:
    """A model's preprocessing as the kernel takes it: (x / scale - mean) / std, then `dtype`.

    `mean` and `std` have one number a channel, or one for all; a model of uint8 has 1, 0 and 1. `bar` is the normalised
    value beyond the frame by channel, of letterbox bars or zeros; None: inputs larger than the frame are padded by
    reflecting it.
    """

    depth: int
    layout: str
    dtype: np.dtype[Any]
    scale: float
    mean: PerChannel
    std: PerChannel
    bar: PerChannel | None


class _Slab(ctypes.Structure):
    _fields_ = (("bytes", c_void_p), ("images", c_int), ("height", c_int), ("width", c_int))


class _Model(ctypes.Structure):
    _fields_ = (
        ("scale", c_float),
        ("mean", _Three),
        ("std", _Three),
        ("bar", _Three),
        ("has_bars", c_int),
        ("channels_last", c_int),
        ("height", c_int),
        ("width", c_int),
    )


class ViewKernel:
    """Makes a model's inputs on a device. Threads may use it at the same time, each in its own stream."""

    def __init__(self, device: Device, constants: KernelConstants) -> None:
        """Compile the kernel; the device becomes the current one of this thread. Raises ConfigError if it can't be."""
        device.activate()
        self._constants = constants
        self._function = _module(device).function(f"views_{constants.dtype.name}_{constants.depth}")

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
        """Make `rows` inputs of size `tensor` in a stream; the device must be the current one of this thread.

        Addresses on the device: `slab` uint8 of shape `slab_shape` (N, C, Hs, Ws); `table` float32 (rows, TABLE_WIDTH)
        as `compiled.rows.front_table` makes it; `out` in the model's layout and type. A row whose image is not in the
        slab, as -1, becomes 0.
        """
        images, depth, height, width = slab_shape
        if depth != self._constants.depth or not 0 <= rows <= MAX_ROWS:
            raise ValueError(f"{rows} rows of {depth} channels: the kernel makes up to {MAX_ROWS} of {self._constants}")
        if not rows:
            return
        grid = -(-tensor.width // TILE_WIDTH), -(-tensor.height // TILE_HEIGHT), rows
        arguments = [_Slab(slab, images, height, width), self._model(tensor), c_void_p(table), c_void_p(out)]
        launch(self._function, grid, (TILE_WIDTH, TILE_HEIGHT, 1), arguments, stream)

    def _model(self, tensor: Size) -> _Model:
        by = self._constants
        return _Model(
            scale=by.scale,
            mean=_three(by.mean),
            std=_three(by.std),
            bar=_three(by.bar or (0.0,)),
            has_bars=by.bar is not None,
            channels_last=by.layout == "NHWC",
            height=tensor.height,
            width=tensor.width,
        )


def _three(values: PerChannel) -> Any:
    """Return one number for each of three channels; a single one is that of all."""
    return _Three(*(values * 3 if len(values) == 1 else values))


@cache
def _module(device: Device) -> Module:
    """Return the kernels compiled for a device, which is the current one; models share them."""
    return Module(files("tta_server.backends.cuda").joinpath("kernels", "views.ptx").read_bytes())
