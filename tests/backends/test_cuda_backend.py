"""ONNX Runtime on a device: the real path, with the driver's stub and ONNX Runtime's CPU provider."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from tests.support.cuda import stub_driver, stub_library  # noqa: F401 - fixtures
from tests.support.onnx_models import classifier, graph, segmenter
from tests.support.references import MODELS
from tests.support.stub_device import StubMemory, open_stub
from tta_server.backends import BACKENDS, CPU, RunOptions
from tta_server.backends.cuda import libcuda
from tta_server.backends.cuda.backend import CudaBackend
from tta_server.backends.cuda.driver import open_device
from tta_server.backends.cuda.errors import as_backend_error
from tta_server.backends.cuda.half import as_half
from tta_server.backends.cuda.requirements import FIRST, missing_for_auto, missing_package, require_cuda
from tta_server.backends.cuda.rungs import Rungs
from tta_server.backends.cuda.sessions import NO_GRAPH, Rung, open_session
from tta_server.backends.onnxruntime import OnnxRuntimeBackend
from tta_server.errors import BackendFailed, ConfigError, DeviceLost, OutOfDeviceMemory, Overloaded

CUDA = RunOptions(device=FIRST)
stubbed = pytest.mark.usefixtures("stub_driver")


def written(folder: Path, model) -> Path:
    save(model, folder / "model.onnx")
    return folder / "model.onnx"


def batch(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape, np.float32)


# ---- runs ----


@stubbed
def test_batches_of_all_sizes_in_any_order_are_run_as_on_the_cpu(tmp_path):
    path = written(tmp_path, segmenter())
    here, device = OnnxRuntimeBackend(path), open_stub(path, CUDA)
    for rows, side in [(1, 8), (8, 8), (2, 16), (1, 8), (8, 8), (4, 5), (2, 16)]:
        given = batch(rows, 3, side, side)
        np.testing.assert_array_equal(device.infer(given)["maps"], here.infer(given)["maps"])


@stubbed
def test_all_runs_are_on_one_thread_whoever_calls_and_it_ends_with_the_model(tmp_path):
    """Also what is done for a pipeline; an error is raised where it was called for."""
    seen = set()

    class Noting(StubMemory):
        def upload(self, target, source):
            seen.add(threading.current_thread())
            super().upload(target, source)

    path = written(tmp_path, classifier())
    device = CudaBackend(path, CUDA, Noting(open_device(0)), "stub")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda rows: device.infer(batch(rows, 3, 8, 8)), [1, 2, 4, 2, 1, 8]))
    device.thread.call(lambda: seen.add(threading.current_thread()))
    with pytest.raises(BackendFailed):
        device.infer(batch(2, 5, 8, 8))
    (own,) = seen
    assert own is not threading.current_thread()
    device.close()
    own.join(60)
    assert not own.is_alive()
    with pytest.raises(BackendFailed, match="has unloaded the model"):  # and does not wait for ever
        device.infer(batch(2, 3, 8, 8))


@stubbed
def test_the_arrays_of_a_run_are_not_overwritten_by_the_next(tmp_path):
    device = open_stub(written(tmp_path, classifier()), CUDA)
    first = device.infer(batch(2, 3, 8, 8))["scores"]
    before = first.copy()
    device.infer(np.zeros((2, 3, 8, 8), np.float32))
    np.testing.assert_array_equal(first, before)


@stubbed
@pytest.mark.parametrize(
    ("rows", "most", "ladder"),
    [
        ("n", 64, (1, 2, 4, 8, 16, 32, 64)),
        ("n", 24, (1, 2, 4, 8, 16, 24)),
        ("n", 1, (1,)),
        (4, 64, (4,)),
        (1, 64, (1,)),
    ],
)
def test_a_ladder_ends_at_max_batch_and_a_fixed_size_is_the_only_one(tmp_path, rows, most, ladder):
    path = written(tmp_path, classifier((rows, 3, 8, 8)))
    assert open_stub(path, RunOptions(device=FIRST, max_batch=most)).ladder == ladder


@stubbed
def test_fp16_computes_in_float16_and_keeps_its_inputs_and_outputs(tmp_path):
    path = MODELS / "cifar10" / "1" / "model.onnx"
    half, exact = open_stub(path, RunOptions(device=FIRST, precision="fp16")), OnnxRuntimeBackend(path)
    given = batch(2, 3, 32, 32)
    (found,), (expected,) = half.infer(given).values(), exact.infer(given).values()
    assert (half.signature, found.dtype) == (exact.signature, np.float32)
    assert 0 < np.abs(found - expected).max() < 0.02


@stubbed
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    for precision in ("exact", "fp16"):
        with pytest.raises(ConfigError, match=r"model\.onnx: .*(can't be loaded|can't load|can't be converted)"):
            open_stub(tmp_path / "model.onnx", RunOptions(device=FIRST, precision=precision))


@stubbed
def test_graphs_of_smaller_shapes_are_given_up_before_an_axis_grows(tmp_path):
    """Their buffers would be freed; shapes within the largest stay bound."""
    rungs = Rungs(written(tmp_path, segmenter()), StubMemory(open_device(0)), CUDA)
    assert rungs.captures
    large = rungs[8, 3, 16, 16]
    small = rungs[2, 3, 8, 16]
    assert rungs[8, 3, 16, 16] is large
    assert rungs[2, 3, 8, 16] is small
    grown = rungs[1, 3, 17, 8]
    assert rungs[2, 3, 8, 16] is not small
    assert rungs[1, 3, 17, 8] is grown
    assert rungs[8, 3, 16, 16] is not large


@stubbed
def test_a_model_without_graphs_has_a_session_for_each_batch_size(tmp_path, monkeypatch):
    """What can't be recorded is refused by ONNX Runtime when the session is opened."""

    def refusing(file, memory, options, captures=False, strict=False):
        if captures:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        return open_session(file, memory, options)

    monkeypatch.setattr("tta_server.backends.cuda.rungs.open_session", refusing)
    path = written(tmp_path, segmenter())
    device = open_stub(path, RunOptions(device=FIRST, max_batch=4))
    assert "a session for each batch size" in device.where
    path.write_bytes(b"changed after it was opened")
    for rows in (1, 2, 4, 2, 1):
        given = batch(rows, 3, 8, 8)
        np.testing.assert_array_equal(device.infer(given)["maps"], given)


