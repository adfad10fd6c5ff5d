"""The graph that makes a model's input: views of uint8 canvases, in the model's layout, type and normalisation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_server.compiled.graph import Graph, Shape, Value
from tta_server.compiled.rows import WIDTH, Column
from tta_server.compiled.sampling import Table, apply_affine, fold, fold_reflect101, sample
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.views.geometry import Size


@dataclass(frozen=True, slots=True)
class FixedSizes:
    """Sizes of the model's input and of the slab of canvases where known; else they are inputs of the graph."""

    tensor: Size | None = None
    slab: Size | None = None


FREE = FixedSizes()


def front(preprocessing: Preprocessing, sizes: FixedSizes = FREE, slab_layout: str = "NCHW") -> bytes:
    """Return the graph for a model's preprocessing.

    Inputs: `slab` uint8 canvases, [N, C, Hs, Ws] or [N, Hs, Ws, C], zeros beyond each; `rows` (B, WIDTH) as
    `rows.front_table` makes it. Unless they are fixed, also `slab_size` float32 (Ws, Hs), and `x` (W,), `y` (H,)
    float32: 0, 1, 2, ... for the columns and rows of the model's input. Output `input`: the model's input for each row.

    Rows of exact views without colour equal `Preprocessing.write` to the bit.
    """
    return _Front(preprocessing, sizes, slab_layout).to_bytes()


def front_inputs(slab: NDArray[np.uint8], table: NDArray[np.float32], tensor: Size) -> dict[str, NDArray[np.generic]]:
    """Return the inputs by name of a graph without fixed sizes, for a slab [N, C, Hs, Ws]."""
    return {
        "slab": slab,
        "rows": table,
        "slab_size": np.array([slab.shape[3], slab.shape[2]], np.float32),
        "x": np.arange(tensor.width, dtype=np.float32),
        "y": np.arange(tensor.height, dtype=np.float32),
    }


class _Front:
    def __init__(self, preprocessing: Preprocessing, sizes: FixedSizes, slab_layout: str) -> None:
        self._prep = preprocessing
        self._sizes = sizes
        self._graph = Graph("front")
        self._slab = self._planar_slab(slab_layout)
        self._table = Table(self._graph, "rows", WIDTH)
        self._exact = self._table[Column.EXACT] > 0.5

    def to_bytes(self) -> bytes:
        graph, prep = self._graph, self._prep
        x, y = self._positions("x", 0, (1, 1, -1)), self._positions("y", 1, (1, -1, 1))
        left, top, width, height = (self._table[Column.FRAME + k] for k in range(4))
        u, v = x - left, y - top
        values = self._colored(self._sampled(self._canvas_position(u, v, width, height)))
        values = self._normalized(values)
        bar = prep.bar
        if bar is not None:
            inside = (u >= 0.0) & (u < width) & ((v >= 0.0) & (v < height))
            values = graph.where(graph.unsqueeze(inside, 1), values, bar)
        if prep.dtype != np.float32:
            values = graph.cast(values, prep.dtype)
        if prep.layout == "NHWC":
            values = graph.add("Transpose", values, perm=[0, 2, 3, 1])
        graph.output("input", values, prep.dtype, self._output_shape())
        return graph.to_bytes()

    def _planar_slab(self, layout: str) -> Value:
        size = self._sizes.slab
        sides: list[int | str] = ["Hs", "Ws"] if size is None else [size.height, size.width]
        if layout == "NCHW":
            return self._graph.input("slab", "uint8", ["N", self._prep.depth, *sides])
        slab = self._graph.input("slab", "uint8", ["N", *sides, self._prep.depth])
        return self._graph.add("Transpose", slab, perm=[0, 3, 1, 2])

    def _slab_size(self) -> tuple[Value, Value]:
        graph, size = self._graph, self._sizes.slab
        if size is not None:
            return graph.constant(float(size.width)), graph.constant(float(size.height))
        given = graph.input("slab_size", "float32", [2])
        return graph.take(given, 0, 0), graph.take(given, 1, 0)

    def _positions(self, name: str, side: int, shape: tuple[int, int, int]) -> Value:
        """Return the columns or rows of the model's input."""
        tensor = self._sizes.tensor
        if tensor is not None:
            return self._graph.constant(np.arange(tensor[side]).reshape(shape))
        return self._graph.reshape(self._graph.input(name, "float32", ["WH"[side]]), *shape)

    def _canvas_position(self, u: Value, v: Value, width: Value, height: Value) -> tuple[Value, Value]:
        """Return the pixel of the canvas that each pixel of the frame shows; padding reflects the frame."""
        graph, table = self._graph, self._table
        columns, rows = fold_reflect101(graph, u, width), fold_reflect101(graph, v, height)
        found = apply_affine(table, Column.MATRIX, columns + 0.5, rows + 0.5)
        border = table[Column.BORDER]
        x, y = (
            fold(graph, graph.where(self._exact, graph.add("Round", at - 0.5), at - 0.5), table[column], border)
            for at, column in zip(found, (Column.CANVAS, Column.CANVAS + 1), strict=True)
        )
        return x, y

    def _sampled(self, place: tuple[Value, Value]) -> Value:
        """Return pixels in [0, 255]; those of exact views are whole, which takes the rounding of positions away."""
        graph = self._graph
        image = graph.reshape(graph.cast(self._table[Column.IMAGE], np.int64), -1)
        source = graph.cast(graph.add("Gather", self._slab, image, axis=0), np.float32)
        found = sample(graph, source, place, self._slab_size(), "bilinear")
        return graph.where(graph.unsqueeze(self._exact, 1), graph.add("Round", found), found)

    def _colored(self, values: Value) -> Value:
        """Apply the row's colour map. No MatMul: with TF32, the default on GPUs, it would be off by 0.1."""
        graph, table, depth = self._graph, self._table, self._prep.depth
        mapped = table.each(Column.COLOR + 3, depth, 4)
        for channel in range(depth):
            mapped = mapped + table.each(Column.COLOR + channel, depth, 4) * graph.take(values, [channel], 1)
        colored = graph.unsqueeze(table[Column.COLORED] > 0.5, 1)
        return graph.where(colored, graph.add("Clip", mapped, 0.0, 255.0), values)

    def _normalized(self, values: Value) -> Value:
        """As `Preprocessing.normalized`, operation by operation."""
        if self._prep.dtype == np.uint8:
            return self._graph.add("Round", values)
        by = self._prep.normalization
        if by.scale != 1:
            values = values / by.scale
        if any(by.mean):
            values = values - np.array(by.mean, np.float32).reshape(-1, 1, 1)
        if any(std != 1 for std in by.std):
            values = values / np.array(by.std, np.float32).reshape(-1, 1, 1)
        return values

    def _output_shape(self) -> Shape:
        tensor, depth = self._sizes.tensor, self._prep.depth
        sides: list[int | str] = ["H", "W"] if tensor is None else [tensor.height, tensor.width]
        return ["B", *sides, depth] if self._prep.layout == "NHWC" else ["B", depth, *sides]
