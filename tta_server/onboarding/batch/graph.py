"""Changes an ONNX graph as a plan says, and reads its constants."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tta_server.onboarding.batch.step import Known
from tta_server.onboarding.batch.walk import Plan

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

LARGEST = 64
"""Entries of a constant whose values are looked at."""


def apply_edits(model: "ModelProto", plan: Plan, known: Known, image: str) -> None:
    """Change the nodes, and state the free axis in input and outputs; shapes of tensors between them are dropped."""
    graph = model.graph
    name = _axis_name(graph)
    for each in (*(i for i in graph.input if i.name == image), *graph.output):
        each.type.tensor_type.shape.dim[0].ClearField("dim_value")
        each.type.tensor_type.shape.dim[0].dim_param = name
    del graph.value_info[:]
    added, nodes = AddedNodes(graph), list[Any]()
    for place, node in enumerate(graph.node):
        for edit in plan.edits.get(place, ()):
            edit.apply(node, known, added)
        nodes += [*added.taken(), node]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _axis_name(graph: "GraphProto") -> str:
    """A name that no axis has."""
    tensors = (*graph.input, *graph.output)
    used = {dim.dim_param for each in tensors for dim in each.type.tensor_type.shape.dim}
    return next(name for name in ("batch", *(f"batch_{n}" for n in range(len(used) + 1))) if name not in used)


class AddedNodes:
    """What edits add: lists go into the graph, the caller places the nodes."""

    def __init__(self, graph: "GraphProto") -> None:
        self._graph, self._nodes = graph, list["NodeProto"]()
        self._names = {name for node in graph.node for name in (*node.input, *node.output)}
        self._names |= {each.name for each in graph.initializer}

    def tensor(self, values: Sequence[int]) -> str:
        from onnx import numpy_helper

        name = self._name()
        self._graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        from onnx import helper

        name = self._name()
        self._nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def taken(self) -> Iterator["NodeProto"]:
        """Return the nodes that were added since the last call."""
        found, self._nodes = self._nodes, []
        yield from found

    def _name(self) -> str:
        number = len(self._names)
        while (name := f"free_batch_{number}") in self._names:
            number += 1
        self._names.add(name)
        return name


def constants(graph: "GraphProto") -> Mapping[str, NDArray[Any]]:
    """The values of small initializers that are in the file itself."""
    from onnx import numpy_helper

    return {
        each.name: numpy_helper.to_array(each)
        for each in graph.initializer
        if not each.data_location and _size(each) <= LARGEST
    }


def _size(tensor: "TensorProto") -> int:
    return int(np.prod(tensor.dims, dtype=np.int64))
