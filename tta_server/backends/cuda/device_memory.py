"""Memory of a device, and the stream on which copies, kernels and runs follow one another."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tta_server.backends.cuda.driver import Device, DeviceBuffer, PinnedBuffer, Stream, fill_zero, upload


class DeviceArray(NamedTuple):
    """An array in a device's memory: C order, from `pointer` on."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Buffer(Protocol):
    """Memory of a device, until it is freed."""

    nbytes: int

    @property
    def pointer(self) -> int: ...

    def free(self) -> None: ...


class HostBuffer(Protocol):
    """Memory of this process, `array` (nbytes,), that a device copies without a detour."""

    array: NDArray[np.uint8]

    def free(self) -> None: ...


class Memory(Protocol):
    """One device's memory, and one stream; `kind` and `index` are the device's names in ONNX Runtime."""

    kind: str
    index: int
    device: Device

    @property
    def stream(self) -> int:
        """The stream's handle."""

    def activate(self) -> None:
        """Makes the device the calling thread's. Call it before the others."""

    def allocate(self, nbytes: int) -> Buffer:
        """Raises OutOfDeviceMemory."""

    def allocate_host(self, nbytes: int) -> HostBuffer:
        """Raises OutOfDeviceMemory."""

    def upload(self, target: int, source: NDArray[Any]) -> None:
        """Begins a copy of a contiguous array, which must stay as it is until `synchronize`."""

    def fill_zero(self, target: int, nbytes: int) -> None:
        """Begins to fill memory with zeros."""

    def synchronize(self) -> None:
        """Waits for all that has begun. Raises BackendFailed, DeviceLost."""


class CudaMemory:
    """The memory of a CUDA device."""

    kind = "cuda"

    def __init__(self, device: Device) -> None:
        """Raises BackendFailed."""
        device.activate()
        self.device = device
        self.index = device.index
        self._stream = Stream()

    @property
    def stream(self) -> int:
        return self._stream.handle

    def activate(self) -> None:
        self.device.activate()

    def allocate(self, nbytes: int) -> DeviceBuffer:
        return DeviceBuffer(nbytes)

    def allocate_host(self, nbytes: int) -> PinnedBuffer:
        return PinnedBuffer(nbytes)

    def upload(self, target: int, source: NDArray[Any]) -> None:
        upload(target, source, source.nbytes, self.stream)

    def fill_zero(self, target: int, nbytes: int) -> None:
        fill_zero(target, nbytes, self.stream)

    def synchronize(self) -> None:
        self.device.synchronize(self.stream)


class DefaultStreamMemory(CudaMemory):
    """The same with the stream on which PyTorch runs, unless it is asked for another."""

    @property
    def stream(self) -> int:
        return 0
