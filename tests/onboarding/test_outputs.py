"""Exports that are known by the names and shapes of their outputs."""

from typing import Any

import pytest

from tests.support.model_files import FLOAT, model_file, values
from tta_server.onboarding.conclusions import Given, conclude
from tta_server.onboarding.model_file import TensorInfo

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


def test_distributions_of_sides_are_refused() -> None:
    scores = {f"s{i}": (1, rows, 3) for i, rows in enumerate((96, 24, 6))}
    sides = {f"b{i}": (1, rows, 32) for i, rows in enumerate((96, 24, 6))}
    (refusal,) = concluded(scores | sides).refusals
    assert "the file's 6 outputs are scores and distributions of sides for each stride" in refusal
    assert not concluded(scores | dict.fromkeys(sides, (1, 1, 32))).refusals
    assert not concluded(scores).refusals
