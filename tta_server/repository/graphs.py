"""The graphs around a model on the CPU, ready to run."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tta_server.backends import Backend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.backends.graphs import GraphSession
from tta_server.compiled.front import front, front_inputs
from tta_server.compiled.graph import require_onnx
from tta_server.compiled.heat_tails import heat_tail
from tta_server.compiled.map_rows import all_exact, map_inputs
from tta_server.compiled.map_tails import map_tail
from tta_server.compiled.rows import FrontRow, front_table, stack_canvases
from tta_server.compiled.tails import tail
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.repository.pipeline import BatchOutputs, Planes, Rows, T
from tta_server.tasks.sums import SumSpec
from tta_server.views.geometry import Size


class TailKey(NamedTuple):
    """What a tail for these outputs depends on; `exact_only` is None for vectors."""

    spec: SumSpec
    classes: int
    dtype: np.dtype[Any]
    exact_only: bool | None = None

    def to_bytes(self) -> bytes:
        """Return the graph."""
        if self.exact_only is None:
            return tail(self.spec, self.classes, self.dtype)
        write = heat_tail if self.spec.mirror_order else map_tail
        return write(self.spec, self.classes, self.dtype, self.exact_only)


class GraphPipeline:
    """Makes a model's inputs from canvases by a graph, runs the model, and sums its outputs by other graphs."""

    def __init__(self, preprocessing: Preprocessing, backend: Backend, threads: int = 1) -> None:
        """Make the graphs; raise ConfigError without the `onnx` package. A run takes `threads` threads."""
        require_onnx()
        self._preprocessing = preprocessing
        self._backend = backend
        self._front = GraphSession(front(preprocessing), threads)
        self._tails = Tails(lambda key: GraphSession(key.to_bytes(), threads))

    def call(self, function: Callable[[], T]) -> T:
        """Call it here; see `Pipeline.call`."""
        return function()

    def prepare(self, planes: Planes, rows: Rows, tensor: Size) -> Tensor:
        """Return the model's input; see `Pipeline.prepare`."""
        found = {i: row for i, row in enumerate(rows) if row is not None}
        made = self.make_input(planes, list(found.values()), tensor) if found else None
        if made is not None and len(found) == len(rows):
            return made
        batch = self._preprocessing.empty(len(rows), tensor)
        batch.fill(0)
        if made is not None:
            batch[list(found)] = made
        return batch

    def make_input(self, planes: Planes, rows: Sequence[FrontRow], tensor: Size) -> Tensor:
        """Return the model's input of size `tensor` for views of these canvases (C, H, W), one row a view."""
        table = front_table(rows, self._preprocessing.channels)
        return self._front.run(front_inputs(stack_canvases(planes), table, tensor))["input"]

    def infer(self, prepared: Tensor, abort: Abort | None = None) -> BatchOutputs:
        """Run the model; see `Pipeline.infer`."""
        return HostOutputs(self._backend.infer(prepared, abort), self._tails)


class Tails:
    """Tails by what they depend on, each made on its first use. Thread-safe."""

    def __init__(self, make: Callable[[TailKey], Any]) -> None:
        self._make = make
        self._found: dict[TailKey, Any] = {}
        self._lock = threading.Lock()

    def __getitem__(self, key: TailKey) -> Any:
        with self._lock:
            if key not in self._found:
                self._found[key] = self._make(key)
            return self._found[key]


class HostOutputs:
    """Outputs in this process's memory."""

    def __init__(self, outputs: Outputs, tails: Tails) -> None:
        self._outputs = outputs
        self._tails = tails

    def shape(self, output: str) -> tuple[int, ...]:
        return self._outputs[output].shape

    def fetch(self) -> Outputs:
        return self._outputs

    def sum_vectors(
        self, spec: SumSpec, rows: Sequence[int], weight: NDArray[np.float64], owner: NDArray[np.intp]
    ) -> Outputs:
        z = self._rows(spec, rows)
        z = z.reshape(len(z), -1)
        graph = self._tails[TailKey(spec, z.shape[1], z.dtype)]
        inputs = {"z": z, "weight": weight.astype(spec.dtype), "owner": owner_matrix(owner, spec.dtype)}
        found: Outputs = graph.run(inputs)
        return found

    def sum_maps(
        self, spec: SumSpec, rows: Sequence[int], table: NDArray[np.float32], owner: NDArray[np.intp], cells: Size
    ) -> Outputs:
        z = self._rows(spec, rows)
        graph = self._tails[TailKey(spec, z.shape[1], z.dtype, all_exact(table))]
        inputs = map_inputs(z, table, owner_matrix(owner, spec.dtype), cells, bool(spec.mirror_order))
        return shaped_maps(graph.run(inputs), z.shape[1], cells)

    def _rows(self, spec: SumSpec, rows: Sequence[int]) -> Tensor:
        z = self._outputs[spec.output]
        return z if len(rows) == len(z) else z[list(rows)]


def owner_matrix(owner: NDArray[np.intp], dtype: str) -> Tensor:
    """Return (N, B): 1 where row b is of image n, else 0; an owner of -1 is no image."""
    matrix: Tensor = (owner == np.arange(owner.max() + 1)[:, None]).astype(dtype)
    return matrix


def shaped_maps(found: Outputs, classes: int, cells: Size) -> Outputs:
    """Return what a tail for maps gives with axes for its cells."""
    shape = (-1, classes, cells.height, cells.width)
    return {
        **found,
        "total": found["total"].reshape(shape),
        "weights": found["weights"].reshape(-1, *shape[2:]),
    }
