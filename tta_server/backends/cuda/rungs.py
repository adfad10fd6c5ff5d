"""A model's sessions on a device, and its bound runs: one for each shape of a batch."""

import logging
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import onnxruntime as ort

from tta_server.backends.base import RunOptions, Signature
from tta_server.backends.cuda.device_memory import Buffer, DeviceArray, Memory
from tta_server.backends.cuda.errors import as_backend_error
from tta_server.backends.cuda.half import as_half
from tta_server.backends.cuda.sessions import NO_GRAPH, ModelFile, NotRecorded, Rung, nodes_elsewhere, open_session
from tta_server.backends.onnxruntime import read_signature
from tta_server.errors import ConfigError, DeviceLost, OutOfDeviceMemory

log = logging.getLogger(__name__)

LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
MOST_SHAPES = 64
"""Shapes that are bound at once; the one that was used least recently goes."""

Shape = tuple[int, ...]


class Rungs:
    """Bound runs by shape.

    All runs of one session become CUDA graphs, if the whole model runs on the device. Else each batch size has a
    session: the CUDA provider prepares each convolution again whenever a session's shape changes.
    """

    def __init__(self, path: Path, memory: Memory, options: RunOptions) -> None:
        """Open a model file. Raise ConfigError if it can't run on the device."""
        self._path = path
        self._file: ModelFile = ModelFile(path)
        if options.precision == "fp16":
            half = as_half(path)
            self._file = ModelFile(half.content, channels_last=not half.has_groups)
        self._memory = memory
        self._options = options
        self._found: dict[Shape, tuple[Rung, Buffer]] = {}
        self._graphs = 0
        self._largest: Shape = ()
        self._sessions: dict[int, ort.InferenceSession] = {}
        session = self._open_captured()
        self.captures = session is not None
        session = session or self._open()
        self.signature: Signature = read_signature(path, session)
        self.ladder: Sequence[int] = _ladder(self.signature, options.max_batch)
        self.elsewhere: Mapping[str, int] = nodes_elsewhere(session)
        self._sessions = dict.fromkeys(self.ladder, session) if self.captures else self._open_all(session)

    def _open_captured(self) -> ort.InferenceSession | None:
        """A session whose runs become graphs; None if some node can't run on the device."""
        try:
            return open_session(self._file, self._memory, self._options, captures=True)
        except Exception as error:  # noqa: BLE001 - said again if it was not for the graphs
            log.debug("%s: no CUDA graphs: %s", self._path, error)
            return None

    def _open(self) -> ort.InferenceSession:
        try:
            return open_session(self._file, self._memory, self._options)
        except ConfigError:
            raise
        except Exception as error:
            problem = as_backend_error(error)
            reason = problem if isinstance(problem, OutOfDeviceMemory) else str(error).splitlines()[0]
            raise ConfigError(f"{self._path}: the model can't be loaded on {self.device}: {reason}") from error

    def _open_all(self, first: ort.InferenceSession) -> dict[int, ort.InferenceSession]:
        """A session for each batch size, now: the file may change later."""
        return {rows: first if rows == self.ladder[0] else self._open() for rows in self.ladder}

    @property
    def device(self) -> str:
        """Its name in tta.yaml."""
        return f"{self._memory.kind}:{self._memory.index}"

    def __getitem__(self, shape: Shape) -> Rung:
        """The run for batches of that shape, bound on the first use. Raises BackendFailed."""
        if (known := self._found.pop(shape, None)) is None:
            if len(self._found) >= MOST_SHAPES:
                self._forget(next(iter(self._found)))
            known = self._bind(shape)
        self._found[shape] = known
        return known[0]

    def _bind(self, shape: Shape) -> tuple[Rung, Buffer]:
        self._grow(shape)
        dtype = self.signature.dtype
        buffer = self._memory.allocate(prod(shape) * dtype.itemsize)
        try:
            self._memory.fill_zero(buffer.pointer, buffer.nbytes)
            rows = next((size for size in self.ladder if size >= shape[0]), self.ladder[-1])
            array = DeviceArray(buffer.pointer, shape, dtype)
            return Rung(self._sessions[rows], self._memory, array, self._next_graph()), buffer
        except NotRecorded as error:
            buffer.free()
            problem = as_backend_error(error.__cause__ or error)
            if isinstance(problem, OutOfDeviceMemory | DeviceLost):
                raise problem from error
            log.warning("%s: no CUDA graph can be made of a run (%s); it runs without", self._path, error.__cause__)
        except Exception as error:
            buffer.free()
            raise as_backend_error(error) from error
        self._stop_capturing()
        return self._bind(shape)

    def _grow(self, shape: Shape) -> None:
        """Give up all CUDA graphs before a session sees an axis longer than any before.

        The CUDA provider keeps buffers as long as the longest axis so far (`GetConstOnes`), and frees shorter ones,
        which graphs of smaller shapes would go on reading. So bind the largest shapes first.
        """
        largest = tuple(max(pair) for pair in zip(shape, self._largest or shape, strict=True))
        if self.captures and largest != self._largest:
            for known in list(self._found):
                self._forget(known)
        self._largest = largest

    def _next_graph(self) -> int:
        if not self.captures:
            return NO_GRAPH
        self._graphs += 1
        return self._graphs

    def _stop_capturing(self) -> None:
        """Run without graphs from now on."""
        for shape in list(self._found):
            self._forget(shape)
        self.captures = False
        self._sessions = self._open_all(self._open())

    def _forget(self, shape: Shape) -> None:
        rung, buffer = self._found.pop(shape)
        self._memory.synchronize()
        rung.release()
        buffer.free()

    def close(self) -> None:
        """Free all memory; no run may be active."""
        for shape in list(self._found):
            self._forget(shape)
        self._sessions.clear()


def _ladder(signature: Signature, most: int) -> Sequence[int]:
    """Sizes of batches up to `most`; a file with a fixed number of rows has that one."""
    fixed = signature.shape[0]
    return (fixed,) if fixed is not None else (*(size for size in LADDER if size < most), most)
