"""Parts of graphs that sample images and maps: affine maps, borders, interpolation."""

from typing import Any

from tta_server.compiled.graph import Graph, Value
from tta_server.compiled.rows import BORDER_CODES
from tta_server.views.view import Border


class Table:
    """A table (B, n) of the graph's input `name`, whose columns are read as (B, 1, 1)."""

    def __init__(self, graph: Graph, name: str, width: int) -> None:
        self._graph = graph
        rows = graph.input(name, "float32", ["B", width])
        self._columns = graph.reshape(rows, 0, width, 1, 1)

    def __getitem__(self, column: int) -> Value:
        return self._graph.take(self._columns, column, 1)

    def each(self, first: int, count: int, step: int = 1) -> Value:
        """Return `count` columns as (B, count, 1, 1)."""
        return self._graph.take(self._columns, [first + step * k for k in range(count)], 1)


def apply_affine(table: Table, first: int, x: Value, y: Value) -> tuple[Value, Value]:
    """Map points x (B or 1, 1, W), y (B or 1, H, 1) by the matrix from column `first` on; return x and y (B, H, W)."""
    xx, xy, tx, yx, yy, ty = (table[first + k] for k in range(6))
    return xx * x + xy * y + tx, yx * x + yy * y + ty


def fold_reflect101(graph: Graph, index: Value, length: Value) -> Value:
    """Fold positions on an axis into [0, length - 1] by reflect101; a pixel's centre is a whole number."""
    last = length - 1.0
    period = graph.add("Max", last * 2.0, 1.0)
    within = index - period * graph.add("Floor", index / period)
    return last - graph.add("Abs", within - last)


def _fold_reflect(graph: Graph, index: Value, length: Value) -> Value:
    """The same by reflect, which repeats the edge: into [-0.5, length - 0.5]."""
    period, place = length * 2.0, index + 0.5
    within = place - period * graph.add("Floor", place / period)
    return length - graph.add("Abs", within - length) - 0.5


def fold(graph: Graph, index: Value, length: Value, border: Value) -> Value:
    """Fold positions into [0, length - 1] by the row's border; those of `constant` stay as they are."""

    def applies(rule: Border) -> Value:
        return graph.add("Equal", border, float(BORDER_CODES[rule]))

    reflected = graph.where(applies(Border.REFLECT), _fold_reflect(graph, index, length), index)
    inside = graph.where(applies(Border.REFLECT101), fold_reflect101(graph, index, length), reflected)
    return graph.where(applies(Border.CONSTANT), index, graph.limit(inside, 0.0, length - 1.0))


def sample(graph: Graph, source: Value, place: tuple[Value, Value], size: tuple[Any, Any], mode: str) -> Value:
    """Sample `source` (B, C, Hs, Ws) at x, y (B, H, W), whole at pixels' centres; 0 beyond it.

    `size` is the source's width and height as float operands.
    """
    normalized = [graph.unsqueeze((at * 2.0 + 1.0) / length - 1.0, -1) for at, length in zip(place, size, strict=True)]
    grid = graph.add("Concat", *normalized, axis=3)
    return graph.add("GridSample", source, grid, mode=mode, padding_mode="zeros", align_corners=0)
