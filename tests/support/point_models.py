"""Models of fixed size that find bright pixels, whose outputs have each form that keypoint models have."""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.support.head_models import Nodes
from tests.support.onnx_models import graph
from tta_server.views.geometry import Size

INPUT = Size(96, 64)
LABELS = ["nose", "left eye", "right eye"]


def layers(n: Nodes) -> str:
    """An image for each point, (n, 3, H, W), whose brightest pixel it is.

    That of red is the nose. Where it is in the upper half, the brightest pixel of green's left half is the left eye,
    and of its right half the right one; else the image is upside down, and they are the other way round. So in any
    mirror image the left eye is taken for the right one.
    """
    is_left = np.arange(INPUT.width) < INPUT.width // 2
    every = np.ones_like(is_left)
    upright, turned = (
        n.constant(np.stack([every, *halves]).reshape(1, 3, 1, -1))
        for halves in ((is_left, ~is_left), (~is_left, is_left))
    )
    height = n.op("ArgMax", _best(n, "image", 3), axis=2, keepdims=1)
    nose = n.axis(n.op("Gather", height, n.constant([0], np.int64), axis=1), 3)
    parts = n.op("Where", n.op("Less", nose, n.constant(INPUT.height // 2, np.int64)), upright, turned)
    return n.op("Mul", n.op("Gather", "image", n.constant([0, 1, 1], np.int64), axis=1), parts)


def _best(n: Nodes, seen: str, axis: int) -> str:
    """The brightest pixel of each column (axis 2) or row (axis 3)."""
    return n.op("ReduceMax", seen, axes=[axis], keepdims=0)


def points(n: Nodes, seen: str) -> str:
    """Centres of the brightest pixels in pixels, (n, 3, 2)."""
    places = [n.op("ArgMax", _best(n, seen, axis), axis=2, keepdims=1) for axis in (2, 3)]
    return n.op("Add", n.floats(n.op("Concat", *places, axis=2)), 0.5)


def rows(n: Nodes, seen: str) -> str:
    """Centres and brightness, (n, 3, 3)."""
    brightness = n.op("ReduceMax", seen, axes=[2, 3], keepdims=0)
    return n.op("Concat", points(n, seen), n.axis(brightness, 2), axis=2)


def _flat(n: Nodes, values: str) -> str:
    return n.op("Reshape", values, n.constant([0, -1], np.int64), to="points")


def _signed(n: Nodes, seen: str) -> str:
    return n.op("Sub", n.op("Div", points(n, seen), [side / 2 for side in INPUT]), 1)


def simcc(split: int, names: tuple[str, str] = ("simcc_x", "simcc_y")) -> Callable[[Nodes, str], dict[str, list[Any]]]:
    """The brightest pixels of columns and rows at the bins of their centres; 0 in the bins between."""

    def make(n: Nodes, seen: str) -> dict[str, list[Any]]:
        for name, axis in zip(names, (2, 3), strict=True):
            best = n.axis(_best(n, seen, axis), 3)
            bins = n.op("Mul", best, [1.0] + [0.0] * (split - 1))
            n.op("Reshape", bins, n.constant([0, 3, -1], np.int64), to=name)
        return {names[0]: ["n", 3, INPUT.width * split], names[1]: ["n", 3, INPUT.height * split]}

    return make


def heat_maps(n: Nodes, seen: str) -> dict[str, list[Any]]:
    """Brightness 0 is -0.1, and 1 is 1.1; of stride 1."""
    n.op("Sub", n.op("Mul", seen, 1.2), 0.1, to="points")
    return {"points": ["n", 3, INPUT.height, INPUT.width]}


def heat_maps_last(n: Nodes, seen: str) -> dict[str, list[Any]]:
    n.op("Transpose", seen, to="points", perm=[0, 2, 3, 1])
    return {"points": ["n", INPUT.height, INPUT.width, 3]}


def raw_heat_maps_last(n: Nodes, seen: str) -> dict[str, list[Any]]:
    n.op("Transpose", n.op("Sub", n.op("Mul", seen, 1.2), 0.1), to="points", perm=[0, 2, 3, 1])
    return {"points": ["n", INPUT.height, INPUT.width, 3]}


def flat(n: Nodes, seen: str) -> dict[str, list[Any]]:
    _flat(n, points(n, seen))
    return {"points": ["n", 6]}


def flat_rows(n: Nodes, seen: str) -> dict[str, list[Any]]:
    _flat(n, rows(n, seen))
    return {"points": ["n", 9]}


def signed(n: Nodes, seen: str) -> dict[str, list[Any]]:
    n.op("Identity", _signed(n, seen), to="points")
    return {"points": ["n", 3, 2]}


def signed_flat(n: Nodes, seen: str) -> dict[str, list[Any]]:
    _flat(n, _signed(n, seen))
    return {"points": ["n", 6]}


def point_model(make: Callable[[Nodes, str], dict[str, list[Any]]]) -> ModelProto:
    made = graph([], ("n", 3, INPUT.height, INPUT.width), "float32", [])
    n = Nodes(made.graph)
    for name, shape in make(n, layers(n)).items():
        made.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return made
