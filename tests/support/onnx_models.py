"""Tiny models made with the onnx package: real files, loaded and run as any other."""

from pathlib import Path

import numpy as np
import yaml
from onnx import TensorProto, helper, save

DTYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def classifier(shape=("n", 3, 8, 8), dtype="float32", classes=3, outputs=("scores",)):
    """Three scores: the means of the channels. `classes` changes only the number that the file declares."""
    axes = [1, 2] if shape[-1] in (1, 3) else [2, 3]
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        *(helper.make_node("ReduceMean", ["cast"], [name], axes=axes, keepdims=0) for name in outputs),
    ]
    declared = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", classes]) for name in outputs]
    return graph(nodes, shape, dtype, declared)


def segmenter(shape=("n", 3, "h", "w"), dtype="float32"):
    """The image itself: the red, green and blue of a pixel are its scores for three classes."""
    nodes = [helper.make_node("Cast", ["image"], ["maps"], to=TensorProto.FLOAT)]
    return graph(nodes, shape, dtype, [helper.make_tensor_value_info("maps", TensorProto.FLOAT, list(shape))])


def graph(nodes, shape, dtype, outputs, inputs=("image",)):
    given = [helper.make_tensor_value_info(name, DTYPES[dtype], list(shape)) for name in inputs]
    made = helper.make_graph(nodes, "tiny", given, outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_model(folder: Path, model, config, version="1") -> Path:
    """Write `tta.yaml` and `1/model.onnx` into a folder; `config` is YAML text or its content."""
    (folder / version).mkdir(parents=True)
    save(model, folder / version / "model.onnx")
    (folder / "tta.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return folder


def heat_maps(stride=4, shape=("n", 3, "h", "w")):
    """The image's red, green and blue, averaged over squares of `stride`: a heat map for each of three points."""
    nodes = [helper.make_node("AveragePool", ["image"], ["maps"], kernel_shape=[stride] * 2, strides=[stride] * 2)]
    declared = helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["n", 3, "rows", "columns"])
    return graph(nodes, shape, "float32", [declared])


def pointer(shape=("n", 3, 8, 8)):
    """Three points, x and y each the mean of a channel."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Constant", [], ["last"], value_ints=[2]),
        helper.make_node("Unsqueeze", ["means", "last"], ["column"]),
        helper.make_node("Concat", ["column", "column"], ["points"], axis=2),
    ]
    declared = helper.make_tensor_value_info("points", TensorProto.FLOAT, ["n", 3, 2])
    return graph(nodes, shape, "float32", [declared])


def regressor(shape=("n", 3, 8, 8)):
    """Three values: the means of the channels."""
    return classifier(shape, outputs=("values",))


def embedder(shape=("n", 3, 8, 8)):
    """A vector of three numbers: the means of the channels."""
    return classifier(shape, outputs=("vector",))


GREY = 77
"""The red of a first pixel that makes a detector's scores NaN."""


def detector(shape=("n", 3, "h", "w")):
    """The extent of each channel's part over 0.5, with the channel's maximum as its score.

    Red is class 0, green 1, blue 2. Scores are NaN where the first pixel's red is GREY of 255.
    """
    constants = {
        "half": {"value_float": 0.5},
        "grey": {"value_floats": [float(np.float32(GREY) / np.float32(255))]},
        "nan": {"value_float": float("nan")},
        "one": {"value_ints": [1]},
        "classes": {"value_ints": [0, 1, 2]},
        "starts": {"value_ints": [0, 0, 0]},
        "ends": {"value_ints": [1, 1, 1]},
        "axes": {"value_ints": [1, 2, 3]},
        "column": {"value_ints": [-1, 1]},
    }
    ends = {"left": ("columns", 0), "top": ("rows", 0), "right": ("columns", 1), "below": ("rows", 1)}
    nodes = [
        *(helper.make_node("Constant", [], [name], **value) for name, value in constants.items()),
        helper.make_node("Greater", ["image", "half"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["light"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["light"], ["columns"], axes=[2], keepdims=0),
        helper.make_node("ReduceMax", ["light"], ["rows"], axes=[3], keepdims=0),
        *(
            helper.make_node("ArgMax", [lit], [end], axis=2, select_last_index=last)
            for end, (lit, last) in ends.items()
        ),
        helper.make_node("Add", ["right", "one"], ["after right"]),
        helper.make_node("Add", ["below", "one"], ["after below"]),
        helper.make_node("Concat", ["left", "top", "after right", "after below"], ["corners"], axis=2),
        helper.make_node("Cast", ["corners"], ["boxes"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["image"], ["most"], axes=[2, 3], keepdims=0),
        helper.make_node("Slice", ["image", "starts", "ends", "axes"], ["first"]),
        helper.make_node("Reshape", ["first", "column"], ["red"]),
        helper.make_node("Equal", ["red", "grey"], ["is grey"]),
        helper.make_node("Where", ["is grey", "nan", "most"], ["scores"]),
        helper.make_node("Shape", ["most"], ["size"]),
        helper.make_node("Expand", ["classes", "size"], ["labels"]),
    ]
    declared = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", 3, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, ["n", 3]),
    ]
    return graph(nodes, shape, "float32", declared)


def red_finder(box, label, shape=("n", 3, 64, 64)):
    """A detector that finds one box, of this label and with a score of 0.9, in an image that is almost all red."""
    constants = {
        "limit": {"value_float": 0.9},
        "weights": {"value_floats": [1.0, -1.0, -1.0]},
        "sure": {"value_float": 0.9},
        "box": {"value_floats": [float(side) for side in box]},
        "label": {"value_int": label},
        "ones": {"value_ints": [1]},
        "lasts": {"value_ints": [2]},
    }
    nodes = [
        *(helper.make_node("Constant", [], [name], **value) for name, value in constants.items()),
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["redness"]),
        helper.make_node("Greater", ["redness", "limit"], ["is red"]),
        helper.make_node("Unsqueeze", ["is red", "ones"], ["found"]),
        helper.make_node("Cast", ["found"], ["one"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["one", "sure"], ["scores"]),
        helper.make_node("Cast", ["found"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Mul", ["whole", "label"], ["labels"]),
        helper.make_node("Unsqueeze", ["one", "lasts"], ["column"]),
        helper.make_node("Mul", ["column", "box"], ["boxes"]),
    ]
    declared = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", 1, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, ["n", 1]),
    ]
    return graph(nodes, shape, "float32", declared)
