"""Outputs of one image in two runs: what counts as rounding."""

import numpy as np

from tta_server.serving.agreement import agree

ROWS = np.float32([[1, 0.75, 10, 20, 30, 40], [0, 0.5, 1, 2, 3, 4], [2, 0.25, 5, 6, 7, 8]])
NUDGED = ROWS * np.float32(1 + 1e-5)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return agree({"rows": one}, {"rows": other}, ["rows"])


def test_all_rows_of_a_list_without_a_batch_axis_are_compared() -> None:
    assert same(ROWS, NUDGED)
    assert same(ROWS, NUDGED[[0, 2, 1]])  # rounding may reorder boxes
    assert same(ROWS[:1], NUDGED[:1])
    moved = NUDGED.copy()
    moved[2, 2:] += 9
    assert not same(ROWS, moved)
    assert not same(ROWS[None], moved[None])


def test_other_numbers_of_boxes_show_nothing() -> None:
    assert same(ROWS, ROWS[:2] + 9)
