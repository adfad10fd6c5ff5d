"""A model alone: a session of ONNX Runtime without the server, whose tensors stay where it runs."""

import contextlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.device_steps.nets import CLASSES, SIDE
from benchmarks.device_steps.setting import Setting

CUDA = "CUDAExecutionProvider"
DTYPES = {"fp32": np.float32, "fp16": np.float16}


def session(setting: Setting, net: str, precision: str, graphs: bool = False, **provider: str) -> Any:
    """A session of a net's bare file; on the CPU it takes one thread.

    `graphs`: a run is captured once for each batch size, and replayed, which takes all nodes to be on the device.
    `provider` are further options of the CUDA provider.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    path = setting.bare_file(net, precision)
    if not setting.is_cuda:
        options.intra_op_num_threads = 1
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    _load_libraries()
    return _cuda_session(path, options, {"enable_cuda_graph": str(int(graphs)), **provider})


def _cuda_session(path: Path, options: Any, stated: dict[str, str]) -> Any:
    """Without Python's own fallback; raises RuntimeError where the provider is another all the same."""
    provider = {
        "device_id": "0",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        **stated,
    }
    made = ort.InferenceSession(str(path), options, providers=[(CUDA, provider)], enable_fallback=0)
    if made.get_providers()[0] != CUDA:
        raise RuntimeError(f"{path.name} runs on {made.get_providers()[0]}, not on {CUDA}")
    return made


def _load_libraries() -> None:
    """CUDA's libraries from the packages that bring them, as the server does."""
    with contextlib.redirect_stdout(sys.stderr):
        ort.preload_dlls(directory="")


def nodes_by_provider(made: Any) -> dict[str, int]:
    """How many nodes of a session run where; empty where this version of ONNX Runtime does not say."""
    found: dict[str, int] = {}
    if not hasattr(made, "get_provider_graph_assignment_info"):
        return found
    for part in made.get_provider_graph_assignment_info():
        found[part.ep_name] = found.get(part.ep_name, 0) + len(part.get_nodes())
    return found


def bound(setting: Setting, made: Any, rows: int, precision: str, graphs: bool = False) -> Callable[[], object]:
    """An action that runs a batch of this size, whose tensors are on the device, and waits for its end."""
    device, dtype = setting.device, DTYPES[precision]
    batch = np.random.default_rng(rows).standard_normal((rows, 3, SIDE, SIDE)).astype(dtype)
    binding, options = made.io_binding(), ort.RunOptions()
    tensor = ort.OrtValue.ortvalue_from_numpy(batch, device, 0)
    result = ort.OrtValue.ortvalue_from_shape_and_type([rows, CLASSES], dtype, device, 0)
    binding.bind_ortvalue_input(made.get_inputs()[0].name, tensor)
    binding.bind_ortvalue_output(made.get_outputs()[0].name, result)
    options.add_run_config_entry("gpu_graph_id", str(rows) if graphs else "-1")

    def action(kept: object = (tensor, result)) -> None:
        made.run_with_iobinding(binding, options)

    return action


def fastest(setting: Setting, net: str, rungs: Iterable[int]) -> dict[int, Callable[[], object]]:
    """An action for each batch size, in the device's fastest precision, as CUDA graphs; the largest is made first."""
    precision = setting.file_precision
    made = session(setting, net, precision, graphs=setting.is_cuda)
    actions = {rows: bound(setting, made, rows, precision, setting.is_cuda) for rows in sorted(rungs, reverse=True)}
    for action in actions.values():
        action()
    return actions