@stubbed
def test_an_input_that_the_model_refuses_does_not_end_cuda_graphs(tmp_path):
    rungs = Rungs(written(tmp_path, segmenter()), StubMemory(open_device(0)), CUDA)
    known = rungs[2, 3, 16, 16]
    with pytest.raises(BackendFailed):
        rungs[1, 5, 8, 8]
    assert rungs.captures
    assert rungs[2, 3, 16, 16] is not known  # an axis has grown
    known = rungs[2, 3, 16, 16]
    with pytest.raises(BackendFailed):
        rungs[1, 4, 8, 8]
    assert rungs[2, 3, 16, 16] is known


@stubbed
def test_a_run_that_can_not_be_recorded_goes_on_without_cuda_graphs(tmp_path, monkeypatch, caplog):
    path = written(tmp_path, segmenter())
    rungs = Rungs(path, StubMemory(open_device(0)), CUDA)
    run = Rung.run

    def refuse(rung):
        if rung.options.get_run_config_entry("gpu_graph_id") != str(NO_GRAPH):
            raise RuntimeError("operation not permitted when stream is capturing")
        run(rung)

    monkeypatch.setattr(Rung, "run", refuse)
    rungs[2, 3, 8, 8].run()
    assert not rungs.captures
    assert "no CUDA graph can be made of a run (operation not permitted" in caplog.text


@stubbed
def test_no_memory_for_a_batch_is_told_apart_and_the_next_one_runs(tmp_path, monkeypatch):
    device = open_stub(written(tmp_path, classifier()), CUDA)
    monkeypatch.setenv("CUDA_STUB_FAIL", "cuMemAlloc_v2 2")
    with pytest.raises(OutOfDeviceMemory):
        device.infer(batch(2, 3, 8, 8))
    monkeypatch.delenv("CUDA_STUB_FAIL")
    assert device.infer(batch(2, 3, 8, 8))["scores"].shape == (2, 3)


