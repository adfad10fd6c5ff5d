"""Which heads are offered for the outputs of a detector that states nothing."""

from typing import Any

import pytest

from tests.support.model_files import FLOAT, model_file
from tta_server.onboarding.choices import find_choices
from tta_server.onboarding.model_file import TensorInfo
from tta_server.onboarding.readers.heads import fitting_heads

CELLS = 12 * 8 + 6 * 4 + 3 * 2
"""Of strides 8, 16, 32 over an input of 96x64."""
BOTH = "yolox, if boxes are offsets in cells, as YOLOX exports them by default | yolov5, if they are pixels"


def offered(outputs: dict[str, Any], labels: list[str] | None = None, shape=(1, 3, 64, 96)) -> str:
    file = model_file(*(TensorInfo(name, FLOAT, sizes) for name, sizes in outputs.items()), shape=shape)
    return fitting_heads({"labels": labels} if labels else {}, file)


@pytest.mark.parametrize(
    ("outputs", "labels", "heads"),
    [
        ({"output0": (1, 84, CELLS)}, None, "yolov8"),
        ({"output0": (1, 7, CELLS)}, ["a", "b", "c"], "yolov8"),
        ({"output": (1, CELLS, 85)}, None, BOTH),
        ({"output": (1, CELLS, 8)}, ["a", "b", "c"], BOTH),
        ({"output": (1, 3 * CELLS, 85)}, None, "yolov5"),
        ({"output": (1, 300, 6)}, None, "yolov5 | yolov10"),
        ({"output": (1, 300, 6)}, ["a", "b", "c"], "yolov10"),
        ({"logits": (1, 9, 4), "pred_boxes": (1, 9, 4)}, ["a", "b", "c"], "detr"),
        ({"logits": (1, 9, 3), "pred_boxes": (1, 9, 4)}, ["a", "b", "c"], "rt_detr"),
        ({"logits": (1, 9, 92), "pred_boxes": (1, 9, 4)}, None, "detr | rt_detr"),
        ({"dets": (1, 9, 5), "labels": (1, 9)}, None, "mmdeploy"),
    ],
)
def test_heads_by_shape(outputs, labels, heads: str) -> None:
    assert offered(outputs, labels) == heads


def test_rows_that_are_no_grid_of_the_input_are_no_yolox() -> None:
    assert offered({"output": (1, CELLS, 85)}, shape=(1, 3, 64, 64)) == "yolov5"
    assert offered({"output": (1, CELLS, 85)}, shape=("n", 3, "h", "w")) == BOTH


def test_all_heads_are_offered_if_none_fits() -> None:
    assert offered({"x": (1, 2)}).startswith("yolox | yolov5 | yolov8")


def test_the_head_is_asked_for_before_its_form() -> None:
    file = model_file(TensorInfo("output0", FLOAT, (1, 7, CELLS)), shape=(1, 3, 64, 96))

    def asked(**output: Any) -> list[str]:
        values = {"task": "detection"} | {f"output.{key}": value for key, value in output.items()}
        return [each.key for each in find_choices(values, file) if each.key.startswith("output.")]

    assert asked() == ["output.head"]
    assert asked(head="yolov8") == []
    assert asked(rows="output0") == ["output.kind", "output.holds", "output.format", "output.units", "output.nms"]


def test_a_head_of_rows_asks_which_of_several_outputs_has_them() -> None:
    outputs = [TensorInfo(name, FLOAT, (1, 7, CELLS)) for name in ("a", "b")]
    (asked,) = (
        each
        for each in find_choices({"task": "detection", "output.head": "yolov8"}, model_file(*outputs))
        if each.key.startswith("output.")
    )
    assert (asked.key, asked.allowed) == ("output.rows", "a | b")
