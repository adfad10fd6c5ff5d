"""The graph that sums heat maps by image as `map_tails` does, and finds each row's peaks."""

import numpy as np
from numpy.typing import DTypeLike

from tta_server.compiled.graph import Value
from tta_server.compiled.map_rows import MapColumn
from tta_server.compiled.map_tails import MapTail
from tta_server.compiled.scores import SCORES, Output
from tta_server.tasks.points.heatmaps import PEAK_COLUMNS, REACH
from tta_server.tasks.sums import SumSpec


def heat_tail(spec: SumSpec, joints: int, dtype: DTypeLike, exact_only: bool) -> bytes:
    """Return the graph that sums heat maps of `joints`; `dtype` is the type of the model's output.

    Inputs are those of `map_tail` and, float32: `column` (w,), `line` (h,): 0, 1, ... for the columns and rows of the
    maps. Outputs are those of `map_tail` and `peaks` (B, J, 5), as `heatmaps.PEAK_COLUMNS` has it, of each row's own
    maps in their order; of a row that is not sound they mean nothing.
    """
    return _HeatTail(spec, joints, dtype).to_bytes(exact_only)


class _HeatTail(MapTail):
    def to_bytes(self, exact_only: bool) -> bytes:
        graph = self._graph
        top, peaks = self._peaks()
        unsound = graph.any(graph.add("IsNaN", self._z), [1, 2, 3]) | graph.any(graph.add("IsInf", top), [1, 2])
        scores = graph.where(graph.reshape(unsound, -1, 1, 1, 1), 0.0, self._probabilities(self._z))
        order = list(self._spec.mirror_order)
        if order != sorted(order):
            mirrored = graph.unsqueeze(self._table[MapColumn.MIRRORED] > 0.5, 1)
            scores = graph.where(mirrored, graph.take(scores, order, 1), scores)
        self._write_sums(self._moved(scores, exact_only), unsound)
        graph.output("peaks", peaks, "float32", ["B", self._classes, PEAK_COLUMNS])
        return graph.to_bytes()

    def _probabilities(self, scores: Value) -> Value:
        return SCORES[self._spec.score](self._graph, Output(scores, self._classes, 4), self._spec)

    def _peaks(self) -> tuple[Value, Value]:
        """Return the largest scores in the frame (B, J, 1), and the peaks, as `heatmaps.peaks` finds them."""
        graph = self._graph
        x, y = (
            graph.reshape(graph.input(name, "float32", [axis]), *shape)
            for name, axis, shape in (("column", "w", (1, 1, 1, -1)), ("line", "h", (1, 1, -1, 1)))
        )
        within = self._in_frame(x, MapColumn.FRAME) & self._in_frame(y, MapColumn.FRAME + 2)
        flat = graph.reshape(graph.where(within, self._z, -np.inf), 0, self._classes, -1)
        index = graph.add("ArgMax", flat, axis=2, keepdims=1)
        width = graph.cast(self._size[0], np.int64)
        row = graph.add("Div", index, width)
        column = index - row * width
        scores = graph.reshape(self._z, 0, self._classes, -1)
        near, mass = self._around(scores, (graph.cast(column, np.float32), graph.cast(row, np.float32)), width)
        total = graph.total(mass, [2], keep=True)
        safe = graph.where(total > 0.0, total, 1.0)
        across, down = (graph.total(mass * steps, [2], keep=True) / safe for steps in _steps())
        centre = graph.take(near, [near_centre()], 2)
        places = [graph.cast(each, np.float32) for each in (column, row)]
        return graph.add("ReduceMax", flat, axes=[2], keepdims=1), graph.add(
            "Concat", *places, across, down, centre, axis=2
        )

    def _around(self, scores: Value, peak: tuple[Value, Value], width: Value) -> tuple[Value, Value]:
        """Return the probabilities of the cells around peaks (B, J, 25), and their masses: 0 outside of the frame."""
        graph = self._graph
        columns, rows = (at + steps for at, steps in zip(peak, _steps(), strict=True))
        first = (MapColumn.FRAME, MapColumn.FRAME + 2)
        within = [self._in_frame(at, column, 3) for at, column in zip((columns, rows), first, strict=True)]
        x, y = (
            graph.cast(graph.limit(at, self._edge(column, 3), self._edge(column + 1, 3)), np.int64)
            for at, column in zip((columns, rows), first, strict=True)
        )
        near = self._probabilities(graph.add("GatherElements", scores, y * width + x, axis=2))
        return near, graph.where(within[0] & within[1], graph.add("Max", near, 0.0), 0.0)

    def _in_frame(self, at: Value, column: int, axes: int = 4) -> Value:
        return (at >= self._edge(column, axes)) & (at <= self._edge(column + 1, axes))

    def _edge(self, column: int, axes: int) -> Value:
        return self._graph.reshape(self._table[column], -1, *(1,) * (axes - 1))


def _steps() -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows from a peak to the cells around it, (25,) each."""
    around = np.arange(-REACH, REACH + 1, dtype=np.float32)
    y, x = np.meshgrid(around, around, indexing="ij")
    return x.ravel(), y.ravel()


def near_centre() -> int:
    """The index of the peak itself among the cells around it."""
    return (2 * REACH + 1) ** 2 // 2
