"""Labels that name a side, and their pairs."""

import pytest

from tta_server.tasks.points.sides import mirrored, names_side, pairs_of


@pytest.mark.parametrize(
    ("label", "other"),
    [
        ("left_eye", "right_eye"),
        ("LeftEar", "rightear"),
        ("L_Eye", "r_eye"),
        ("paw.R", "paw.l"),
        ("rear left paw", "rear right paw"),
    ],
)
def test_a_label_that_names_a_side(label: str, other: str) -> None:
    assert names_side(label)
    assert mirrored(label) == other


@pytest.mark.parametrize("label", ["nose", "tail", "collar", "lr", "ear"])
def test_other_labels(label: str) -> None:
    assert not names_side(label)
    assert mirrored(label) == label


def test_pairs() -> None:
    assert pairs_of(["Nose", "L_Eye", "R_Eye", "R_Ear", "L_Ear"]) == [["L_Eye", "R_Eye"], ["R_Ear", "L_Ear"]]
    assert pairs_of(["nose", "tail"]) == []
    assert pairs_of(["left_eye", "rihgt_eye"]) is None
