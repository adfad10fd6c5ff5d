"""What outputs for test tensors say of scores."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.support.batch_nets import net, node
from tests.support.exports import classifier_of, softmax_classifier, write_export
from tests.support.onnx_models import segmenter
from tta_server.onboarding.evidence import Fact, Note
from tta_server.onboarding.measured.kinds import make_tensors, measure_kind
from tta_server.onboarding.model_file import read_model_file


def measured(tmp_path: Path, model: onnx.ModelProto, **values: Any) -> dict[str, Any]:
    """Values that were measured by key, without `output.`; the sentence of a note."""
    file = read_model_file(write_export(tmp_path, model))
    found = list(measure_kind(file, {key.replace("_", "."): value for key, value in values.items()}))
    notes = [("note", each.sentence) for each in found if isinstance(each, Note)]
    return dict([(each.key.removeprefix("output."), each.value) for each in found if isinstance(each, Fact)] + notes)


def after(kind: str, out: tuple[Any, ...] = (1, 3, 8, 8), **attributes: Any) -> onnx.ModelProto:
    return net([node(kind, ["image"], ["out"], **attributes)], {}, out)


@pytest.mark.parametrize(
    ("model", "task", "found"),
    [
        (softmax_classifier(), "classification", {"kind": "probabilities"}),
        (classifier_of(), "classification", {"kind": "logits"}),
        (classifier_of(("n", 3, "h", "w")), "classification", {"kind": "logits"}),
        (classifier_of(), "multilabel", {"kind": "logits"}),
        (after("Softmax", axis=1), "segmentation", {"kind": "probabilities", "multilabel": False}),
        (after("Sigmoid"), "segmentation", {"kind": "probabilities", "multilabel": True}),
        (segmenter((1, 3, 8, 8)), "segmentation", {"kind": "logits"}),
        (classifier_of(), "regression", {}),
        (classifier_of(), "embedding", {}),
    ],
    ids=["softmax", "means", "free size", "labels", "softmax maps", "sigmoid maps", "maps", "regression", "embedding"],
)
def test_kinds(tmp_path: Path, model: onnx.ModelProto, task: str, found: dict[str, Any]) -> None:
    assert measured(tmp_path, model, task=task) == found


def test_one_channel_is_one_label(tmp_path: Path) -> None:
    model = net(
        [node("ReduceMean", ["image"], ["mean"], axes=[1], keepdims=1), node("Sigmoid", ["mean"], ["out"])],
        {},
        (1, 1, 8, 8),
    )
    assert measured(tmp_path, model, task="segmentation") == {"kind": "probabilities", "multilabel": True}


def test_what_is_stated_is_not_measured(tmp_path: Path) -> None:
    model = after("Softmax", axis=1)
    assert measured(tmp_path, model, task="segmentation", output_kind="logits") == {"multilabel": False}
    stated = {"output_kind": "logits", "output_multilabel": True}
    assert measured(tmp_path, model, task="segmentation", **stated) == {}


@pytest.mark.parametrize("kind", ["Relu", "Sigmoid"])
def test_what_could_be_either_is_said(tmp_path: Path, kind: str) -> None:
    """A classifier's scores of 0 and more, or of 0 to 1 that sum to something else."""
    nodes = [node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0), node(kind, ["means"], ["out"])]
    found = measured(tmp_path, net(nodes, {}, (1, 3)), task="classification")
    assert found["note"].startswith("output.kind: cannot tell, measured on 6 test tensors: the outputs are 0")


def test_a_model_that_fails_shows_nothing(tmp_path: Path) -> None:
    fails = net([node("Reshape", ["image", "s"], ["out"])], {"s": np.array([1, 5], np.int64)}, (1, 5), (1, 3, "h", "w"))
    assert measured(tmp_path, fails, task="classification") == {}


def test_tensors_are_of_the_files_type_and_layout(tmp_path: Path) -> None:
    given = helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", "h", 10, 3])
    graph = helper.make_graph([node("Cast", ["image"], ["out"], to=1)], "g", [given], [])
    graph.output.append(helper.make_tensor_value_info("out", 1, ["n", "h", 10, 3]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for tensor in make_tensors(read_model_file(write_export(tmp_path, model))):
        assert (tensor.shape, tensor.dtype) == ((1, 224, 10, 3), np.uint8)
