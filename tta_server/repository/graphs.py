"""The graphs around a model, ready to run."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.backends import Outputs, Tensor
from tta_server.backends.graphs import GraphSession
from tta_server.compiled.front import front, front_inputs
from tta_server.compiled.graph import require_onnx
from tta_server.compiled.map_rows import all_exact, map_inputs
from tta_server.compiled.map_tails import map_tail
from tta_server.compiled.rows import FrontRow, front_table, stack_canvases
from tta_server.compiled.tails import tail
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.tasks.sums import SumSpec
from tta_server.views.geometry import Size


class ViewGraphs:
    """Makes a model's inputs from canvases, and sums its outputs. Thread-safe."""

    def __init__(self, preprocessing: Preprocessing, threads: int = 1) -> None:
        """Make the graphs; raise ConfigError without the `onnx` package. A run takes `threads` threads."""
        require_onnx()
        self._channels = preprocessing.channels
        self._threads = threads
        self._front = GraphSession(front(preprocessing), threads)
        self._tails: dict[tuple[Any, ...], GraphSession] = {}
        self._lock = threading.Lock()

    def make_input(self, canvases: Sequence[NDArray[np.uint8]], rows: Sequence[FrontRow], tensor: Size) -> Tensor:
        """Return the model's input of size `tensor` for views of these canvases (C, H, W), one row a view."""
        table = front_table(rows, self._channels)
        return self._front.run(front_inputs(stack_canvases(canvases), table, tensor))["input"]

    def sum_vectors(self, spec: SumSpec, z: Tensor, weight: NDArray[np.float64], owner: NDArray[np.intp]) -> Outputs:
        """Return `total` (N, C), `weights` (N, 1 or C) and `sound` (B,) for outputs `z` (B, C).

        `weight` (B, 1 or C) are the weights of the views, `owner` (B,) the number of each one's image.
        """
        inputs = {"z": z, "weight": weight.astype(spec.dtype), "owner": owner_matrix(owner, spec.dtype)}
        return self._tail((spec, z.shape[1], z.dtype), tail).run(inputs)

    def sum_maps(
        self, spec: SumSpec, z: Tensor, table: NDArray[np.float32], owner: NDArray[np.intp], cells: Size
    ) -> Outputs:
        """Return `total` (N, C, H, W), `weights` (N, H, W) and `sound` (B,) for maps `z` (B, C, h, w).

        `table` is that of `map_rows`; W and H are the columns and rows in `cells`.
        """
        graph = self._tail((spec, z.shape[1], z.dtype, all_exact(table)), map_tail)
        found = graph.run(map_inputs(z, table, owner_matrix(owner, spec.dtype), cells))
        shape = (-1, z.shape[1], cells.height, cells.width)
        return {
            "total": found["total"].reshape(shape),
            "weights": found["weights"].reshape(-1, *shape[2:]),
            "sound": found["sound"],
        }

    def _tail(self, key: tuple[Any, ...], make: Callable[..., bytes]) -> GraphSession:
        """Return the graph that `make` makes of `key`, made on the first call."""
        with self._lock:
            if key not in self._tails:
                self._tails[key] = GraphSession(make(*key), self._threads)
            return self._tails[key]


def owner_matrix(owner: NDArray[np.intp], dtype: str) -> Tensor:
    """Return (N, B): 1 where row b is of image n, else 0."""
    matrix: Tensor = (owner == np.arange(owner.max() + 1)[:, None]).astype(dtype)
    return matrix
