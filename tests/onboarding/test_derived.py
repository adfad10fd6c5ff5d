"""What follows from several facts together."""

from typing import Any

from tests.support.model_files import FLOAT, LOGITS, model_file, values
from tta_server.onboarding.conclusions import FLAG, Given, conclude
from tta_server.onboarding.evidence import Fact
from tta_server.onboarding.model_file import TensorInfo

MAP = TensorInfo("mask", FLOAT, (1, 1, 8, 8))
SIDE = TensorInfo("side", FLOAT, (1, 3, 8, 8))


def concluded(*outputs: TensorInfo, **stated: Any) -> dict[str, Any]:
    facts = [Fact(key.replace("__", "."), value, FLAG) for key, value in stated.items()]
    return values(conclude(model_file(*outputs), Given(facts), []))


def test_a_head_is_a_detector_s() -> None:
    assert concluded(output__head="yolov8")["task"] == "detection"
    assert concluded(output__head="yolov8", task="keypoints")["task"] == "keypoints"
    assert "task" not in concluded()


def test_one_map_has_a_label_that_is_there_or_not() -> None:
    assert concluded(MAP, task="segmentation")["output.multilabel"] is True
    assert concluded(MAP, SIDE, task="segmentation", output__name="mask")["output.multilabel"] is True
    assert concluded(MAP, task="segmentation", output__multilabel=False)["output.multilabel"] is False


def test_of_other_outputs_nothing_is_derived() -> None:
    for outputs, stated in (
        ([MAP], {}),
        ([MAP, SIDE], {"task": "segmentation"}),
        ([SIDE], {"task": "segmentation"}),
        ([LOGITS], {"task": "segmentation"}),
    ):
        assert "output.multilabel" not in concluded(*outputs, **stated)
