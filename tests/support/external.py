"""Classifiers whose weights are in a file beside the model file."""

from pathlib import Path

import numpy as np
import yaml
from onnx import GraphProto, StringStringEntryProto, TensorProto, helper, numpy_helper

from tests.support.configs import CLASSIFICATION, changed
from tests.support.onnx_models import graph

SHAPE = (3, 64, 64)
"""Of the weights, and of an image."""

CONFIG = changed(CLASSIFICATION, input={"size": [64, 64], "resize": None, "scale": 1})
PLACES = ("initializer", "attribute", "branch")


def external(location: str, offset: int = 0, length: int = 4 * 3 * 64 * 64) -> TensorProto:
    """A tensor of SHAPE whose values are in another file."""
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    return TensorProto(
        name="weights",
        data_type=TensorProto.FLOAT,
        dims=SHAPE,
        data_location=TensorProto.EXTERNAL,
        external_data=[StringStringEntryProto(key=key, value=value) for key, value in entries.items()],
    )


def weights(scores):
    """The weights that give an image of ones these three scores."""
    return np.ascontiguousarray(np.broadcast_to(np.array(scores, np.float32)[:, None, None], SHAPE))


def scorer(tensor: TensorProto, place: str = "initializer"):
    """A classifier: the means of the image times the weights, a tensor in one of PLACES."""
    if place == "branch":
        nodes = [
            helper.make_node("ReduceMax", ["image"], ["most"], keepdims=0),
            helper.make_node("Constant", [], ["zero"], value_float=0.0),
            helper.make_node("GreaterOrEqual", ["most", "zero"], ["bright"]),
            helper.make_node("If", ["bright"], ["scaled"], then_branch=_branch(tensor), else_branch=_branch(tensor)),
        ]
    else:
        nodes = [helper.make_node("Mul", ["image", "weights"], ["scaled"])]
        if place == "attribute":
            nodes.insert(0, helper.make_node("Constant", [], ["weights"], value=tensor))
    nodes.append(helper.make_node("ReduceMean", ["scaled"], ["scores"], axes=[2, 3], keepdims=0))
    made = graph(
        nodes, ("n", *SHAPE), "float32", [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])]
    )
    if place == "initializer":
        made.graph.initializer.append(tensor)
    return made


def _branch(tensor: TensorProto) -> GraphProto:
    scaled = helper.make_tensor_value_info("scaled", TensorProto.FLOAT, ["n", *SHAPE])
    return helper.make_graph(
        [helper.make_node("Mul", ["image", "weights"], ["scaled"])], "branch", [], [scaled], [tensor]
    )


def write_scorer(folder: Path, scores, place: str = "initializer", location: str = "model.onnx_data") -> Path:
    """Write a model folder, or replace its weights; return the file that holds them.

    `place` is one of PLACES, or `inside` for weights in the model file.
    """
    model = folder / "1" / "model.onnx"
    model.parent.mkdir(parents=True, exist_ok=True)
    (folder / "tta.yaml").write_text(yaml.safe_dump(CONFIG))
    if place == "inside":
        made = scorer(numpy_helper.from_array(weights(scores), "weights"))
        model.write_bytes(made.SerializeToString())
        return model
    model.write_bytes(scorer(external(location), place).SerializeToString())
    data = model.parent / location
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_bytes(weights(scores).tobytes())
    return data
