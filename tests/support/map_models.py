"""Tiny segmentation models in the forms that people export: class numbers, queries, channels last, one map."""

from typing import Any

import onnx
from onnx import TensorProto, helper

from tests.support.onnx_models import graph

KINDS = {
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
}
SHARPNESS = 20.0
"""Mask logits that a query has for each unit of its channel over a half."""


PIXELS = {"black": ([1.0, 1.0, 1.0], 0.0), "red": ([1.0, -1.0, -1.0], 1.0)}
"""Weights of the channels, and the sum that only a pixel of the colour has."""


def class_mapper(
    dtype: str = "int64", has_axis: bool = False, layout: str = "NCHW", gap: tuple[str, int] = ("black", 255)
) -> onnx.ModelProto:
    """The number of each pixel's brightest channel, ties to the first; another one where it has the colour of `gap`."""
    last = layout == "NHWC"
    axis, shape = (3, ("n", "h", "w", 3)) if last else (1, ("n", 3, "h", "w"))
    kept = int(has_axis)
    (weights, total), number = PIXELS[gap[0]], gap[1]
    each = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 3] if last else [1, 3, 1, 1], weights)
    nodes = [
        helper.make_node("Constant", [], ["weights"], value=each),
        helper.make_node("Constant", [], ["axes"], value_ints=[axis]),
        helper.make_node("Constant", [], ["total"], value_float=total),
        helper.make_node("Constant", [], ["gap"], value_int=number),
        helper.make_node("ArgMax", ["image"], ["top"], axis=axis, keepdims=kept),
        helper.make_node("Mul", ["image", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axes"], ["sum"], keepdims=kept),
        helper.make_node("Equal", ["sum", "total"], ["is gap"]),
        helper.make_node("Where", ["is gap", "gap", "top"], ["numbers"]),
        helper.make_node("Cast", ["numbers"], ["classes"], to=KINDS[dtype]),
    ]
    out: list[Any] = ["n", "h", "w"]
    if has_axis:
        out.insert(3 if last else 1, 1)
    return graph(nodes, shape, "float32", [helper.make_tensor_value_info("classes", KINDS[dtype], out)])


def query_segmenter(stride: int = 1) -> onnx.ModelProto:
    """Three queries: each is one channel's class, with a mask where that channel is over a half, by squares."""
    logits = [4.0 * (label == query) - 2 for query in range(3) for label in range(4)]
    nodes = [
        helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[stride] * 2, strides=[stride] * 2),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["sharp"], value_float=SHARPNESS),
        helper.make_node("Sub", ["cells", "half"], ["over"]),
        helper.make_node("Mul", ["over", "sharp"], ["masks_queries_logits"]),
        helper.make_node("Constant", [], ["table"], value=helper.make_tensor("t", TensorProto.FLOAT, [3, 4], logits)),
        helper.make_node("Shape", ["image"], ["rows"], end=1),
        helper.make_node("Constant", [], ["rest"], value_ints=[3, 4]),
        helper.make_node("Concat", ["rows", "rest"], ["size"], axis=0),
        helper.make_node("Expand", ["table", "size"], ["class_queries_logits"]),
    ]
    declared = [
        helper.make_tensor_value_info("class_queries_logits", TensorProto.FLOAT, ["n", 3, 4]),
        helper.make_tensor_value_info("masks_queries_logits", TensorProto.FLOAT, ["n", 3, "r", "k"]),
    ]
    return graph(nodes, ("n", 3, "h", "w"), "float32", declared)


def one_map(activation: str = "Identity") -> onnx.ModelProto:
    """[N, h, w]: the red of each pixel, 6 times as far from a half, before an activation."""
    nodes = [
        helper.make_node("Constant", [], ["zero"], value_int=0),
        helper.make_node("Gather", ["image", "zero"], ["red"], axis=1),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["six"], value_float=6.0),
        helper.make_node("Sub", ["red", "half"], ["over"]),
        helper.make_node("Mul", ["over", "six"], ["logits"]),
        helper.make_node(activation, ["logits"], ["map"]),
    ]
    declared = helper.make_tensor_value_info("map", TensorProto.FLOAT, ["n", "h", "w"])
    return graph(nodes, ("n", 3, "h", "w"), "float32", [declared])
