"""ONNX Runtime sessions on a CUDA device: opened without any fallback to the CPU, and run on one stream."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from tta_server.backends.base import Outputs, RunOptions, Tensor
from tta_server.backends.cuda.device_memory import DeviceArray, Memory
from tta_server.backends.onnxruntime import open_file

log = logging.getLogger(__name__)

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
NO_GRAPH = -1
"""The id of a run outside any CUDA graph."""


class ModelFile(NamedTuple):
    """A path, or a file's content, and whether convolutions are to run with channels last."""

    source: bytes | Path
    channels_last: bool = False


def provider_options(memory: Memory, file: ModelFile, options: RunOptions, captures: bool) -> dict[str, str]:
    """Options of the CUDA provider.

    The heuristic search ends at the times of the exhaustive one; the default's are several times longer. TF32 is ONNX
    Runtime's default, and keeps 10 bits of a product's factors. In float16 channels last are faster without groups, and
    slower with them. The step `convolutions` of benchmarks/devices.py measures all of these.
    """
    found = {
        "device_id": str(memory.index),
        "user_compute_stream": str(memory.stream),
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": str(int(options.precision == "tf32")),
        "prefer_nhwc": str(int(file.channels_last)),
        "enable_cuda_graph": str(int(captures)),
    }
    if options.memory_mb is not None:
        found["gpu_mem_limit"] = str(options.memory_mb * 1_000_000)
    return found


def open_session(
    file: ModelFile, memory: Memory, options: RunOptions, captures: bool = False, strict: bool = False
) -> ort.InferenceSession:
    """Open a file on the device; `captures`: its runs become CUDA graphs.

    With `strict` no node may run on the CPU. Raises ONNX Runtime's errors, and RuntimeError if the session is not on
    the device.
    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    provider = PROVIDERS[memory.kind]
    given: list[Any] = [provider]
    if memory.kind == "cuda":
        given = [(provider, provider_options(memory, file, options, captures))]
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if strict:
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if isinstance(file.source, Path):
        session = open_file(file.source, settings, given)
    else:
        session = ort.InferenceSession(file.source, settings, providers=given, enable_fallback=False)
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"the session runs on {session.get_providers()[0]}")
    return session


def nodes_elsewhere(session: ort.InferenceSession) -> Mapping[str, int]:
    """The number of nodes by provider, of all but the session's first; empty where ONNX Runtime does not say."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    first, found = session.get_providers()[0], dict[str, int]()
    try:
        for part in session.get_provider_graph_assignment_info():
            if part.ep_name != first:
                found[part.ep_name] = found.get(part.ep_name, 0) + len(part.get_nodes())
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's own exceptions share no public base
        log.debug("no assignment of nodes: %r", error)
    return found


def run_options(graph: int = NO_GRAPH, waits: bool = True) -> ort.RunOptions:
    """Options of a run, part of the CUDA graph with that id; unless it `waits`, later work on the stream follows it."""
    options = ort.RunOptions()
    options.log_severity_level = 4  # the exception has the message
    options.add_run_config_entry("gpu_graph_id", str(graph))
    if not waits:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


class NotRecorded(Exception):
    """A run that works could not be recorded as a CUDA graph; the cause says why."""


class Rung:
    """A session bound to memory for inputs of one shape; each run is a replay of a CUDA graph if `graph` is its id.

    Outputs of a graph stay where they are; others are valid until the next run.
    """

    def __init__(self, session: ort.InferenceSession, memory: Memory, like: DeviceArray, graph: int = NO_GRAPH) -> None:
        """Bind `like` as the input, and run once, which tells the shapes of those outputs that are tensors.

        Raises NotRecorded, and ONNX Runtime's errors if the model can't run an input of this shape.
        """
        self.input = like
        self._graph = graph
        self._session = session
        self._memory = memory
        self._binding = session.io_binding()
        self._names = [output.name for output in session.get_outputs() if output.type.startswith("tensor(")]
        name = session.get_inputs()[0].name
        self._binding.bind_input(name, memory.kind, memory.index, like.dtype.type, like.shape, like.pointer)
        for output in self._names:
            self._binding.bind_output(output, memory.kind, memory.index)
        self._options = run_options()
        self.run()
        if graph != NO_GRAPH:
            self._values = self._binding.get_outputs()
            for output, value in zip(self._names, self._values, strict=True):
                self._binding.bind_ortvalue_output(output, value)
            self._options = run_options(graph, waits=False)
            try:
                self.run()
            except Exception as error:
                raise NotRecorded from error
        else:
            self._options = run_options(waits=False)

    @property
    def options(self) -> ort.RunOptions:
        """Of its runs; `terminate` ends one."""
        return self._options

    def run(self) -> None:
        """Begin a run; the memory's stream says when it is done."""
        self._session.run_with_iobinding(self._binding, self._options)
        self._values = self._binding.get_outputs()

    def outputs(self) -> Mapping[str, DeviceArray]:
        """Where the outputs of the last run are."""
        return {
            name: DeviceArray(value.data_ptr(), tuple(value.shape()), np.dtype(DTYPES[value.data_type()]))
            for name, value in zip(self._names, self._values, strict=True)
        }

    def release(self) -> None:
        """Give up the CUDA graph and the outputs; the run must be done."""
        if self._graph != NO_GRAPH and hasattr(self._session, "release_captured_graph"):
            self._session.release_captured_graph(self._graph)
        self._values = []

    def fetch(self) -> Outputs:
        """Copy all outputs of the last run to this process's memory, and wait for them."""
        self._memory.synchronize()
        return {name: _copied(value) for name, value in zip(self._names, self._values, strict=True)}


def _copied(value: ort.OrtValue) -> Tensor:
    """An array that the next run does not overwrite."""
    found: Tensor = value.numpy()
    return found if found.flags.owndata else found.copy()


DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class DeviceGraph:
    """A graph made here: takes one array of the device and others of this process, gives arrays of this process."""

    def __init__(self, content: bytes, memory: Memory) -> None:
        """No node may run on the CPU, and products are exact, whatever the model's precision."""
        self._session = open_session(ModelFile(content), memory, RunOptions(), strict=True)
        self._memory = memory
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, name: str, array: DeviceArray, inputs: Mapping[str, Tensor]) -> Outputs:
        """Run after what has begun on the stream, and wait; `array` is the input `name`."""
        memory, binding = self._memory, self._session.io_binding()
        binding.bind_input(name, memory.kind, memory.index, array.dtype.type, array.shape, array.pointer)
        for other, value in inputs.items():
            binding.bind_cpu_input(other, np.ascontiguousarray(value))
        for output in self._outputs:
            binding.bind_output(output)
        self._session.run_with_iobinding(binding, run_options())
        return dict(zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True))
