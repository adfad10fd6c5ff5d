"""Nets that state one image in their constants, as exporters write them with a batch of 1; weights are random."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
node = helper.make_node


def net(nodes: Sequence[Any], weights: dict[str, Any], out: Sequence[Any], shape=(1, 3, 8, 8), opset=17) -> ModelProto:
    """A model of the image [1, 3, 8, 8] with the output `out`; weights are shapes of random floats, or arrays."""
    random = np.random.default_rng(5)
    made = [
        numpy_helper.from_array(
            value if isinstance(value, np.ndarray) else random.normal(size=value).astype(np.float32), name
        )
        for name, value in weights.items()
    ]
    given = [helper.make_tensor_value_info("image", FLOAT, list(shape))]
    outputs = [helper.make_tensor_value_info("out", FLOAT, list(out))]
    graph = helper.make_graph(list(nodes), "net", given, outputs, made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def reshaped(*shape: int, **attributes: Any) -> ModelProto:
    """A linear layer behind a Reshape to a constant shape."""
    nodes = [
        node("Conv", ["image", "k"], ["maps"], strides=[4, 4]),
        node("Reshape", ["maps", "shape"], ["flat"], name="to_row", **attributes),
        node("Gemm", ["flat", "w", "b"], ["out"]),
    ]
    return net(nodes, {"k": (4, 3, 4, 4), "shape": ints(*shape), "w": (16, 5), "b": (5,)}, [1, 5])


def flattened() -> ModelProto:
    nodes = [
        node("Conv", ["image", "k"], ["maps"], strides=[4, 4]),
        node("Relu", ["maps"], ["positive"]),
        node("Flatten", ["positive"], ["flat"]),
        node("MatMul", ["flat", "w"], ["out"]),
    ]
    return net(nodes, {"k": (4, 3, 4, 4), "w": (16, 5)}, [1, 5])


def with_token() -> ModelProto:
    """A class token for one image in front of patches, one block of attention, the token's row."""
    nodes = [
        node("Conv", ["image", "k"], ["maps"], strides=[4, 4]),
        node("Reshape", ["maps", "as rows"], ["columns"]),
        node("Transpose", ["columns"], ["patches"], perm=[0, 2, 1]),
        node("Concat", ["token", "patches"], ["tokens"], axis=1),
        node("Add", ["tokens", "places"], ["placed"]),
        *_attention("placed"),
        node("Gather", ["mixed", "zero"], ["out"], axis=1),
    ]
    shapes = {"as rows": ints(1, 8, 4), "as heads": ints(1, 5, 2, 4), "as tokens": ints(1, 5, 8)}
    weights = {"k": (8, 3, 4, 4), "token": (1, 1, 8), "places": (1, 5, 8), "w": (8, 8), "zero": np.array(0, np.int64)}
    return net(nodes, weights | shapes, [1, 8])


