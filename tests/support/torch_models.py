"""Files of ONNX as modules of PyTorch. Needs torch and onnx."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper

from tests.support.torch_programs import export

__all__ = ["OnnxModule", "export"]

Tensors = dict[str, torch.Tensor]


class OnnxModule(torch.nn.Module):
    """An ONNX file as a module: its nodes one after the other. Knows the operators of most bundled models."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        graph = onnx.load(path).graph
        self.nodes, self.output = list(graph.node), graph.output[0].name
        self.image = graph.input[0].name
        self.names = {}
        for i, weight in enumerate(graph.initializer):
            self.names[weight.name] = f"weight_{i}"
            self.register_buffer(f"weight_{i}", torch.from_numpy(numpy_helper.to_array(weight).copy()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        values: Tensors = {self.image: image, **{name: getattr(self, held) for name, held in self.names.items()}}
        for node in self.nodes:
            given = [values[name] for name in node.input if name in values]
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            if node.op_type != "Constant":
                values[node.output[0]] = OPERATORS[node.op_type](given, attributes)
        return values[self.output]


def _convolve(given: Sequence[torch.Tensor], attributes: Mapping[str, Any]) -> torch.Tensor:
    top, left, bottom, right = attributes["pads"]
    assert (top, left) == (bottom, right)
    bias = given[2] if len(given) > 2 else None
    options = {"dilation": attributes["dilations"], "groups": attributes["group"]}
    return torch.nn.functional.conv2d(given[0], given[1], bias, attributes["strides"], (top, left), **options)


def _pool(given: Sequence[torch.Tensor], attributes: Mapping[str, Any]) -> torch.Tensor:
    assert not any(attributes.get("pads", [0]))
    return torch.nn.functional.max_pool2d(given[0], attributes["kernel_shape"], attributes["strides"])


def _gemm(given: Sequence[torch.Tensor], attributes: Mapping[str, Any]) -> torch.Tensor:
    assert attributes["transB"] == 1
    return torch.nn.functional.linear(*given)


OPERATORS = {
    "Conv": _convolve,
    "MaxPool": _pool,
    "Gemm": _gemm,
    "Relu": lambda given, _: torch.relu(given[0]),
    "Add": lambda given, _: given[0] + given[1],
    "Concat": lambda given, attributes: torch.cat(list(given), attributes["axis"]),
    "ReduceMean": lambda given, attributes: given[0].mean(tuple(attributes["axes"]), bool(attributes["keepdims"])),
    "Resize": lambda given, _: torch.nn.functional.interpolate(given[0], scale_factor=2.0, mode="nearest"),
}
