"""Parts of graphs that turn a model's output (B, C, ...) into what is summed, and say which rows are sound."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tta_server.compiled.graph import Graph, Value
from tta_server.tasks.sums import Score, Soundness, SumSpec

LEAST = {"float32": -1e30, "float64": -1e300}
"""Stand for -inf in sums: times 0 they are 0, and their exponential is 0 too."""


@dataclass(frozen=True, slots=True)
class Output:
    """A model's output in a graph: `z` (B, C, ...) of `axes` axes, with `classes` along the second."""

    z: Value
    classes: int
    axes: int

    @property
    def inner(self) -> list[int]:
        """All axes but the first."""
        return list(range(1, self.axes))


def _top_class(graph: Graph, output: Output, spec: SumSpec) -> Value:
    top = graph.add("ArgMax", output.z, axis=1, keepdims=1)
    classes = np.arange(output.classes).reshape(-1, *(1,) * (output.axes - 2))
    return graph.cast(graph.add("Equal", top, classes), spec.dtype)


def _over_threshold(graph: Graph, output: Output, spec: SumSpec) -> Value:
    return graph.cast(graph.add("Sigmoid", output.z) >= spec.threshold, spec.dtype)


def _at_least(graph: Graph, values: Value, spec: SumSpec) -> Value:
    return graph.add("Max", values, np.array(LEAST[spec.dtype], spec.dtype))


def _unit(graph: Graph, output: Output, spec: SumSpec) -> Value:
    length = graph.add("Sqrt", graph.total(output.z * output.z, [1], keep=True))
    zero = np.array(0, spec.dtype)
    return graph.where(graph.add("Greater", length, zero), output.z / length, zero)


SCORES: dict[Score, Callable[[Graph, Output, SumSpec], Value]] = {
    Score.VALUES: lambda graph, output, spec: _at_least(graph, output.z, spec),
    Score.SOFTMAX: lambda graph, output, spec: graph.add("Softmax", output.z, axis=1),
    Score.LOG_SOFTMAX: lambda graph, output, spec: _at_least(graph, graph.add("LogSoftmax", output.z, axis=1), spec),
    Score.SIGMOID: lambda graph, output, spec: graph.add("Sigmoid", output.z),
    Score.CLIPPED: lambda graph, output, spec: graph.limit(output.z, np.array(0, spec.dtype), np.array(1, spec.dtype)),
    Score.TOP_CLASS: _top_class,
    Score.OVER_THRESHOLD: _over_threshold,
    Score.UNIT: _unit,
}


def unsound_rows(graph: Graph, output: Output, spec: SumSpec) -> Value:
    """Return which rows (B,) a sum must leave out."""
    z = output.z if spec.undo == "values" else graph.add("Exp", output.z)
    bad = graph.any(graph.add("IsNaN", z), output.inner)
    if spec.soundness is Soundness.TOP_FINITE:
        top = graph.add("ReduceMax", z, axes=[1], keepdims=1)
        return bad | graph.any(graph.add("IsInf", top), output.inner)
    below = int(spec.soundness is Soundness.FINITE)
    return bad | graph.any(graph.add("IsInf", z, detect_negative=below), output.inner)
