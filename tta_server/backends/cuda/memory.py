"""Memory, copies and streams of the context that is current on the calling thread."""

import ctypes
import logging
from ctypes import byref, c_size_t, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.backends.cuda.context import current, current_context, value_of
from tta_server.backends.cuda.libcuda import NoDriver, call
from tta_server.errors import BackendFailed

log = logging.getLogger(__name__)

PORTABLE = 1
"""Flag of pinned memory that all contexts can use."""
NON_BLOCKING = 1
"""Flag of a stream that does not wait for the default stream."""

Host = int | NDArray[Any]
"""Memory of the host: an address, or an array that is contiguous."""


class _Resource:
    """Something of a context with a handle, given back once, on any thread.

    A failure to give it back is logged: the device is lost then, and whatever it had with it.
    """

    _release: str

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._context = current_context()

    def _give_back(self) -> None:
        handle, self._handle = self._handle, 0
        if not handle:
            return
        try:
            with current(self._context):
                call(self._release, handle)
        except (BackendFailed, NoDriver) as error:
            log.debug("%s failed", self._release, exc_info=error)


class Stream(_Resource):
    """A stream that does not wait for the default stream; ONNX Runtime takes its handle as `user_compute_stream`."""

    _release = "cuStreamDestroy_v2"

    def __init__(self) -> None:
        found = c_void_p()
        call("cuStreamCreate", byref(found), NON_BLOCKING)
        super().__init__(value_of(found))

    @property
    def handle(self) -> int:
        """The stream as the other functions here take it."""
        return self._handle

    def close(self) -> None:
        """Give the stream back; work that is in it goes on."""
        self._give_back()


class DeviceBuffer(_Resource):
    """`nbytes` of memory on the device, not initialised."""

    _release = "cuMemFree_v2"

    def __init__(self, nbytes: int) -> None:
        """Raises OutOfDeviceMemory."""
        found = c_size_t()
        call("cuMemAlloc_v2", byref(found), max(1, nbytes))
        super().__init__(found.value)
        self.nbytes = nbytes

    @property
    def pointer(self) -> int:
        """Its address; 0 once it is given back."""
        return self._handle

    def free(self) -> None:
        """Give the memory back, once the device does not use it any more."""
        self._give_back()


class PinnedBuffer(_Resource):
    """`nbytes` of memory of the host that stays in place, which a device copies at full speed and beside other work.

    `array` (nbytes,) is the memory itself: it may not be used after `free`.
    """

    _release = "cuMemFreeHost"

    def __init__(self, nbytes: int) -> None:
        """Raises OutOfDeviceMemory."""
        found = c_void_p()
        call("cuMemHostAlloc", byref(found), max(1, nbytes), PORTABLE)
        super().__init__(value_of(found))
        self.nbytes = nbytes
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self.pointer))

    @property
    def pointer(self) -> int:
        """Its address; 0 once it is given back."""
        return self._handle

    def free(self) -> None:
        """Give the memory back, once no copy uses it any more."""
        self.array = np.empty(0, np.uint8)
        self._give_back()


def upload(pointer: int, host: Host, nbytes: int, stream: int) -> None:
    """Copy from the host to the device; pinned memory may not change until the stream has done it."""
    call("cuMemcpyHtoDAsync_v2", pointer, _host_address(host, nbytes), nbytes, stream)


def download(host: Host, pointer: int, nbytes: int, stream: int) -> None:
    """Copy from the device to the host; synchronize the stream before reading."""
    call("cuMemcpyDtoHAsync_v2", _host_address(host, nbytes), pointer, nbytes, stream)


def fill_zero(pointer: int, nbytes: int, stream: int) -> None:
    """Set bytes on the device to 0."""
    if nbytes:
        call("cuMemsetD8Async", pointer, 0, nbytes, stream)


def _host_address(host: Host, nbytes: int) -> int:
    if isinstance(host, int):
        return host
    if not host.flags.c_contiguous or host.nbytes < nbytes:
        raise ValueError(f"{nbytes} bytes can't be copied: the array has {host.nbytes}, or is not contiguous")
    return host.ctypes.data
