"""A tiny model that misbehaves on demand: NaN for a black image, endless work for a white one."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CONFIG = """\
task: classification
labels: [red, green, blue]
input: {size: [8, 8], scale: 1}
output: {kind: logits}
policy: hflip
symmetries: [hflip]
budget: {default_ms: 200, max_ms: 10000}
"""
ENDLESS = 1_000_000
"""Iterations for a white image: about a second."""


def moody_model(folder: Path) -> Path:
    """A model folder; scores are the roots of each channel's mean less 1."""
    (folder / "1").mkdir(parents=True)
    (folder / "tta.yaml").write_text(CONFIG)
    onnx.save(_model(), folder / "1" / "model.onnx")
    return folder


def _model() -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
    constants = [
        numpy_helper.from_array(np.array(value, kind), name)
        for name, value, kind in [
            ("one", 1, np.float32),
            ("bright", 250, np.float32),
            ("long", ENDLESS / 5, np.float32),
            ("zero", 0, np.float32),
            ("on", True, np.bool_),
        ]
    ]
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Sub", ["means", "one"], ["less"]),
        helper.make_node("Sqrt", ["less"], ["roots"]),
        helper.make_node("ReduceMax", ["means"], ["top"], keepdims=0),
        helper.make_node("Sub", ["top", "bright"], ["over"]),
        helper.make_node("Relu", ["over"], ["glare"]),
        helper.make_node("Mul", ["glare", "long"], ["rounds"]),
        helper.make_node("Cast", ["rounds"], ["trips"], to=TensorProto.INT64),
        helper.make_node("Loop", ["trips", "on", "zero"], ["last"], body=_body()),
        helper.make_node("Mul", ["last", "zero"], ["nothing"]),
        helper.make_node("Add", ["roots", "nothing"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "moody", [image], [scores], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _body() -> onnx.GraphProto:
    def value(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [])

    nodes = [
        helper.make_node("Identity", ["go"], ["go_on"]),
        helper.make_node("Cos", ["before"], ["after"]),
    ]
    return helper.make_graph(
        nodes,
        "round",
        [value("round", TensorProto.INT64), value("go", TensorProto.BOOL), value("before", TensorProto.FLOAT)],
        [value("go_on", TensorProto.BOOL), value("after", TensorProto.FLOAT)],
    )
