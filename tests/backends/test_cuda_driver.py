"""The layer over libcuda: what it says where there is no device, and that memory, streams and errors are right."""

import subprocess
import sys
from threading import Thread

import numpy as np
import pytest

from tests.support.cuda import stub_driver, stub_library  # noqa: F401 - fixtures
from tta_server.backends.cuda import libcuda
from tta_server.backends.cuda.driver import (
    DeviceBuffer,
    Module,
    PinnedBuffer,
    Stream,
    count_devices,
    download,
    fill_zero,
    launch,
    open_device,
    upload,
)
from tta_server.errors import BackendFailed, ConfigError, DeviceLost, OutOfDeviceMemory

stubbed = pytest.mark.usefixtures("stub_driver")


def test_importing_the_layer_loads_no_library():
    script = "import ctypes, numpy; ctypes.CDLL = None; import tta_server.backends.cuda.view_kernel"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_a_driver_there_are_no_devices(monkeypatch):
    monkeypatch.setattr(libcuda, "LIBRARY", "libcuda-missing.so.1")
    assert count_devices() == 0
    with pytest.raises(ConfigError) as refused:
        open_device(0)
    text = str(refused.value)
    assert text.startswith("device cuda:0: there is no NVIDIA driver (libcuda-missing.so.1: cannot open")
    assert text.endswith("; install the driver, or set backend.device: cpu")


def test_a_library_that_is_no_driver_is_refused(monkeypatch):
    monkeypatch.setattr(libcuda, "LIBRARY", "libm.so.6")
    assert count_devices() == 0
    with pytest.raises(ConfigError, match="the NVIDIA driver is too old: it has no cuInit; install"):
        open_device(0)


@stubbed
@pytest.mark.parametrize("function", ["cuInit", "cuDeviceGetCount"])
def test_a_driver_that_fails_has_no_devices(monkeypatch, function):
    monkeypatch.setenv("CUDA_STUB_FAIL", f"{function} 100")
    assert count_devices() == 0
    with pytest.raises(ConfigError) as refused:
        open_device(0)
    assert str(refused.value) == (
        f"device cuda:0: the NVIDIA driver can't use it ({function}: CUDA_ERROR_STUB: as the test wants); see what "
        "nvidia-smi says, or set backend.device: cpu"
    )


@stubbed
@pytest.mark.parametrize(
    ("count", "index", "there"),
    [
        (0, 0, "there are no CUDA devices"),
        (1, 1, "there is 1 CUDA device, cuda:0"),
        (2, 7, "there are 2 CUDA devices, cuda:0 to cuda:1"),
        (2, -1, "there are 2 CUDA devices, cuda:0 to cuda:1"),
    ],
)
def test_a_device_that_is_not_there_is_named_with_those_that_are(monkeypatch, count, index, there):
    monkeypatch.setenv("CUDA_STUB_DEVICES", str(count))
    assert count_devices() == count
    with pytest.raises(ConfigError) as refused:
        open_device(index)
    assert str(refused.value) == f"device cuda:{index} is not there: {there}; set backend.device to one, or to cpu"


@stubbed
def test_a_device_states_name_memory_and_capability(monkeypatch):
    monkeypatch.setenv("CUDA_STUB_DEVICES", "2")
    device = open_device(1)
    assert (device.index, device.name, device.memory_bytes, device.capability) == (1, "Stub 1", 8 << 30, (9, 0))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1, BackendFailed),  # INVALID_VALUE
        (2, OutOfDeviceMemory),
        (4, DeviceLost),  # DEINITIALIZED
        (201, BackendFailed),  # INVALID_CONTEXT
        (214, DeviceLost),  # ECC_UNCORRECTABLE
        (400, BackendFailed),  # INVALID_HANDLE
        (600, BackendFailed),  # NOT_READY
        (700, DeviceLost),  # ILLEGAL_ADDRESS
        (701, BackendFailed),  # LAUNCH_OUT_OF_RESOURCES
        (702, DeviceLost),  # LAUNCH_TIMEOUT
        (715, DeviceLost),  # ILLEGAL_INSTRUCTION
        (719, DeviceLost),  # LAUNCH_FAILED
        (900, BackendFailed),  # STREAM_CAPTURE_UNSUPPORTED
        (999, DeviceLost),  # UNKNOWN
    ],
)
def test_errors_of_the_driver_are_ours(monkeypatch, stub_driver, code, kind):  # noqa: F811
    open_device(0).activate()
    monkeypatch.setenv("CUDA_STUB_FAIL", f"cuMemAlloc_v2 {code}")
    with pytest.raises(BackendFailed) as failed:
        DeviceBuffer(100)
    assert type(failed.value) is kind
    assert isinstance(failed.value.__cause__, libcuda.CudaError)
    assert failed.value.__cause__.code == code
    assert str(failed.value.__cause__).startswith("cuMemAlloc_v2: CUDA_ERROR_")
    assert "CUDA_ERROR" not in str(failed.value)


