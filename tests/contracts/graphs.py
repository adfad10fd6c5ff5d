"""Graphs of contracts: the input as an export has it, turned back into an image from 0 to 1, then outputs of its form.

Every export expects its own colours and normalisation, so that with others the answer is another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.support.exports import renamed
from tests.support.head_models import Nodes
from tests.support.onnx_models import DTYPES, detector, graph

Maker = Callable[[Nodes], dict[str, Sequence[Any]]]
"""Adds the outputs of a form to a graph with `image` (n, 3, H, W); returns their shapes by name."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

GIVEN = "what is given"
"""Name of the input until the graph is complete: an export may call it `image` too."""


@dataclass(frozen=True)
class Input:
    """How an export takes images. `normal` are mean and std by channel, of values over `scale`, in RGB."""

    shape: Sequence[Any]
    name: str = "images"
    layout: str = "NCHW"
    dtype: str = "float32"
    color: str = "RGB"
    scale: float = 1.0
    normal: tuple[Sequence[float], Sequence[float]] = PLAIN
    others: Mapping[str, tuple[int, Sequence[Any]]] = field(default_factory=dict)
    """Inputs beside the image: type and shape by name."""

    def to_image(self, n: Nodes) -> None:
        """From the input to `image`, (n, 3, H, W), RGB from 0 to 1."""
        x = n.cast(GIVEN, TensorProto.FLOAT) if self.dtype != "float32" else GIVEN
        if len(self.shape) == 3:
            x = n.op("Unsqueeze", x, n.constant([0], np.int64))
        if self.layout == "NHWC":
            x = n.op("Transpose", x, perm=[0, 3, 1, 2])
        if self.color == "BGR":
            x = n.op("Gather", x, n.constant([2, 1, 0], np.int64), axis=1)
        mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in self.normal)
        if "pixel_mask" in self.others:  # without the mask nothing is left of the image
            x = n.op("Mul", x, n.axis(n.cast("pixel_mask", TensorProto.FLOAT), 1))
        n.op("Div", n.op("Add", n.op("Mul", x, std), mean), self.scale, to="image")


def export(source: Input, *makers: Maker, types: dict[str, int] | None = None) -> ModelProto:
    """A model with that input and the outputs of the makers; `types` of outputs that are no floats, by name."""
    return _model(graph([], source.shape, source.dtype, [], (GIVEN,)), source, makers, types)


def finder(source: Input, *makers: Maker, types: dict[str, int] | None = None) -> ModelProto:
    """The same behind `boxes`, `scores` and `labels` of `onnx_models.detector`."""
    model = detector()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(GIVEN, DTYPES[source.dtype], list(source.shape)))
    return _model(model, source, makers, types)


def _model(model: ModelProto, source: Input, makers: Sequence[Maker], types: dict[str, int] | None) -> ModelProto:
    before = len(model.graph.node)
    nodes = Nodes(model.graph)
    source.to_image(nodes)
    added = list(model.graph.node)[before:]
    kept = list(model.graph.node)[:before]
    del model.graph.node[:]
    model.graph.node.extend([*added, *kept])
    for name, (kind, shape) in source.others.items():
        model.graph.input.append(helper.make_tensor_value_info(name, kind, list(shape)))
    shapes: dict[str, Sequence[Any]] = {}
    for maker in makers:
        shapes |= maker(nodes)
    del model.graph.output[:]
    for name, shape in shapes.items():
        kind = (types or {}).get(name, TensorProto.INT64 if name == "labels" else TensorProto.FLOAT)
        model.graph.output.append(helper.make_tensor_value_info(name, kind, list(shape)))
    return renamed(model, {"image": "picture", GIVEN: source.name})
