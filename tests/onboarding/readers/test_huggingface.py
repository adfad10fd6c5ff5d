"""config.json of Hugging Face."""

from typing import Any

import pytest

from tests.support.exports import VIT_CONFIG
from tests.support.model_files import FLOAT, LOGITS, model_file, values
from tta_server.onboarding.conclusions import FLAG, Given, conclude
from tta_server.onboarding.evidence import Document, Fact
from tta_server.onboarding.model_file import TensorInfo

BOXES = TensorInfo("pred_boxes", FLOAT, (1, 9, 4))
ROWS = TensorInfo("logits", FLOAT, (1, 9, 3))
HIDDEN = TensorInfo("last_hidden_state", FLOAT, (1, 5, 8))


def concluded(*outputs: TensorInfo, **changes: Any):
    return conclude(model_file(*outputs), Given(), [Document("config.json", VIT_CONFIG | changes)])


@pytest.mark.parametrize(
    ("problem", "task", "kind"),
    [
        (None, "classification", "logits"),
        ("single_label_classification", "classification", "logits"),
        ("multi_label_classification", "multilabel", "logits"),
        ("regression", "regression", "values"),
    ],
)
def test_the_problem_is_the_task(problem: str | None, task: str, kind: str) -> None:
    found = values(concluded(problem_type=problem))
    assert (found["task"], found["output.kind"]) == (task, kind)
    assert found["labels"] == ["red", "green", "blue"]


@pytest.mark.parametrize("architecture", ["BeitForSemanticSegmentation", "UperNetForSemanticSegmentation"])
def test_a_segmenter(architecture: str) -> None:
    found = values(concluded(architectures=[architecture]))
    assert (found["task"], found["output.kind"], found["output.multilabel"]) == ("segmentation", "logits", False)


@pytest.mark.parametrize("head", ["UniversalSegmentation", "InstanceSegmentation"])
def test_masks_of_queries(head: str) -> None:
    outputs = [
        TensorInfo("class_queries_logits", FLOAT, (1, 9, 4)),
        TensorInfo("masks_queries_logits", FLOAT, (1, 9, 8, 8)),
    ]
    found = concluded(*outputs, architectures=[f"XFor{head}"])
    assert values(found, "output.") == {"kind": "queries"}
    assert "single objects are not separated" in found.notes[0]
    assert not {choice.key for choice in found.choices} & {"output.name", "output.multilabel"}


def test_logits_are_read_of_several_outputs() -> None:
    assert "output.name" not in values(concluded())
    assert values(concluded(HIDDEN, LOGITS))["output.name"] == "logits"
    assert "output.name" in {choice.key for choice in concluded(HIDDEN, BOXES).choices}


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("detr", "detr"),
        ("yolos", "detr"),
        ("table-transformer", "detr"),
        ("rt_detr", "rt_detr"),
        ("d_fine", "rt_detr"),
        ("conditional_detr", "rt_detr"),
        ("dab-detr", "rt_detr"),
        ("rf_detr", "rt_detr"),
    ],
)
def test_a_detector(kind: str, head: str) -> None:
    found = concluded(ROWS, BOXES, architectures=["XForObjectDetection"], model_type=kind)
    assert values(found, "output.") == {"head": head}
    assert found.notes == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"problem_type": "ranking"}, "problem_type is 'ranking'; known: multi_label_classification"),
        ({"architectures": ["XForObjectDetection"], "model_type": "detr"}, "a detector of this form is not known"),
        ({"architectures": ["XForObjectDetection"]}, "model_type 'vit', with the outputs logits"),
        ({"architectures": ["XForDepthEstimation"]}, "models for DepthEstimation are not served yet"),
        ({"architectures": ["XForUniversalSegmentation"]}, "served are those with class_queries_logits and masks_"),
        ({"architectures": "ViT"}, "config.json: architectures is 'ViT'; it should be a list"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in concluded(LOGITS, **changes).refusals[0]


def test_a_model_without_a_head_states_little() -> None:
    found = concluded(architectures=["ViTModel"])
    assert "task" in {choice.key for choice in found.choices}
    assert "labels" not in found.facts


EMBEDS = TensorInfo("image_embeds", FLOAT, (1, 8))
POOLED = TensorInfo("pooler_output", FLOAT, (1, 8, 1, 1))


@pytest.mark.parametrize(
    ("outputs", "kind", "output"),
    [
        ([EMBEDS, HIDDEN], "clip_vision_model", {"name": "image_embeds"}),
        ([HIDDEN, POOLED], "resnet", {"name": "pooler_output"}),
        ([POOLED], "resnet", {}),
        ([HIDDEN], "dinov2", {"token": "first"}),
        ([HIDDEN], "siglip_vision_model", {}),
        ([HIDDEN, ROWS], "vit", {"name": "last_hidden_state", "token": "first"}),
    ],
)
def test_a_model_without_a_head_gives_a_vector(outputs, kind: str, output: dict[str, str]) -> None:
    found = concluded(*outputs, architectures=["XModel"], model_type=kind)
    assert values(found)["task"] == "embedding"
    assert values(found, "output.") == output
    asked = {choice.key for choice in found.choices}
    assert ("output.token" in asked) == (kind == "siglip_vision_model")


def test_a_pose_of_a_person_is_refused_unless_images_are_crops() -> None:
    heat = TensorInfo("heatmaps", FLOAT, (1, 17, 64, 48))
    found = concluded(heat, architectures=["VitPoseForPoseEstimation"], model_type="vitpose")
    assert "it takes the box of one person" in found.refusals[0]
    given = Given([Fact("task", "keypoints", FLAG)])
    config = VIT_CONFIG | {"architectures": ["VitPoseForPoseEstimation"]}
    assert not conclude(model_file(heat), given, [Document("config.json", config)]).refusals
