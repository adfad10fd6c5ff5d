"""COCO's run lengths give the mask back; texts that pycocotools made are ours to the character."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tests.support.rle import decoded, run_lengths
from tta_server.tasks.render.rle import encode_classes, encode_mask

SIZES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)


@given(arrays(np.bool_, SIZES))
def test_decoding_gives_the_mask_back(mask: np.ndarray) -> None:
    found = encode_mask(mask)
    assert found["size"] == list(mask.shape)
    assert np.array_equal(decoded(found), mask)


@given(arrays(np.uint8, SIZES, elements=st.sampled_from([0, 1, 2, 3, 255])))
def test_each_class_of_a_map_is_as_its_own_mask(classes: np.ndarray) -> None:
    """Pixels of no class (255) are in no mask."""
    found = encode_classes(classes, range(4))
    assert found == [encode_mask(classes == index) for index in range(4)]
    assert np.array_equal(sum(decoded(each) for each in found), classes != 255)


@given(st.integers(0, 3), st.lists(st.integers(1, 5000), min_size=1, max_size=30))
def test_runs_of_any_length(height: int, runs: list[int]) -> None:
    """Long runs take more than one character, and shorter ones after them a negative number."""
    column = np.repeat(np.arange(len(runs)) % 2 == 0, runs)
    lengths = run_lengths(encode_mask(column[:, None])["counts"])
    assert lengths == [0, *runs]


ROWS, COLUMNS = np.mgrid[:12, :12]
BARS = np.zeros((7, 9), np.bool_)
BARS[2:5, 3] = BARS[1:6, 5] = BARS[6, 8] = True


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        (np.array([[1]]), "01"),
        (np.array([[0]]), "1"),
        (np.array([[0, 1, 1], [0, 0, 1]]), "2111"),
        (np.array([[0, 1, 0], [1, 1, 0]]), "132"),
        (BARS, "g03:2;L"),
        ((ROWS - 5.5) ** 2 + (COLUMNS - 5.5) ** 2 < 25, "`0464N0O2O000001N102L:"),
    ],
    ids=["one", "none", "stairs", "turned", "bars", "disc"],
)
def test_what_pycocotools_writes(mask: np.ndarray, counts: str) -> None:
    """Texts of pycocotools 2.0.11."""
    assert encode_mask(mask.astype(np.bool_))["counts"] == counts
