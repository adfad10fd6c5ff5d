"""Kernels: PTX that the driver compiles for the device, and launches."""

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_void_p
from typing import Any

from tta_server.backends.cuda.context import value_of
from tta_server.backends.cuda.libcuda import CudaError, call, call_raw, failure
from tta_server.errors import ConfigError

NOT_LOADABLE = (200, 209, 218, 221, 222, 223, 300)
"""Errors of a driver that can't compile PTX: too old for it, without a compiler, or forbidden to."""

Dimensions = tuple[int, int, int]
Argument = int | float | Any
"""int and float are the kernel's `int` and `float`; others are values of ctypes: c_void_p for an address."""
Function = int
"""Handle of a kernel."""


class Module:
    """Kernels compiled from PTX, for the context that is current on the calling thread; it goes with the context."""

    def __init__(self, ptx: bytes) -> None:
        """Raises ConfigError if the driver can't compile it."""
        found = c_void_p()
        try:
            call_raw("cuModuleLoadDataEx", byref(found), ptx, 0, None, None)
        except CudaError as error:
            if error.code in NOT_LOADABLE:
                raise ConfigError(
                    f"the NVIDIA driver can't compile the kernel that makes views ({error}); update the driver"
                ) from error
            raise failure(error) from error
        self._handle = value_of(found)

    def function(self, name: str) -> Function:
        """Return a kernel by its name."""
        found = c_void_p()
        call("cuModuleGetFunction", byref(found), self._handle, name.encode())
        return value_of(found)


def launch(function: Function, grid: Dimensions, block: Dimensions, args: Sequence[Argument], stream: int) -> None:
    """Start a kernel in a stream: `grid` blocks of `block` threads."""
    values = [_packed(argument) for argument in args]
    addresses = (c_void_p * len(values))(*map(ctypes.addressof, values))
    call("cuLaunchKernel", function, *grid, *block, 0, stream, addresses, None)


def _packed(argument: Argument) -> Any:
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    if isinstance(argument, int):
        if not -(1 << 31) <= argument < 1 << 31:
            raise ValueError(f"{argument} does not fit a kernel's int; pass an address as c_void_p")
        return ctypes.c_int(argument)
    return argument
