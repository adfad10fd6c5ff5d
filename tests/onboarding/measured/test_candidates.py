"""What is tried where nothing states it."""

from typing import Any

import pytest

from tests.support.model_files import model_file
from tta_server.onboarding.measured.candidates import NORMALIZATIONS, find_candidates

FIXED: dict[str, Any] = {"task": "classification", "input.size": [224, 224]}
STATED = FIXED | {"input.color": "BGR", "input.resize": "exact"}


def normalizations(**values: Any) -> set[str | None]:
    given = {f"input.{key}": value for key, value in values.items()}
    return {each.normalization for each in find_candidates(STATED | given, model_file())}


def test_all_combinations_of_what_is_open() -> None:
    found = find_candidates(FIXED, model_file())
    assert len(found) == len(set(found)) == 2 * 3 * 7
    assert {each.resize for each in found} == {"exact", 224, 256}
    assert {each.color for each in found} == {"RGB", "BGR"}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({}, set(NORMALIZATIONS)),
        ({"scale": 1}, {"0 to 255", "0 to 255 less the mean"}),
        ({"mean": [0.5, 0.5, 0.5]}, {"-1 to 1"}),
        ({"mean": [0.406, 0.456, 0.485]}, {"ImageNet"}),
        ({"mean": [0.485, 0.456, 0.406]}, set()),
        ({"mean": [0], "std": [1]}, {"0 to 1", "0 to 255"}),
        ({"mean": [0, 1]}, set()),
        ({"mean": [0], "std": [1], "scale": 255}, {None}),
        ({"color": "grey"}, {"0 to 1", "-1 to 1", "0 to 255"}),
    ],
)
def test_normalizations_agree_with_what_is_stated(values: dict[str, Any], names: set[str | None]) -> None:
    """Mean and std are in the model's order, here blue first."""
    assert normalizations(**values) == names


def test_what_is_stated_is_not_tried() -> None:
    stated = STATED | {"input.scale": 255, "input.mean": [0], "input.std": [1]}
    (only,) = find_candidates(stated, model_file())
    assert (only.color, only.resize, only.normalization) == ("BGR", "exact", None)


def test_bytes_are_not_normalised() -> None:
    found = find_candidates(FIXED, model_file(kind="tensor(uint8)"))
    assert {each.normalization for each in found} == {None}


@pytest.mark.parametrize("values", [FIXED | {"task": "detection"}, {"task": "classification", "input.size": "free"}])
def test_crops_are_tried_where_there_may_be_one(values: dict[str, Any]) -> None:
    assert {each.resize for each in find_candidates(values, model_file())} == {None}