def _attention(of: str) -> list[Any]:
    return [
        node("MatMul", [of, "w"], ["query"]),
        node("Reshape", ["query", "as heads"], ["heads"]),
        node("Transpose", ["heads"], ["by head"], perm=[0, 2, 1, 3]),
        node("Transpose", ["heads"], ["keys"], perm=[0, 2, 3, 1]),
        node("MatMul", ["by head", "keys"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=-1),
        node("MatMul", ["weights", "by head"], ["seen"]),
        node("Transpose", ["seen"], ["by token"], perm=[0, 2, 1, 3]),
        node("Reshape", ["by token", "as tokens"], ["mixed"]),
    ]


def tokens_first() -> ModelProto:
    """As torch's MultiheadAttention: images along the second axis, then inside rows of tokens, then beside heads."""
    nodes = [
        node("Conv", ["image", "k"], ["maps"], strides=[4, 4]),
        node("Reshape", ["maps", "as rows"], ["columns"]),
        node("Transpose", ["columns"], ["tokens"], perm=[2, 0, 1]),
        node("Reshape", ["tokens", "all"], ["rows"]),
        node("Gemm", ["rows", "w"], ["query"]),
        node("Reshape", ["query", "as heads"], ["heads"]),
        node("Transpose", ["heads"], ["by head"], perm=[1, 0, 2]),
        node("Transpose", ["heads"], ["keys"], perm=[1, 2, 0]),
        node("MatMul", ["by head", "keys"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=-1),
        node("MatMul", ["weights", "by head"], ["seen"]),
        node("Transpose", ["seen"], ["by token"], perm=[1, 0, 2]),
        node("Reshape", ["by token", "as tokens"], ["mixed"]),
        node("Add", ["mixed", "tokens"], ["added"]),
        node("ReduceMean", ["added"], ["out"], axes=[0], keepdims=0),
    ]
    shapes = {
        "as rows": ints(1, 8, 4),
        "all": ints(4, 8),
        "as heads": ints(4, 2, 4),
        "as tokens": ints(4, 1, 8),
    }
    return net(nodes, {"k": (8, 3, 4, 4), "w": (8, 8)} | shapes, [1, 8])


def windows() -> ModelProto:
    """Rows of four windows of each image, as Swin's, and back."""
    nodes = [
        node("Transpose", ["image"], ["last"], perm=[0, 2, 3, 1]),
        node("Reshape", ["last", "cut"], ["pieces"]),
        node("Transpose", ["pieces"], ["ordered"], perm=[0, 1, 3, 2, 4, 5]),
        node("Reshape", ["ordered", "rows"], ["windows"]),
        node("Softmax", ["windows"], ["soft"], axis=1),
        node("Reshape", ["soft", "back"], ["again"]),
        node("ReduceMax", ["again"], ["out"], axes=[3, 4], keepdims=0),
    ]
    shapes = {"cut": ints(1, 2, 4, 2, 4, 3), "rows": ints(4, 16, 3), "back": ints(1, 2, 2, 4, 4, 3)}
    return net(nodes, shapes, [1, 2, 2, 3])


def resized() -> ModelProto:
    nodes = [node("Resize", ["image", "", "", "sizes"], ["out"], mode="linear")]
    return net(nodes, {"sizes": ints(1, 3, 16, 12)}, [1, 3, 16, 12])


def of_its_own_shape() -> ModelProto:
    """A Reshape to a shape that the graph computes from the image's."""
    nodes = [
        node("Shape", ["image"], ["sizes"]),
        node("Slice", ["sizes", "zero", "two"], ["leading"]),
        node("Concat", ["leading", "rest"], ["shape"], axis=0),
        node("Reshape", ["image", "shape"], ["rows"]),
        node("ReduceMean", ["rows"], ["out"], axes=[2], keepdims=0),
    ]
    return net(nodes, {"zero": ints(0), "two": ints(2), "rest": ints(-1)}, [1, 3])


def free_sides() -> ModelProto:
    """Sides are free too, so that only a copied size can stand for the images."""
    nodes = [
        node("Reshape", ["image", "shape"], ["rows"]),
        node("ReduceMean", ["rows"], ["out"], axes=[2], keepdims=0),
    ]
    return net(nodes, {"shape": ints(1, 3, -1)}, [1, 3], (1, 3, "h", "w"))


def letters() -> ModelProto:
    nodes = [node("Einsum", ["image", "w"], ["out"], equation="nchw,kc->nk")]
    return net(nodes, {"w": (5, 3)}, [1, 5])


def sampled() -> ModelProto:
    """The same grid for each image."""
    nodes = [node("GridSample", ["image", "grid"], ["out"])]
    return net(nodes, {"grid": (1, 4, 4, 2)}, [1, 3, 4, 4])


def over_images() -> ModelProto:
    """A mean over all images, which no batch may have."""
    nodes = [
        node("ReduceMean", ["image"], ["mean"], name="mean", axes=[0], keepdims=1),
        node("ReduceMax", ["mean"], ["out"], axes=[2, 3], keepdims=0),
    ]
    return net(nodes, {}, [1, 3])
