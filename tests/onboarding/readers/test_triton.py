"""Triton's config.pbtxt, and the labels that it names."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.model_files import FLOAT, LOGITS, model_file, values
from tta_server.errors import ConfigError
from tta_server.onboarding.conclusions import Conclusion, Given, conclude
from tta_server.onboarding.documents import documents_beside, documents_in
from tta_server.onboarding.model_file import TensorInfo
from tta_server.onboarding.readers.triton import label_files, parse_config

CONFIG = """
name: "densenet_onnx"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  {
    name: "image"
    data_type: TYPE_FP32
    format: FORMAT_NCHW
    dims: [ 3, 224, 256 ]
  }
]
output [
  {
    name: "logits"
    data_type: TYPE_FP32
    dims: [ 3 ]
    label_filename: "colours.txt"
  }
]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { preferred_batch_size: [ 4, 8 ] some_later_field: true }
"""
FREE = ("n", 3, "h", "w")
OTHER = TensorInfo("features", FLOAT, (1, 64))


def concluded(tmp_path: Path, *changes: tuple[str, str], shape: Any = FREE, outputs=(LOGITS,)) -> Conclusion:
    """What a config.pbtxt in which texts are replaced says, beside the folder of a version."""
    text = CONFIG
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "config.pbtxt").write_text(text)
    (tmp_path / "colours.txt").write_text("red\ngreen\nblue\n")
    beside = documents_beside(tmp_path / "1" / "model.onnx")
    assert [document.name for document in beside] == ["config.pbtxt"]
    return conclude(model_file(*outputs, shape=shape), Given(), beside)


def test_a_classifier(tmp_path: Path) -> None:
    found = concluded(tmp_path)
    assert values(found, "input.") == values(found, "input.") | {"layout": "NCHW", "size": [224, 256]}
    assert values(found)["labels"] == ["red", "green", "blue"]
    assert "output.name" not in values(found)
    assert {"task", "input.mean", "input.resize", "input.color"} <= {choice.key for choice in found.choices}


def test_the_output_of_several_that_has_labels(tmp_path: Path) -> None:
    assert values(concluded(tmp_path, outputs=(OTHER, LOGITS)))["output.name"] == "logits"
    of_boxes = ("dims: [ 3 ]\n    label", "dims: [ 100 ]\n    label")
    assert "output.name" not in values(concluded(tmp_path, of_boxes, outputs=(OTHER, LOGITS)))


@pytest.mark.parametrize(
    ("changes", "shape", "expected"),
    [
        (
            [("FORMAT_NCHW", "FORMAT_NHWC"), ("[ 3, 224, 256 ]", "[ 224, 256, 3 ]")],
            ("n", "h", "w", "c"),
            {"layout": "NHWC", "size": [224, 256]},
        ),
        ([("format: FORMAT_NCHW", "")], FREE, {"layout": "NCHW", "size": [224, 256]}),
        ([("format: FORMAT_NCHW", ""), ("[ 3, 224, 256 ]", "[ 3, 224, 3 ]")], ("n", "c", "h", "w"), {"layout": None}),
        ([("[ 3, 224, 256 ]", "[ 3, -1, -1 ]")], FREE, {"layout": "NCHW", "size": None}),
        ([("[ 3, 224, 256 ]", "[ 3, 224, -1 ]")], FREE, {"layout": "NCHW", "size": None}),
        ([("[ 3, 224, 256 ]", "[ 1, 8, 9 ]")], ("n", 1, "h", "w"), {"color": "grey", "size": [8, 9]}),
        (
            [("max_batch_size: 8", "max_batch_size: 0"), ("[ 3, 224, 256 ]", "[ 1, 3, 8, 9 ]")],
            (1, 3, "h", "w"),
            {"size": [8, 9]},
        ),
        (
            [("[ 3, 224, 256 ]", "[ 27 ]\n reshape { shape: [ 3, 3, 3 ] }")],
            ("n", 3, "h", "w"),
            {"layout": "NCHW", "size": [3, 3]},
        ),
    ],
)
def test_an_input(tmp_path: Path, changes, shape, expected: dict[str, Any]) -> None:
    found = values(concluded(tmp_path, *changes, shape=shape), "input.")
    assert {key: found.get(key) for key in expected} == expected


def test_a_format_that_contradicts_its_dims(tmp_path: Path) -> None:
    (refusal,) = concluded(tmp_path, ("FORMAT_NCHW", "FORMAT_NHWC")).refusals
    assert refusal == "config.pbtxt: input image has format FORMAT_NHWC, which dims [3, 224, 256] contradict"


def test_labels_that_do_not_lie_beside_it(tmp_path: Path) -> None:
    found = concluded(tmp_path, ("colours.txt", "other.txt"))
    assert "label_filename is other.txt, which does not lie beside it; state it with --labels FILE" in found.notes[0]
    assert "labels" in {choice.key for choice in found.choices}
    assert label_files({"output": [{"label_filename": name} for name in ("a/b", "../c", "d", "d", "")]}) == ["d"]
    (tmp_path.parent / "outside.txt").write_text("a\nb\nc\n")
    assert "labels" not in concluded(tmp_path, ("colours.txt", "../outside.txt")).facts


def test_a_file_of_another_model(tmp_path: Path) -> None:
    found = concluded(tmp_path, ('name: "image"', 'name: "INPUT__0"'))
    assert found.facts.keys() == {"input.layout"}
    assert found.notes == [
        "config.pbtxt: describes a model with the inputs INPUT__0, but the file has image; it is ignored"
    ]


def test_a_file_that_is_named(tmp_path: Path) -> None:
    concluded(tmp_path)
    path = tmp_path / "densenet.pbtxt"
    path.write_text(CONFIG.replace("colours.txt", "labels.txt"))
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    found = conclude(model_file(shape=FREE), Given(documents=documents_in(path)), [])
    assert values(found)["labels"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('name: "a"\ninput [ { dims: [ 3, ', "is not a ModelConfig in protobuf text in line 2"),
        ("{}", "is not a ModelConfig in protobuf text in line 1"),
        ("max_batch_size: many", "is not a ModelConfig in protobuf text in line 1"),
        ("a {" * 5000, "is not a ModelConfig in protobuf text"),
    ],
)
def test_a_text_that_is_none(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_config(text)
    (tmp_path / "config.pbtxt").write_text(text)
    (document,) = documents_beside(tmp_path / "model.onnx")
    assert problem in document.problem
    with pytest.raises(ConfigError, match=problem):
        documents_in(tmp_path)
