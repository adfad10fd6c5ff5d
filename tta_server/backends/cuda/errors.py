"""ONNX Runtime's errors on a CUDA device, by what they mean for a batch."""

import re

from tta_server.backends.cuda.libcuda import LOST
from tta_server.errors import BackendFailed, DeviceLost, OutOfDeviceMemory, TTAError

NO_MEMORY = re.compile(
    r"failed to allocate memory|out of memory|CUDA failure 2:|ALLOC_FAILED|Available memory of \d+ is smaller",
    re.IGNORECASE,
)
FAILURE = re.compile(r"CUDA failure (\d+)")


def as_backend_error(error: BaseException) -> TTAError:
    """Return the error to raise from `error`; one of ours is returned as it is."""
    if isinstance(error, TTAError):
        return error
    text = str(error)
    if any(int(code) in LOST for code in FAILURE.findall(text)):
        return DeviceLost("the device failed")
    if NO_MEMORY.search(text):
        return OutOfDeviceMemory("the device has no memory for this batch")
    return BackendFailed("the model failed on this image")
