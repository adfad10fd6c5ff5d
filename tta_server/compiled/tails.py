"""The graph that sums a model's output by image, for tasks that give a vector for each view."""

import numpy as np
from numpy.typing import DTypeLike

from tta_server.compiled.graph import Graph
from tta_server.compiled.scores import SCORES, Output, unsound_rows
from tta_server.tasks.sums import SumSpec


def tail(spec: SumSpec, classes: int, dtype: DTypeLike) -> bytes:
    """Return the graph that sums vectors; `classes` is their length, `dtype` the type of the model's output.

    Inputs: `z` (B, C), the model's output; `weight` (B, 1 or C), each view's weight, one or by class; `owner` (N, B),
    1 where the row belongs to the image, else 0. Outputs: `total` (N, C) and `weights` (N, 1 or C), the sums over an
    image's sound rows, and `sound` (B,). All but `z` and `sound` are of the spec's type.
    """
    graph = Graph("tail")
    z = graph.cast(graph.input("z", dtype, ["B", classes]), spec.dtype)
    weight = graph.input("weight", spec.dtype, ["B", "Cw"])
    owner = graph.input("owner", spec.dtype, ["N", "B"])
    unsound = unsound_rows(graph, Output(z, classes, 2), spec)
    zero = np.array(0, spec.dtype)
    out = graph.unsqueeze(unsound, 1)
    output = Output(graph.where(out, zero, z), classes, 2)
    weight = graph.where(out, zero, weight)
    weighted = SCORES[spec.score](graph, output, spec) * weight
    scores = graph.where(weight > zero, weighted, zero)
    graph.output("total", graph.add("MatMul", owner, scores), spec.dtype, ["N", classes])
    graph.output("weights", graph.add("MatMul", owner, weight), spec.dtype, ["N", "Cw"])
    graph.output("sound", graph.add("Not", unsound), "bool", ["B"])
    return graph.to_bytes()
