"""Runs of a module whose input is on its device already, and stays there."""

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from tta_server.backends.base import CPU, Outputs, Tensor
from tta_server.errors import BackendFailed, DeviceLost, OutOfDeviceMemory

log = logging.getLogger(__name__)

MOST_SHAPES = 32
"""Shapes that are compiled and recorded; others run operator by operator."""
WARM_UPS = 3
"""Runs before a recording: compiled code and the choice of algorithms are made in them."""
Tensors = Mapping[str, torch.Tensor]


class DeviceRuns:
    """Runs one module, a batch at a time: fill a `buffer`, `run` it, take its outputs `to_host`.

    On a CUDA device all three enqueue work on the calling thread's current stream. The first run of a shape compiles
    the module for it and records a CUDA graph; later ones replay that. Buffers and outputs of a shape are the same
    tensors in each run: hold `lock` from filling a buffer until `to_host` has returned.
    """

    def __init__(self, module: Any, device: str, names: Sequence[str], dtype: torch.dtype, precision: str) -> None:
        self.lock = threading.RLock()
        self._device = torch.device(device)
        self._module, self._names, self._dtype, self._precision = module, names, dtype, precision
        self._on_cuda = self._device.type == "cuda"
        self._buffers: dict[tuple[int, ...], torch.Tensor] = {}
        self._pinned: dict[tuple[int, ...], torch.Tensor] = {}
        self._graphs: dict[tuple[int, ...], tuple[Any, Tensors]] = {}
        self._failed: set[str] = set()
        self._format = torch.contiguous_format
        self._pool: Any = None
        self._stream: Any = None
        self._compiled: Any = None
        if self._on_cuda:
            if _may_be_channels_last(module):
                self._format = torch.channels_last
                module.to(memory_format=torch.channels_last)
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(self._device)
            self._compiled = self._compile()

    def buffer(self, shape: Sequence[int]) -> torch.Tensor:
        """The contiguous input of this shape on the device; its `data_ptr()` is where to write it."""
        key = tuple(shape)
        if key not in self._buffers and len(self._buffers) >= 2 * MOST_SHAPES:
            oldest = next((each for each in self._buffers if each not in self._graphs), key)
            self._buffers.pop(oldest, None)
            self._pinned.pop(oldest, None)
        if key not in self._buffers:
            with device_errors(self._device):
                self._buffers[key] = torch.zeros(key, dtype=self._dtype, device=self._device)
        return self._buffers[key]

    def upload(self, batch: Tensor) -> torch.Tensor:
        """Copy a batch into its buffer, through pinned memory; return the buffer."""
        buffer = self.buffer(batch.shape)
        with device_errors(self._device):
            if batch.shape not in self._pinned:
                self._pinned[batch.shape] = torch.empty(batch.shape, dtype=self._dtype, pin_memory=self._on_cuda)
            pinned = self._pinned[batch.shape]
            pinned.numpy()[...] = batch
            buffer.copy_(pinned, non_blocking=True)
        return buffer

    def run(self, buffer: torch.Tensor) -> Tensors:
        """The outputs on the device; on CUDA they are valid until the next run."""
        key = tuple(buffer.shape)
        with device_errors(self._device), torch.no_grad(), self._current():
            if key in self._graphs:
                graph, outputs = self._graphs[key]
                graph.replay()
                return outputs
            if not self._on_cuda or "record" in self._failed or len(self._graphs) >= MOST_SHAPES:
                return self._call(self._module, buffer)
            with _SETTINGS:
                return self._record(key, buffer)

    def to_host(self, outputs: Tensors) -> Outputs:
        """Copy outputs to new arrays, when the work enqueued before is done."""
        with device_errors(self._device):
            if not self._on_cuda:
                return {name: value.contiguous().numpy() for name, value in outputs.items()}
            copies = {
                name: torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for name, value in outputs.items()
            }
            for name, value in outputs.items():
                copies[name].copy_(value, non_blocking=True)
            torch.cuda.current_stream(self._device).synchronize()
            return {name: copy.numpy() for name, copy in copies.items()}

    def close(self) -> None:
        """Release the memory on the device; no run may be active."""
        for held in (self._graphs, self._buffers, self._pinned):
            held.clear()
        self._module = self._compiled = None
        if self._on_cuda:
            torch.cuda.empty_cache()

    def _record(self, key: tuple[int, ...], buffer: torch.Tensor) -> Tensors:
        """Compile the module for a shape, record its run, and run it."""
        given = buffer.clone()  # a module may write into its input
        module, current = self._warm_up(buffer), torch.cuda.current_stream(self._device)
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                outputs = self._call(module, buffer)
        except RuntimeError as error:
            torch.cuda.set_stream(current)  # a recording that fails leaves its own
            _check_alive(self._device, error)
            self._give_up("record", "CUDA graphs can't record this model; it runs operator by operator", error)
            return self._call(self._module, buffer.copy_(given))
        self._graphs[key] = graph, outputs
        buffer.copy_(given)
        graph.replay()
        return outputs

    def _warm_up(self, buffer: torch.Tensor) -> Any:
        """Run the module some times on the stream of the recording; return what ran, compiled or not."""
        current, side = torch.cuda.current_stream(self._device), self._stream
        side.wait_stream(current)
        module = self._module if "compile" in self._failed else self._compiled
        with torch.cuda.stream(side):
            try:
                self._call(module, buffer)
            except Exception as error:  # what compiles is a compiler: it may fail in any way
                if module is self._module:
                    raise
                _check_alive(self._device, error)
                module = self._module
                self._call(module, buffer)  # raises where it is the image that does not fit
                self._give_up("compile", "torch.compile can't compile this model; it runs as it was exported", error)
            for _ in range(WARM_UPS):
                self._call(module, buffer)
        current.wait_stream(side)
        return module

    def _call(self, module: Any, buffer: torch.Tensor) -> Tensors:
        with self._rounding():
            found = module(buffer.contiguous(memory_format=self._format))
            return named(found, self._names, self._precision == "fp16" and self._on_cuda)

    def _compile(self) -> Any:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(cache, "tta-server", "torch"))
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * MOST_SHAPES)
        return torch.compile(self._module)  # for the first shape, and then for any

    def _give_up(self, what: str, sentence: str, error: BaseException) -> None:
        self._failed.add(what)
        log.warning("%s: %s", sentence, (str(error).strip().splitlines() or [type(error).__name__])[0])
        log.debug("%s failed", what, exc_info=error)

    def _current(self) -> AbstractContextManager[Any]:
        return torch.cuda.device(self._device) if self._on_cuda else nullcontext()

    @contextmanager
    def _rounding(self) -> Iterator[None]:
        """Set how products are rounded while work is enqueued: torch has one setting for the process."""
        if not self._on_cuda:
            yield
            return
        allow = self._precision != "exact"
        with _SETTINGS:
            torch.set_float32_matmul_precision("high" if allow else "highest")
            fast = torch.autocast("cuda", torch.float16, enabled=self._precision == "fp16")
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=allow), fast:
                yield


