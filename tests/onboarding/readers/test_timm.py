"""timm's config.json."""

from typing import Any

import pytest

from tests.support.exports import TIMM
from tests.support.model_files import LOGITS, model_file, values
from tta_server.onboarding.conclusions import Given, conclude
from tta_server.onboarding.evidence import Document

FREE = ("n", 3, "h", "w")


def concluded(shape=FREE, top: dict[str, Any] | None = None, **changes: Any):
    content = TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | changes} | (top or {})
    return conclude(model_file(LOGITS, shape=shape), Given(), [Document("config.json", content)])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"size": [8, 8], "resize": 10}),
        ({"input_size": [3, 224, 224], "crop_pct": 0.95}, {"size": [224, 224], "resize": 235}),
        ({"input_size": [3, 224, 224], "crop_pct": None}, {"size": [224, 224], "resize": 256}),
        ({"crop_pct": 1.0, "crop_mode": "squash"}, {"size": [8, 8], "resize": "exact"}),
        ({"crop_mode": "squash"}, {"size": [8, 8], "resize": "exact", "crop_from": [10, 10]}),
        ({"input_size": [3, 8, 16]}, {"size": [8, 16], "resize": "cover", "crop_from": [10, 20]}),
        ({"crop_pct": 1.0}, {"size": [8, 8], "resize": 8}),
        ({"interpolation": None}, {"interpolation": "bicubic"}),
        ({"input_size": [1, 8, 8], "mean": [0.5], "std": [0.5]}, {"color": "grey", "mean": [0.5], "std": [0.5]}),
    ],
)
def test_what_it_states(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    found = concluded(shape=("n", "c", "h", "w"), **changes)
    assert not found.refusals
    assert values(found, "input.") | expected == values(found, "input.")
    assert values(found)["labels"] == ["red", "green", "blue"]


def test_the_size_of_the_file_decides() -> None:
    sizes = {"input_size": [3, 224, 224], "test_input_size": [3, 288, 288], "crop_pct": 0.875, "test_crop_pct": 1.0}
    assert values(concluded(**sizes), "input.")["resize"] == 256
    tested = values(concluded(("n", 3, 288, 288), **sizes), "input.")
    assert (tested["size"], tested["resize"]) == ([288, 288], 288)
    (refusal,) = concluded(("n", 3, 256, 256), **sizes).refusals
    assert "input_size is [3, 224, 224], but the model file takes [256, 256]" in refusal


def test_a_network_without_classes() -> None:
    found = concluded(top={"num_classes": 0})
    assert values(found)["task"] == "embedding"
    assert not found.choices


def test_that_one_class_is_true_is_said() -> None:
    assert concluded().notes == [
        "config.json: timm does not state whether several classes may be true together; one is assumed"
    ]


def test_names_that_are_missing_are_asked_for() -> None:
    assert [choice.key for choice in concluded(top={"label_names": None}).choices] == ["labels"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"crop_mode": "border"}, "crop_mode border can't be stated in tta.yaml; center, squash can"),
        ({"interpolation": "hamming"}, "interpolation 'hamming' can't be stated"),
        ({"crop_pct": "most"}, "config.json: crop_pct is 'most'; it should be a number"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], sentence: str) -> None:
    (refusal,) = concluded(**changes).refusals
    assert sentence in refusal
