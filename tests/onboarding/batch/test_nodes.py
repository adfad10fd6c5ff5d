"""Kinds of nodes by themselves: those that keep images apart are let through, and give the same."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.onboarding.batch.test_free import freed, one, refused
from tests.support.batch_nets import ints, net, node

INT64, LAST = TensorProto.INT64, 2**31 - 1


def labelled(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output[0].type.tensor_type.elem_type = INT64
    return model


def several(*nodes: Any, out: Any, **weights: Any) -> onnx.ModelProto:
    return net(nodes, weights, out)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


SPACED = [0, 0, 1, 1, 0, 0, 1, 1]
KEPT = {
    "pool": one("MaxPool", kernel_shape=[2, 2], strides=[2, 2], out=(1, 3, 4, 4)),
    "batch norm": one("BatchNormalization", "s", "b", "m", "v", s=(3,), b=(3,), m=(3,), v=np.ones(3, np.float32)),
    "layer norm": one("LayerNormalization", "s", s=(8,), axis=-1),
    "sum of nothing": one("ReduceSum", noop_with_empty_axes=1),
    "sum": one("ReduceSum", "a", a=ints(1), keepdims=0, out=(1, 8, 8)),
    "best": labelled(one("ArgMax", axis=1, keepdims=0, out=(1, 8, 8))),
    "running sum": one("CumSum", "a", a=np.array(2)),
    "softmax of rows": one("Softmax", axis=1, opset=11),
    "pad": one("Pad", "p", p=ints(*SPACED), out=(1, 3, 10, 10)),
    "pad by attribute": one("Pad", pads=SPACED, out=(1, 3, 10, 10), opset=10),
    "slice": one("Slice", "s", "e", "a", s=ints(0), e=ints(2), a=ints(1), out=(1, 2, 8, 8)),
    "slice of all": one("Slice", "s", "e", "a", "t", s=ints(0), e=ints(LAST), a=ints(0), t=ints(1)),
    "slice by attributes": one("Slice", starts=[0, 1], ends=[LAST, 3], out=(1, 2, 8, 8), opset=9),
    "gather": one("Gather", "i", i=ints(2, 1, 0), axis=1),
    "norm": one("LpNormalization", axis=1),
    "scales": one("Resize", "", "s", s=floats(1, 1, 2, 2), out=(1, 3, 16, 16)),
    "upsample": one("Upsample", "s", s=floats(1, 1, 2, 2), out=(1, 3, 16, 16), opset=9),
    "expand": one("Expand", "s", s=ints(1, 3, 8, 8)),
    "tile": one("Tile", "r", r=ints(1, 2, 1, 1), out=(1, 6, 8, 8)),
    "table": several(
        node("ArgMax", ["image"], ["best"], axis=1, keepdims=0),
        node("Gather", ["table", "best"], ["out"]),
        out=(1, 8, 8, 4),
        table=(3, 4),
    ),
    "elements": several(
        node("ArgMax", ["image"], ["best"], axis=1),
        node("GatherElements", ["image", "best"], ["out"], axis=1),
        out=(1, 1, 8, 8),
    ),
    "squeeze": several(
        node("Unsqueeze", ["image", "axes"], ["more"]),
        node("Squeeze", ["more", "axes"], ["out"]),
        out=(1, 3, 8, 8),
        axes=ints(1, 5),
    ),
    "axis in front": several(
        node("Unsqueeze", ["image", "axes"], ["more"]),
        node("Squeeze", ["more", "axes"], ["out"]),
        out=(1, 3, 8, 8),
        axes=ints(0),
    ),
    "matrix on the left": several(node("MatMul", ["w", "image"], ["out"]), out=(1, 3, 5, 8), w=(5, 8)),
    "best two": several(node("TopK", ["image", "k"], ["out", "places"], axis=1), out=(1, 2, 8, 8), k=ints(2)),
    "split": several(
        node("Split", ["image", "sizes"], ["first", "rest"], axis=1),
        node("Concat", ["rest", "first"], ["out"], axis=1),
        out=(1, 3, 8, 8),
        sizes=ints(1, 2),
    ),
    "sizes of its own": several(
        node("Shape", ["image"], ["shape"]),
        node("Mul", ["shape", "factors"], ["sizes"]),
        node("Resize", ["image", "", "", "sizes"], ["out"]),
        out=(1, 3, 16, 16),
        factors=ints(1, 1, 2, 2),
    ),
    "expanded by its own shape": several(
        node("Shape", ["image"], ["shape"]),
        node("ReduceMean", ["image"], ["mean"], axes=[1]),
        node("Expand", ["mean", "shape"], ["out"]),
        out=(1, 3, 8, 8),
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_nodes_that_keep_images_apart(tmp_path: Path, name: str) -> None:
    """`free_batch` itself holds three images together against each alone."""
    made = onnx.load_model_from_string(freed(tmp_path, KEPT[name]))
    assert made.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def turned(*nodes: Any, out: Any = (1, 3, 8, 8), **weights: Any) -> onnx.ModelProto:
    """Images along the second axis of `t`."""
    return several(node("Transpose", ["image"], ["t"], perm=[1, 0, 2, 3]), *nodes, out=out, **weights)


REFUSED = {
    "places": (
        several(
            node("MaxPool", ["image"], ["most", "places"], name="it", kernel_shape=[2, 2]),
            node("Identity", ["most"], ["out"]),
            out=(1, 3, 7, 7),
        ),
        "it (MaxPool) gives the places of values",
    ),
    "second axis": (
        turned(node("Conv", ["t", "k"], ["out"], name="it"), k=(2, 1, 1, 1), out=(3, 2, 8, 8)),
        "it (Conv) takes images along its first axis",
    ),
    "resized second axis": (
        turned(node("Resize", ["t", "", "s"], ["out"], name="it"), s=floats(1, 1, 2, 2), out=(3, 1, 16, 16)),
        "it (Resize) takes images along its first axis",
    ),
    "two places": (
        turned(node("Add", ["t", "image"], ["out"], name="it"), out=(3, 3, 8, 8)),
        "it (Add) joins tensors that hold images along different axes",
    ),
    "enlarged": (
        one("Resize", "", "s", s=floats(2, 1, 1, 1), out=(2, 3, 8, 8)),
        "it (Resize) enlarges the images' axis",
    ),
    "layer norm of all": (one("LayerNormalization", "s", s=(1, 3, 8, 8), axis=0), "normalises over the images' axis"),
    "running sum": (one("CumSum", "a", a=np.array(0)), "it (CumSum) works along the images' axis"),
    "best images": (
        several(node("TopK", ["image", "k"], ["out", "places"], name="it", axis=0), out=(1, 3, 8, 8), k=ints(1)),
        "it (TopK) works along the images' axis",
    ),
    "two rows": (
        one("Concat", "c", c=(1, 3, 8, 8), axis=0, out=(2, 3, 8, 8)),
        "it (Concat) appends along the images' axis",
    ),
    "times a vector": (one("MatMul", "v", v=(8,), out=(1, 3, 8)), "it (MatMul) multiplies by a vector"),
    "stack": (one("MatMul", "w", w=(2, 1, 8, 8), out=(2, 3, 8, 8)), "it (MatMul) has w, of 2 entries along"),
    "letters": (one("Einsum", equation="nchw->c", out=(3,)), "it (Einsum) sums up over the images' axis"),
    "elements of all": (
        several(
            node("GatherElements", ["image", "i"], ["out"], name="it", axis=1),
            out=(1, 1, 8, 8),
            i=np.zeros((1, 1, 8, 8), np.int64),
        ),
        "it (GatherElements) takes entries along the images' axis, or the same ones of all images",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nodes_that_may_mix_images(tmp_path: Path, name: str) -> None:
    model, sentence = REFUSED[name]
    assert sentence in refused(tmp_path, model)