_SETTINGS = threading.RLock()
"""Held while a model's settings of the process are in force, and while a graph is recorded: one at a time."""


def _may_be_channels_last(module: Any) -> bool:
    """Whether channels may lie innermost in memory: a view of an image as it was exported may need them outermost."""
    rigid = any("view" in str(node.target) or "as_strided" in str(node.target) for node in module.graph.nodes)
    return not rigid and all(weight.dim() < 5 for weight in module.state_dict().values())


def named(found: Any, names: Sequence[str], as_float: bool = False) -> Tensors:
    """What a module returned, as tensors by name; float32 where numpy has no such type, or `as_float` asks for it."""
    if isinstance(found, torch.Tensor):
        found = (found,)
    values = list(found.values()) if isinstance(found, Mapping) else list(found)
    halves = (torch.bfloat16, torch.float16) if as_float else (torch.bfloat16,)
    return {name: value.float() if value.dtype in halves else value for name, value in zip(names, values, strict=True)}


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Turn torch's errors into BackendFailed, OutOfDeviceMemory and DeviceLost."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfDeviceMemory("the device has no memory for this batch") from error
    except BackendFailed:
        raise
    except Exception as error:
        if device.type != CPU:
            _check_alive(device, error)
        raise BackendFailed("the model failed on this image") from error


def _check_alive(device: torch.device, error: BaseException) -> None:
    """Raise DeviceLost if the device does not work any more: errors like an illegal access stay."""
    if isinstance(error, torch.OutOfMemoryError):
        raise error
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as lost:
        raise DeviceLost("the device that runs this model does not work any more; restart the server") from lost
