"""The CUDA driver's library, loaded on first use, and its errors as ours."""

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_void_p
from functools import lru_cache
from typing import Any

from tta_server.errors import BackendFailed, DeviceLost, OutOfDeviceMemory

LIBRARY = "libcuda.so.1"
"""What the NVIDIA driver installs; a CUDA toolkit is not needed."""

Arguments = list[Any]
DIMENSIONS: Arguments = [c_uint] * 3
ADDRESS, HANDLE, STREAM = c_size_t, c_void_p, c_void_p  # an address on the device, an object of the driver

FUNCTIONS: dict[str, Arguments] = {
    "cuInit": [c_uint],
    "cuGetErrorName": [c_int, POINTER(c_char_p)],
    "cuGetErrorString": [c_int, POINTER(c_char_p)],
    "cuDeviceGetCount": [POINTER(c_int)],
    "cuDeviceGet": [POINTER(c_int), c_int],
    "cuDeviceGetName": [c_char_p, c_int, c_int],
    "cuDeviceTotalMem_v2": [POINTER(c_size_t), c_int],
    "cuDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
    "cuDevicePrimaryCtxRetain": [POINTER(HANDLE), c_int],
    "cuCtxGetCurrent": [POINTER(HANDLE)],
    "cuCtxSetCurrent": [HANDLE],
    "cuCtxPushCurrent_v2": [HANDLE],
    "cuCtxPopCurrent_v2": [POINTER(HANDLE)],
    "cuMemGetInfo_v2": [POINTER(c_size_t), POINTER(c_size_t)],
    "cuMemAlloc_v2": [POINTER(ADDRESS), c_size_t],
    "cuMemFree_v2": [ADDRESS],
    "cuMemHostAlloc": [POINTER(c_void_p), c_size_t, c_uint],
    "cuMemFreeHost": [c_void_p],
    "cuMemcpyHtoDAsync_v2": [ADDRESS, c_void_p, c_size_t, STREAM],
    "cuMemcpyDtoHAsync_v2": [c_void_p, ADDRESS, c_size_t, STREAM],
    "cuMemsetD8Async": [ADDRESS, ctypes.c_ubyte, c_size_t, STREAM],
    "cuStreamCreate": [POINTER(STREAM), c_uint],
    "cuStreamSynchronize": [STREAM],
    "cuStreamDestroy_v2": [STREAM],
    "cuModuleLoadDataEx": [POINTER(HANDLE), c_char_p, c_uint, c_void_p, c_void_p],
    "cuModuleGetFunction": [POINTER(HANDLE), HANDLE, c_char_p],
    "cuModuleUnload": [HANDLE],
    "cuLaunchKernel": [HANDLE, *DIMENSIONS, *DIMENSIONS, c_uint, STREAM, POINTER(c_void_p), POINTER(c_void_p)],
}
"""Argument types of the functions used, by exported name; each returns a code, 0 for success."""

PINNED = "cuMemHostAlloc"
OUT_OF_MEMORY = 2
LOST = {
    4: "DEINITIALIZED",
    46: "DEVICE_UNAVAILABLE",
    214: "ECC_UNCORRECTABLE",
    220: "NVLINK_UNCORRECTABLE",
    226: "CONTAINED",
    700: "ILLEGAL_ADDRESS",
    702: "LAUNCH_TIMEOUT",
    709: "CONTEXT_IS_DESTROYED",
    710: "ASSERT",
    714: "HARDWARE_STACK_ERROR",
    715: "ILLEGAL_INSTRUCTION",
    716: "MISALIGNED_ADDRESS",
    717: "INVALID_ADDRESS_SPACE",
    718: "INVALID_PC",
    719: "LAUNCH_FAILED",
    721: "TENSOR_MEMORY_LEAK",
    810: "MPS_CLIENT_TERMINATED",
    999: "UNKNOWN",
}
"""Errors after which every call of this process fails, as cuda.h states for most; CUDA_ERROR_ is left out."""


class NoDriver(Exception):
    """There is no usable driver library; the text says why, as the end of a sentence."""


class CudaError(Exception):
    """A call of the driver failed with `code`; the text has the call, the code's name and the driver's words."""

    def __init__(self, call: str, code: int, description: str) -> None:
        super().__init__(f"{call}: {description}")
        self.call = call
        self.code = code


def call(function: str, *arguments: Any) -> None:
    """Call the driver; raise OutOfDeviceMemory, DeviceLost or BackendFailed, with a CudaError as the cause."""
    try:
        call_raw(function, *arguments)
    except CudaError as error:
        raise failure(error) from error


def call_raw(function: str, *arguments: Any) -> None:
    """Call the driver; raise CudaError if it fails, NoDriver if there is none."""
    if code := getattr(library(), function)(*arguments):
        raise CudaError(function, code, describe(code))


def failure(error: CudaError) -> BackendFailed:
    """Return the error that clients get for one of the driver."""
    if error.code == OUT_OF_MEMORY and error.call == PINNED:
        return OutOfDeviceMemory("there is not enough free memory that the device can copy from")
    if error.code == OUT_OF_MEMORY:
        return OutOfDeviceMemory("the device has not enough free memory")
    if error.code in LOST:
        return DeviceLost("the device failed, and runs nothing until the server is started again")
    return BackendFailed("the device failed on this batch")


def describe(code: int) -> str:
    """Return the code's name and the driver's words for it."""
    found = []
    for function in ("cuGetErrorName", "cuGetErrorString"):
        text = c_char_p()
        if getattr(library(), function)(code, ctypes.byref(text)) == 0 and text.value:
            found.append(text.value.decode("utf-8", "replace"))
    return ": ".join(found) or f"error {code}"


def library() -> ctypes.CDLL:
    """Return the driver's library; raise NoDriver. Its calls release the interpreter's lock."""
    return _load(LIBRARY)


@lru_cache
def _load(name: str) -> ctypes.CDLL:
    try:
        loaded = ctypes.CDLL(name)
    except OSError as error:
        raise NoDriver(f"there is no NVIDIA driver ({error})") from error
    for function, arguments in FUNCTIONS.items():
        try:
            found = getattr(loaded, function)
        except AttributeError:
            raise NoDriver(f"the NVIDIA driver is too old: it has no {function}") from None
        found.argtypes, found.restype = arguments, c_int
    return loaded
