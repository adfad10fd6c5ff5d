"""Contexts of devices: what is current on the calling thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_void_p

from tta_server.backends.cuda.libcuda import call


def value_of(handle: c_void_p) -> int:
    return handle.value or 0


def current_context() -> int:
    context = c_void_p()
    call("cuCtxGetCurrent", byref(context))
    return value_of(context)


@contextmanager
def current(context: int) -> Iterator[None]:
    """Make a context the current one of this thread for a while."""
    call("cuCtxPushCurrent_v2", context)
    try:
        yield
    finally:
        call("cuCtxPopCurrent_v2", byref(c_void_p()))