@stubbed
def test_a_lost_device_is_told_apart(tmp_path, monkeypatch):
    device = open_stub(written(tmp_path, classifier()), CUDA)
    monkeypatch.setenv("CUDA_STUB_FAIL", "cuStreamSynchronize 700")
    with pytest.raises(DeviceLost):
        device.infer(batch(2, 3, 8, 8))


@stubbed
def test_closing_frees_all_memory_of_the_device(tmp_path):
    path, before = written(tmp_path, segmenter()), open_device(0).free_bytes()
    device = open_stub(path, CUDA)
    for rows in (1, 8, 2):
        device.infer(batch(rows, 3, 32, 32))
    assert open_device(0).free_bytes() < before
    free = set()
    for _ in range(2):  # what fails leaves nothing behind
        with pytest.raises(BackendFailed):
            device.infer(batch(2, 5, 64, 64))
        free.add(open_device(0).free_bytes())
    assert len(free) == 1
    device.close()
    assert open_device(0).free_bytes() == before


@pytest.mark.parametrize("groups", [1, 3])
def test_a_model_in_float16_says_whether_its_convolutions_have_groups(tmp_path, groups):
    kernels = numpy_helper.from_array(np.ones((3, 3 // groups, 1, 1), np.float32), "kernels")
    node = helper.make_node("Conv", ["image", "kernels"], ["maps"], group=groups)
    maps = helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["n", 3, "h", "w"])
    model = graph([node], ("n", 3, "h", "w"), "float32", [maps])
    model.graph.initializer.append(kernels)
    assert as_half(written(tmp_path, model)).has_groups == (groups > 1)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 1024",
            OutOfDeviceMemory,
        ),
        ("Available memory of 5 is smaller than requested bytes of 9", OutOfDeviceMemory),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfDeviceMemory),
        ("CUDNN failure 4002: CUDNN_STATUS_ALLOC_FAILED", OutOfDeviceMemory),
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceLost),
        ("CUDA failure 719: unspecified launch failure", DeviceLost),
        ("CUDA failure 1: invalid argument", BackendFailed),
        ("Got invalid dimensions for input", BackendFailed),
    ],
)
def test_onnx_runtimes_errors_are_told_apart(text, kind):
    assert type(as_backend_error(RuntimeError(text))) is kind


def test_our_own_errors_stay_as_they_are():
    error = Overloaded("later", 1.0)
    assert as_backend_error(error) is error


# ---- what is missing ----


def test_without_a_driver_a_device_is_refused_and_auto_is_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(libcuda, "LIBRARY", "libcuda-missing.so.1")
    path = written(tmp_path, classifier())
    with pytest.raises(ConfigError, match="device cuda:0: there is no NVIDIA driver"):
        BACKENDS["onnxruntime"](path, CUDA)
    found = BACKENDS["onnxruntime"](path, RunOptions(device="auto", precision="fp16"))
    assert (found.device, found.where) == (CPU, "backend.device is auto: cpu, for there is no CUDA device")
    assert found.infer(batch(1, 3, 8, 8))["scores"].shape == (1, 3)


@stubbed
def test_with_a_device_but_a_package_for_cpus_the_command_is_named(monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert missing_for_auto() == missing_package()
    with pytest.raises(ConfigError) as refused:
        require_cuda(0)
    assert str(refused.value).startswith("backend.device is cuda:0, but the installed onnxruntime ")
    assert (
        "runs on CPUs only: run `pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu["
        in str(refused.value)
    )


def test_both_packages_together_are_refused_with_the_commands(tmp_path):
    """What pip has on record decides: a package's metadata beside the other's."""
    record = tmp_path / "onnxruntime_gpu-1.31.1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n")
    script = "from tta_server.backends.cuda.requirements import missing_package as m; print(m())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (
        "and onnxruntime-gpu 1.31.1 are both installed and overwrite each other: run `pip uninstall -y" in done.stdout
    )
