"""Graphs that are written as arithmetic."""

import sys

import numpy as np
import onnx
import pytest

from tta_server.backends.graphs import GraphSession
from tta_server.compiled.graph import Graph, require_onnx
from tta_server.errors import ConfigError


def test_arithmetic_on_values_is_what_the_graph_computes():
    graph = Graph("example")
    x = graph.input("x", "float32", ["N"])
    y = (x + 1.0) * 2.0 - x / 4.0
    graph.output("y", graph.where(y > 5.0, graph.limit(y, 0.0, 9.0), 1.0 - y), "float32", ["N"])
    content = graph.to_bytes()
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    # y is 2, 5.5 and 16 for x of 0, 2 and 8
    found = GraphSession(content).run({"x": np.array([0, 2, 8], np.float32)})
    assert found["y"].tolist() == [-1, 5.5, 9]


def test_without_onnx_the_error_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"pip install 'tta-server\[compile\]'"):
        require_onnx()
