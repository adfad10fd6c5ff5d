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


def test_labels_that_are_last() -> None:
    last = TensorInfo("y", FLOAT, (1, 8, 8, 3))
    assert concluded(last, task="segmentation", labels=["a", "b", "c"])["output.layout"] == "NHWC"
    assert concluded(last, task="keypoints", labels=["a", "b", "c"], output__kind="heatmaps")["output.layout"] == "NHWC"
    one = concluded(TensorInfo("y", FLOAT, (1, 8, 8, 1)), task="segmentation", labels=["a"])
    assert (one["output.layout"], one["output.multilabel"]) == ("NHWC", True)
    for outputs in ((1, 3, 8, 3), (1, 3, 8, 8)):
        found = concluded(TensorInfo("y", FLOAT, outputs), task="segmentation", labels=["a", "b", "c"])
        assert "output.layout" not in found
    assert "output.layout" not in concluded(last, task="embedding", labels=["a", "b", "c"])


def test_pairs_of_points_follow_from_their_labels() -> None:
    maps = TensorInfo("y", FLOAT, (1, 3, 8, 8))
    paired = concluded(maps, task="keypoints", labels=["Nose", "L_Eye", "R_Eye"])
    assert paired["output.pairs"] == [["L_Eye", "R_Eye"]]
    assert "output.pairs" not in concluded(maps, task="keypoints", labels=["a", "b", "c"])
    stated = [Fact("task", "keypoints", FLAG), Fact("labels", ["nose", "left_eye", "tail"], FLAG)]
    assert "output.pairs" in {choice.key for choice in conclude(model_file(maps), Given(stated), []).choices}
