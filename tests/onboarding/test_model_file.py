"""What a file states, also of models that the server does not take."""

from pathlib import Path

from onnx import TensorProto, helper

from tests.support.exports import YOLO, classifier_of, with_metadata, write_export
from tests.support.onnx_models import graph
from tta_server.onboarding.conclusions import Given, conclude
from tta_server.onboarding.model_file import TensorInfo, read_model_file


def test_inputs_outputs_and_metadata(tmp_path: Path) -> None:
    found = read_model_file(write_export(tmp_path, with_metadata(classifier_of(("n", 8, 9, 3)), YOLO)))
    assert found.inputs == [TensorInfo("image", "tensor(float)", ("n", 8, 9, 3))]
    assert found.inputs[0].sizes == (None, 8, 9, 3)
    assert (found.layout, found.size("NHWC")) == ("NHWC", (8, 9))
    assert found.metadata == YOLO
    assert found.refusal is None


def test_a_formula_of_an_axis_is_not_shown() -> None:
    formula = "floor(height/8)*floor(width/8) + 1"
    assert TensorInfo("y", "tensor(float)", ("batch", 7, formula, None)).text == "[batch, 7, any, any]"


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    output = helper.make_tensor_value_info("sum", TensorProto.FLOAT, [1, 3, 8, 8])
    nodes = [helper.make_node("Add", ["image", "pixel_mask"], ["sum"])]
    model = graph(nodes, (1, 3, 8, 8), "float32", [output], inputs=("image", "pixel_mask"))
    found = read_model_file(write_export(tmp_path, model))
    assert [each.name for each in found.inputs] == ["image", "pixel_mask"]
    assert (found.image, found.layout, found.size("NCHW")) == ((), None, (None, None))
    (refusal,) = conclude(found, Given(), []).refusals
    assert "the model file takes image, pixel_mask; set input.name to the one that takes the image" in refusal
