"""What a file states, also of models that the server does not take."""

from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from tests.support.exports import YOLO, classifier_of, with_metadata, write_export
from tests.support.head_models import head_model
from tests.support.model_files import values
from tests.support.onnx_models import graph
from tta_server.onboarding.conclusions import FLAG, Given, conclude
from tta_server.onboarding.evidence import Fact
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


def two_inputs(second: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> Any:
    """An image and another input, which is left alone; the image is not the first."""
    output = helper.make_tensor_value_info("same", TensorProto.FLOAT, [1, 3, 8, 9])
    model = graph([helper.make_node("Identity", ["image"], ["same"])], (1, 3, 8, 9), "float32", [output])
    model.graph.input.insert(0, helper.make_tensor_value_info(second, kind, shape))
    return model


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        ("depth", [1, 3, 8, 9], "the model file takes depth, image; set input.name to the one that takes the image"),
        ("input_ids", ["n", "t"], "the model file also takes input_ids, which tta.yaml does not declare"),
        ("pixel_mask", [1, 3, 8, 9], "input pixel_mask has the shape [1, 3, 8, 9]; mask gives [N, H, W]"),
    ],
)
def test_inputs_that_are_not_known_are_refused(tmp_path: Path, name: str, shape, sentence: str) -> None:
    found = read_model_file(write_export(tmp_path, two_inputs(name, shape)))
    assert (found.image, found.layout, found.size("NCHW")) == ((), None, (None, None))
    (refusal,) = conclude(found, Given(), []).refusals
    assert sentence in refusal
    stated = Given([Fact("input.others", {name: "ones"}, FLAG)])
    assert not conclude(found, stated, []).refusals


def test_inputs_that_are_known_by_name(tmp_path: Path) -> None:
    found = read_model_file(write_export(tmp_path, two_inputs("orig_target_sizes", [1, 2], TensorProto.INT64)))
    assert [each.name for each in found.inputs] == ["image", "orig_target_sizes"]
    assert (found.image, found.layout, found.refusal) == ((1, 3, 8, 9), "NCHW", None)
    concluded = values(conclude(found, Given(), []))
    assert concluded["input.name"] == "image"
    assert concluded["input.others"] == {"orig_target_sizes": "width_height"}


def test_an_image_without_a_batch_axis(tmp_path: Path) -> None:
    found = read_model_file(write_export(tmp_path, head_model("torchvision", of_one_image=True)))
    assert (found.image, found.layout, found.size("NCHW")) == ((1, 3, 64, 96), "NCHW", (64, 96))
