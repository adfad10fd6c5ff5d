"""Outputs that are no tensors, as sklearn-onnx makes them: not run, and named where the task needs them."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.support.configs import CLASSIFICATION, changed
from tests.support.onnx_models import graph, write_model
from tta_server.errors import ConfigError
from tta_server.repository.loader import load_model

ADVICE = "export it with zipmap off (options={id(model): {'zipmap': False}}), so that it has tensor outputs"


def zipmapped(*tensors):
    """The means of the channels as maps of text to number, and tensors of these names: scores (n, 3), number (n)."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["scores"], axes=[2, 3], keepdims=0),
        helper.make_node("ArgMax", ["scores"], ["number"], axis=1, keepdims=0),
        helper.make_node("ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", classlabels_strings=["a", "b", "c"]),
    ]
    kinds = {
        "scores": helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3]),
        "number": helper.make_tensor_value_info("number", TensorProto.INT64, ["n"]),
    }
    score = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.STRING, score))
    made = graph(
        nodes, ("n", 3, 8, 8), "float32", [*(kinds[name] for name in tensors), helper.make_value_info("maps", maps)]
    )
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    return made


def sequence():
    """The means of the channels as a sequence of one tensor."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["scores"], axes=[2, 3], keepdims=0),
        helper.make_node("SequenceConstruct", ["scores"], ["parts"]),
    ]
    part = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 3])
    return graph(
        nodes, ("n", 3, 8, 8), "float32", [helper.make_value_info("parts", helper.make_sequence_type_proto(part))]
    )


def refused(folder):
    with pytest.raises(ConfigError) as caught:
        load_model(folder)
    return str(caught.value)


def test_a_model_that_has_only_maps_is_refused(tmp_path):
    folder = write_model(tmp_path / "m", zipmapped(), CLASSIFICATION)
    assert refused(folder) == (
        f"{folder}/1/model.onnx: output maps is seq(map(string,tensor(float))), not a tensor: {ADVICE}"
    )


def test_a_model_that_has_only_a_sequence_is_refused(tmp_path):
    folder = write_model(tmp_path / "m", sequence(), CLASSIFICATION)
    assert refused(folder).endswith("not a tensor: export it, so that it has tensor outputs")


@pytest.mark.parametrize("output", [{}, {"name": "scores"}])
def test_a_tensor_beside_maps_is_served(tmp_path, output):
    model = load_model(write_model(tmp_path / "m", zipmapped("scores"), changed(CLASSIFICATION, output=output)))
    assert list(model.backend.signature.outputs) == ["scores"]
    outputs = model.backend.infer(np.ones((2, 3, 8, 8), np.float32))
    assert list(outputs) == ["scores"]
    assert outputs["scores"].tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ({}, "classification with 3 labels needs an output number of shape [N, 3]; the model gives [any]; output maps"),
        ({"name": "maps"}, "output.name is 'maps'; the model file has number; output maps is seq(map"),
    ],
)
def test_where_the_tensor_does_not_suffice_the_maps_are_named(tmp_path, output, sentence):
    found = refused(write_model(tmp_path / "m", zipmapped("number"), changed(CLASSIFICATION, output=output)))
    assert sentence in found
    assert found.endswith(ADVICE)
