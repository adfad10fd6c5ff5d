"""Exports that are known by the names and shapes of their outputs."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.model_files import FLOAT, model_file, values
from tta_server.onboarding.conclusions import Given, conclude
from tta_server.onboarding.model_file import TensorInfo

TENSORFLOW = {"detection_boxes": (1, 9, 4), "detection_scores": (1, 9), "detection_classes": (1, 9)}
TENSORFLOW |= {"num_detections": (1,), "raw_detection_boxes": (1, 99, 4)}
QUERIES = {"class_queries_logits": (1, 9, 4), "masks_queries_logits": (1, 9, 8, 8)}
THREE = {"boxes": "boxes", "scores": "scores", "labels": "labels"}


def concluded(outputs: dict[str, Any]):
    return conclude(model_file(*(TensorInfo(name, FLOAT, shape) for name, shape in outputs.items())), Given(), [])


@pytest.mark.parametrize(
    ("outputs", "task", "output"),
    [
        ({"boxes": ("m", 4), "labels": ("m",), "scores": ("m",)}, "detection", {"head": "torchvision"}),
        ({"boxes": (1, 9, 4), "labels": (1, 9), "scores": (1, 9)}, "detection", THREE),
        ({"boxes": (1, 9, 4), "scores": (1, 9, 3)}, "detection", {"boxes": "boxes", "scores": "scores"}),
        ({"dets": (1, 9, 5), "labels": (1, 9), "masks": (1, 9, 8, 8)}, "detection", {"head": "mmdeploy"}),
        ({"logits": (1, 9, 3), "pred_boxes": (1, 9, 4)}, "detection", {}),
        (
            {"class_queries_logits": (1, 9, 4), "masks_queries_logits": (1, 9, 8, 8)},
            "segmentation",
            {"kind": "queries"},
        ),
        ({"simcc_x": (1, 3, 16), "simcc_y": (1, 3, 16)}, "keypoints", {"kind": "simcc"}),
        ({"image_embeds": (1, 9), "last_hidden_state": (1, 5, 8)}, "embedding", {"name": "image_embeds"}),
        ({"output": (1, 9)}, None, {}),
        ({"boxes": (1, 4), "scores": (1, 9, 3)}, None, {}),
    ],
)
def test_what_names_and_shapes_say(outputs, task: str | None, output: dict[str, str]) -> None:
    found = values(concluded(outputs))
    assert found.get("task") == task
    assert {key.removeprefix("output."): found[key] for key in found if key.startswith("output.")} == output


def test_the_background_of_lists_is_said() -> None:
    (note,) = concluded({"boxes": ("m", 4), "labels": ("m",), "scores": ("m",)}).notes
    assert "class 0 is the background; if class 0 is the first label, set output.first_label: 0" in note


@pytest.mark.parametrize(
    ("shape", "kind", "is_map"),
    [
        ((1, 64, 96), "tensor(uint8)", True),
        (("n", 1, "h", "w"), "tensor(int64)", True),
        (("n", 3, "h", "w"), "tensor(int64)", False),
        ((1, 64, 96), FLOAT, False),
        ((1, 64), "tensor(int64)", False),
    ],
)
def test_whole_numbers_for_pixels_are_classes(shape, kind: str, is_map: bool) -> None:
    more = TensorInfo("more", FLOAT, (1, 9))
    found = values(conclude(model_file(TensorInfo("map", kind, shape), more), Given(), []))
    assert (found.get("task"), found.get("output.kind")) == (("segmentation", "classes") if is_map else (None, None))
    assert found.get("output.name") == ("map" if is_map else None)


def test_distributions_of_sides_are_refused() -> None:
    scores = {f"s{i}": (1, rows, 3) for i, rows in enumerate((96, 24, 6))}
    sides = {f"b{i}": (1, rows, 32) for i, rows in enumerate((96, 24, 6))}
    (refusal,) = concluded(scores | sides).refusals
    assert "the file's 6 outputs are scores and distributions of sides for each stride" in refusal
    assert not concluded(scores | dict.fromkeys(sides, (1, 1, 32))).refusals
    assert not concluded(scores).refusals


@pytest.mark.parametrize(
    ("rows", "counts", "output"),
    [
        ("bbox", "bbox_num", {"head": "paddle"}),
        ("nms_0", "nms_2", {"head": "paddle", "rows": "nms_0", "counts": "nms_2"}),
    ],
)
def test_paddle_s_list_under_any_names(rows: str, counts: str, output: dict[str, str]) -> None:
    found = values(
        conclude(
            model_file(TensorInfo(rows, FLOAT, ("m", 6)), TensorInfo(counts, "tensor(int32)", ("n",))), Given(), []
        ),
        "output.",
    )
    assert found == output


def test_d_fine_s_outputs_are_told_by_its_input() -> None:
    outputs = [TensorInfo(name, FLOAT, (1, 9, 4)[: 3 if name == "boxes" else 2]) for name in THREE]
    file = replace(model_file(*outputs), others={"orig_target_sizes": "width_height"})
    assert values(conclude(file, Given(), []), "output.") == {"head": "d_fine"}
    assert values(conclude(model_file(*outputs), Given(), []), "output.") == THREE


def test_masks_of_objects_are_said_to_be_left_out() -> None:
    boxes = {"boxes": ("m", 4), "labels": ("m",), "scores": ("m",)}
    notes = concluded(boxes | {"masks": ("m", 1, 8, 8)}).notes
    assert "the file also gives masks of each object, which are not answered: boxes are" in notes
    assert not [note for note in concluded(boxes).notes if "also gives" in note]


def test_boxes_that_own_points_are_refused() -> None:
    (refusal,) = concluded({"dets": (1, 9, 5), "keypoints": (1, 9, 17, 3)}).refusals
    assert "are boxes that own points, as RTMO gives them" in refusal
