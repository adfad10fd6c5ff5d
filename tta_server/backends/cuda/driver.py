"""Devices, memory, streams and kernels of the CUDA driver, through ctypes. Importing this loads no library.

Addresses on the device, and handles of streams, are ints. Memory, streams and modules belong to the context that is
current on the calling thread: call `Device.activate` first, once on each thread.
"""

import ctypes
import logging
from ctypes import byref, c_int, c_size_t, c_void_p
from dataclasses import dataclass

from tta_server.backends.cuda.context import current, value_of
from tta_server.backends.cuda.libcuda import CudaError, NoDriver, call, call_raw
from tta_server.backends.cuda.memory import DeviceBuffer, PinnedBuffer, Stream, download, fill_zero, upload
from tta_server.backends.cuda.modules import Function, Module, launch
from tta_server.errors import ConfigError

__all__ = [
    "Device",
    "DeviceBuffer",
    "Function",
    "Module",
    "PinnedBuffer",
    "Stream",
    "count_devices",
    "download",
    "fill_zero",
    "launch",
    "open_device",
    "upload",
]

log = logging.getLogger(__name__)

CAPABILITY = (75, 76)
"""Attributes of a device: major and minor number of its compute capability."""


def count_devices() -> int:
    """Return the number of CUDA devices: 0 without a driver, or with one that can't be used."""
    found = c_int()
    try:
        call_raw("cuInit", 0)
        call_raw("cuDeviceGetCount", byref(found))
    except (NoDriver, CudaError) as error:
        log.debug("no CUDA device: %s", error)
        return 0
    return found.value


@dataclass(frozen=True, slots=True)
class Device:
    """A device, by its index; made by `open_device`. `capability` is its compute capability, `context` a handle.

    The context is the device's primary one, which ONNX Runtime and torch use too. It is kept until the process ends.
    """

    index: int
    name: str
    memory_bytes: int
    capability: tuple[int, int]
    context: int

    def activate(self) -> None:
        """Make the device's context the current one of the calling thread."""
        call("cuCtxSetCurrent", self.context)

    def free_bytes(self) -> int:
        """Return the memory that is free for all processes."""
        free, total = c_size_t(), c_size_t()
        with current(self.context):
            call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value

    def synchronize(self, stream: int) -> None:
        """Wait until all work of a stream is done; raise what failed in it."""
        with current(self.context):
            call("cuStreamSynchronize", stream)


def open_device(index: int) -> Device:
    """Return a device, with its context on no thread yet; raise ConfigError if there is none of that index."""
    wanted = f"device cuda:{index}"
    try:
        call_raw("cuInit", 0)
        count, found = c_int(), c_int()
        call_raw("cuDeviceGetCount", byref(count))
        if not 0 <= index < count.value:
            raise ConfigError(f"{wanted} is not there: {_listed(count.value)}; set backend.device to one, or to cpu")
        call_raw("cuDeviceGet", byref(found), index)
        return _describe(index, found.value)
    except NoDriver as error:
        raise ConfigError(f"{wanted}: {error}; install the driver, or set backend.device: cpu") from error
    except CudaError as error:
        raise ConfigError(
            f"{wanted}: the NVIDIA driver can't use it ({error}); see what nvidia-smi says, or set backend.device: cpu"
        ) from error


def _listed(count: int) -> str:
    if count == 0:
        return "there are no CUDA devices"
    if count == 1:
        return "there is 1 CUDA device, cuda:0"
    return f"there are {count} CUDA devices, cuda:0 to cuda:{count - 1}"


def _describe(index: int, device: int) -> Device:
    name, memory, context = ctypes.create_string_buffer(256), c_size_t(), c_void_p()
    call_raw("cuDeviceGetName", name, len(name), device)
    call_raw("cuDeviceTotalMem_v2", byref(memory), device)
    numbers = []
    for attribute in CAPABILITY:
        number = c_int()
        call_raw("cuDeviceGetAttribute", byref(number), attribute, device)
        numbers.append(number.value)
    call_raw("cuDevicePrimaryCtxRetain", byref(context), device)
    text = name.value.decode("utf-8", "replace")
    return Device(index, text, memory.value, (numbers[0], numbers[1]), value_of(context))
