"""The graph that moves a model's score maps back onto the plain views' grids, and sums them by image."""

import numpy as np
from numpy.typing import DTypeLike

from tta_server.compiled.graph import Graph, Value
from tta_server.compiled.map_rows import MAP_WIDTH, MapColumn
from tta_server.compiled.sampling import Table, apply_affine, sample
from tta_server.compiled.scores import SCORES, Output, unsound_rows
from tta_server.tasks.sums import SumSpec


def map_tail(spec: SumSpec, classes: int, dtype: DTypeLike, exact_only: bool) -> bytes:
    """Return the graph that sums maps of `classes`; `dtype` is the type of the model's output. No heat maps.

    Inputs, float32 but for `z`: `z` (B, C, h, w), the model's output; `rows` (B, MAP_WIDTH) as `map_rows.map_table`
    makes it; `owner` (N, B), 1 where the row belongs to the image, else 0; `map_size` (w, h); `x` (W,), `y` (H,): 0.5,
    1.5, ... for the columns and rows of the plain grid. Outputs: `total` (N, C H W) and `weights` (N, H W), the sums of
    weighted scores and of weighted coverages over an image's sound rows, and `sound` (B,). A graph for `exact_only`
    takes rows without interpolation, and is half the work.
    """
    return MapTail(spec, classes, dtype).to_bytes(exact_only)


class MapTail:
    """Writes the graph."""

    def __init__(self, spec: SumSpec, classes: int, dtype: DTypeLike) -> None:
        self._spec, self._classes = spec, classes
        self._graph = graph = Graph("map_tail")
        self._z = graph.cast(graph.input("z", dtype, ["B", classes, "h", "w"]), np.float32)
        self._table = Table(graph, "rows", MAP_WIDTH)
        self._owner = graph.input("owner", "float32", ["N", "B"])
        size = graph.input("map_size", "float32", [2])
        self._size = graph.take(size, 0, 0), graph.take(size, 1, 0)
        self._x = graph.reshape(graph.input("x", "float32", ["W"]), 1, 1, -1)
        self._y = graph.reshape(graph.input("y", "float32", ["H"]), 1, -1, 1)

    def to_bytes(self, exact_only: bool) -> bytes:
        graph, spec = self._graph, self._spec
        moved = self._moved(self._z, exact_only)
        unsound = unsound_rows(graph, Output(moved, self._classes, 4), spec)
        output = Output(graph.where(graph.reshape(unsound, -1, 1, 1, 1), 0.0, moved), self._classes, 4)
        self._write_sums(SCORES[spec.score](graph, output, spec), unsound)
        return graph.to_bytes()

    def _write_sums(self, scores: Value, unsound: Value) -> None:
        """Make the outputs of scores on the plain grid (B, C, H, W), finite; `unsound` rows (B,) don't count."""
        graph = self._graph
        out = graph.reshape(unsound, -1, 1, 1, 1)
        weight = graph.where(out, 0.0, graph.unsqueeze(self._coverage() * self._table[MapColumn.WEIGHT], 1))
        graph.output("total", self._summed(graph.where(weight > 0.0, scores * weight, 0.0)), "float32", ["N", "CHW"])
        graph.output("weights", self._summed(weight), "float32", ["N", "HW"])
        graph.output("sound", graph.add("Not", unsound), "bool", ["B"])

    def _moved(self, maps: Value, exact_only: bool) -> Value:
        """Return the maps on the plain grid (B, C, H, W); beyond what may be read, the nearest cell counts."""
        graph, table = self._graph, self._table
        found = apply_affine(table, MapColumn.MATRIX, self._x, self._y)
        x, y = (
            graph.limit(at - 0.5, table[column], table[column + 1])
            for at, column in zip(found, (MapColumn.CELLS, MapColumn.CELLS + 2), strict=True)
        )
        whole = graph.add("Round", x), graph.add("Round", y)
        copied = sample(graph, maps, whole, self._size, "nearest")
        if exact_only:
            return copied
        exact = graph.unsqueeze(table[MapColumn.EXACT] > 0.5, 1)
        return graph.where(exact, copied, sample(graph, maps, (x, y), self._size, "bilinear"))

    def _coverage(self) -> Value:
        """Return 1 in cells that the view shows, else 0, (B, H, W)."""
        graph, table = self._graph, self._table
        x, y = (
            graph.add("Min", centre, table[column])
            for centre, column in ((self._x, MapColumn.LAST), (self._y, MapColumn.LAST + 1))
        )
        places = apply_affine(table, MapColumn.MATRIX, x, y)
        inside = [
            (at >= table[column]) & (at <= table[column + 1])
            for at, column in zip(places, (MapColumn.SEEN, MapColumn.SEEN + 2), strict=True)
        ]
        return graph.cast(inside[0] & inside[1], np.float32)

    def _summed(self, values: Value) -> Value:
        """Return the sums of (B, ...) by image, flat."""
        return self._graph.add("MatMul", self._owner, self._graph.reshape(values, 0, -1))