@stubbed
def test_memory_of_the_host_that_is_short_is_not_called_the_devices(monkeypatch):
    open_device(0).activate()
    monkeypatch.setenv("CUDA_STUB_FAIL", "cuMemHostAlloc 2")
    with pytest.raises(OutOfDeviceMemory, match="not enough free memory that the device can copy from"):
        PinnedBuffer(100)
    with pytest.raises(OutOfDeviceMemory, match="the device has not enough free memory"):
        DeviceBuffer(16 << 30)


@stubbed
def test_bytes_go_to_the_device_and_back():
    device = open_device(0)
    device.activate()
    free = device.free_bytes()
    stream, memory, pinned = Stream(), DeviceBuffer(1000), PinnedBuffer(1000)
    assert device.free_bytes() == free - 1000
    sent = np.arange(1000).astype(np.uint8)
    pinned.array[:] = sent
    upload(memory.pointer, pinned.pointer, 1000, stream.handle)
    fill_zero(memory.pointer + 900, 100, stream.handle)
    found = np.empty(1000, np.uint8)
    download(found, memory.pointer, 1000, stream.handle)
    device.synchronize(stream.handle)
    np.testing.assert_array_equal(found, np.concatenate([sent[:900], np.zeros(100, np.uint8)]))
    for part in (memory, pinned):
        part.free()
        part.free()
        assert part.pointer == 0
    stream.close()
    assert device.free_bytes() == free


@stubbed
def test_empty_buffers_and_copies_are_allowed():
    open_device(0).activate()
    memory, pinned = DeviceBuffer(0), PinnedBuffer(0)
    assert memory.pointer
    assert pinned.array.shape == (0,)
    fill_zero(memory.pointer, 0, 0)
    upload(memory.pointer, pinned.array, 0, 0)


@stubbed
def test_memory_is_given_back_on_any_thread_and_a_lost_device_does_not_stop_that(monkeypatch):
    device = open_device(0)
    device.activate()
    free, memory, other = device.free_bytes(), DeviceBuffer(1000), DeviceBuffer(1000)
    thread = Thread(target=memory.free)
    thread.start()
    thread.join()
    assert device.free_bytes() == free - 1000
    monkeypatch.setenv("CUDA_STUB_FAIL", "cuMemFree_v2 700")
    other.free()
    assert other.pointer == 0


@stubbed
@pytest.mark.parametrize("array", [np.zeros(9, np.uint8), np.zeros((20, 20), np.uint8).T])
def test_arrays_that_are_too_small_or_not_contiguous_are_refused(array):
    open_device(0).activate()
    memory = DeviceBuffer(10)
    with pytest.raises(ValueError, match="10 bytes can't be copied"):
        upload(memory.pointer, array[..., ::2] if array.ndim == 2 else array, 10, 0)


@stubbed
def test_a_driver_that_can_not_compile_a_kernel_is_named(monkeypatch):
    open_device(0).activate()
    monkeypatch.setenv("CUDA_STUB_FAIL", "cuModuleLoadDataEx 222")
    with pytest.raises(
        ConfigError, match=r"can't compile the kernel that makes views \(cuModule.*\); update the driver"
    ):
        Module(b"")
    monkeypatch.setenv("CUDA_STUB_FAIL", "cuModuleLoadDataEx 2")
    with pytest.raises(OutOfDeviceMemory):
        Module(b"")


@stubbed
def test_numbers_that_are_no_int_of_a_kernel_are_refused():
    open_device(0).activate()
    with pytest.raises(ValueError, match="4294967296 does not fit a kernel's int"):
        launch(Module(b"").function("views_uint8_1"), (1, 1, 1), (1, 1, 1), [1 << 32], 0)
