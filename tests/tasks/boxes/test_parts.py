"""One image's part of outputs in which lists of several images are joined, or padded behind a stated number."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.detection import FREE, IMAGE
from tests.tasks.boxes.test_heads import decoded, made, scene_of
from tta_server.errors import BackendFailed
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.boxes.parts import batch_part, image_part
from tta_server.views.spec import read_view

PADDLE, SSD = BoxesOutput.of(head="paddle"), BoxesOutput.of(head="openvino_ssd")
TENSORFLOW = BoxesOutput.of(head="tensorflow")
LISTS = st.lists(st.integers(0, 5), min_size=1, max_size=6)


def lists_of(counts: list[int], columns: int) -> list[np.ndarray]:
    rng = np.random.default_rng(sum(counts))
    return [rng.uniform(0, 1, (count, columns)).astype(np.float32) for count in counts]


def joined(output: BoxesOutput, lists: list[np.ndarray], seed: int = 0) -> dict[str, Any]:
    """As the model gives them; those with numbers in any order among the images, and rubbish behind the end."""
    if output is PADDLE:
        return {"rows": np.concatenate(lists), "counts": np.array([len(each) for each in lists], np.int32)}
    for number, rows in enumerate(lists):
        rows[:, 0] = number
    rows = np.concatenate(lists)
    order = np.argsort(rows[:, 0] * 0 + np.random.default_rng(seed).permutation(len(rows)), kind="stable")
    end = np.array([[-1, 0, 0, 0, 0, 0, 0], [0, 1, 0.75, 0, 0, 1, 1]], np.float32)
    return {"rows": np.concatenate([rows[np.sort(order)], end])[None, None]}


@pytest.mark.parametrize(("output", "columns"), [(PADDLE, 6), (SSD, 7)], ids=["paddle", "openvino_ssd"])
@given(counts=LISTS)
def test_splitting_undoes_joining(output: BoxesOutput, columns: int, counts: list[int]) -> None:
    lists = lists_of(counts, columns)
    found = joined(output, lists)
    for row, own in enumerate(lists):
        np.testing.assert_array_equal(image_part(output, found, row)["rows"], own)


@pytest.mark.parametrize(("output", "columns"), [(PADDLE, 6), (SSD, 7)], ids=["paddle", "openvino_ssd"])
@given(counts=LISTS)
def test_a_part_as_a_batch_of_one_is_the_part(output: BoxesOutput, columns: int, counts: list[int]) -> None:
    found = joined(output, lists_of(counts, columns))
    for row in range(len(counts)):
        alone, own = image_part(output, batch_part(output, found, row), 0), image_part(output, found, row)
        start = 1 if output is SSD else 0  # the number is that in its batch
        np.testing.assert_array_equal(alone["rows"][:, start:], own["rows"][:, start:])
        assert found["rows"].base is None or len(counts)


def test_the_rows_of_images_may_be_mixed_if_they_have_numbers() -> None:
    rows = np.float32([[1, 1, 0.5, 0, 0, 1, 1], [0, 1, 0.25, 0, 0, 1, 1], [1, 2, 0.75, 0, 0, 1, 1]])[None, None]
    assert image_part(SSD, {"rows": rows}, 1)["rows"][:, 2].tolist() == [0.5, 0.75]
    assert image_part(SSD, {"rows": rows}, 2)["rows"].tolist() == []
    batch_part(SSD, {"rows": rows}, 1)
    assert rows[0, 0, 0, 0] == 1


def test_several_lists_with_numbers_of_their_own_are_no_answer() -> None:
    """As a backend gives them that runs a large batch in parts: row 1 would have no box."""
    lists = np.zeros((2, 1, 3, 7), np.float32)
    with pytest.raises(BackendFailed, match=r"2 lists of boxes.* one"):
        image_part(SSD, {"rows": lists}, 1)


@pytest.mark.parametrize("column", [False, True])
def test_rows_behind_a_stated_number_do_not_count(column: bool) -> None:
    counts = np.float32([2, 0])
    found = {
        "boxes": np.zeros((2, 3, 4), np.float32),
        "scores": np.float32([[0.5, 0.25, 0.75], [1, 1, 1]]),
        "labels": np.ones((2, 3), np.float32),
        "counts": counts[:, None] if column else counts,
    }
    assert image_part(TENSORFLOW, found, 0)["scores"].tolist() == [0.5, 0.25]
    assert image_part(TENSORFLOW, found, 0)["boxes"].shape == (2, 4)
    assert image_part(TENSORFLOW, found, 1)["scores"].tolist() == []
    assert batch_part(TENSORFLOW, found, 0)["scores"].tolist() == [[0.5, 0.25, 0.75]]
    found["counts"] = np.float32([4, 0])
    with pytest.raises(BackendFailed, match="the model says that it found 4 boxes, but gives 3"):
        image_part(TENSORFLOW, found, 0)


@pytest.mark.parametrize(
    ("counts", "row", "sentence"),
    [
        ([2, 2], 1, "the model says that it found 4 boxes, but gives 3"),
        ([4, -2], 1, "numbers of boxes are under 0 or no numbers"),
        ([np.nan, 1], 1, "numbers of boxes are under 0 or no numbers"),
        ([np.inf, 1], 1, "numbers of boxes are under 0 or no numbers"),
    ],
)
def test_numbers_that_the_rows_contradict(counts: list[float], row: int, sentence: str) -> None:
    found = {"rows": np.zeros((3, 6), np.float32), "counts": np.array(counts)}
    with pytest.raises(BackendFailed, match=sentence):
        image_part(PADDLE, found, row)


def test_an_image_without_a_number_of_boxes() -> None:
    with pytest.raises(IndexError):
        image_part(PADDLE, {"rows": np.zeros((3, 6), np.float32), "counts": np.array([3])}, 1)


# ---- decoding, by hand ----


def test_paddle_by_hand() -> None:
    """Class, score, corners; a row of zeros stands for nothing."""
    rows = np.float32([[1, 0.75, 10, 20, 30, 40], [0, 0.5, 1, 2, 3, 4]])
    assert decoded(made("paddle"), bbox=rows, bbox_num=np.int32([2])) == [
        (10, 20, 30, 40, 0.75, 1),
        (1, 2, 3, 4, 0.5, 0),
    ]
    nothing = np.zeros((1, 6), np.float32)
    assert decoded(made("paddle"), bbox=nothing, bbox_num=np.int32([1])) == []
    assert decoded(made("paddle"), bbox=nothing[:0], bbox_num=np.int32([0])) == []


def test_tensorflow_by_hand() -> None:
    """In 100x80 pixels; class 1 is the first label, and 0.9 is behind the only box."""
    outputs = {
        "detection_boxes": np.float32([[[0.25, 0.1, 0.5, 0.3], [0, 0, 1, 1]]]),
        "detection_scores": np.float32([[0.75, 0.9]]),
        "detection_classes": np.float32([[2, 1]]),
        "num_detections": np.float32([1]),
    }
    assert decoded(made("tensorflow"), **outputs) == [(10, 20, 30, 40, 0.75, 1)]


def test_openvino_ssd_by_hand() -> None:
    rows = np.float32([[0, 2, 0.75, 0.1, 0.25, 0.3, 0.5], [-1, 0, 0, 0, 0, 0, 0], [0, 1, 0.9, 0, 0, 1, 1]])
    assert decoded(made("openvino_ssd"), detection_out=rows[None, None]) == [(10, 20, 30, 40, 0.75, 1)]
    zero = made("openvino_ssd", first_label=0)
    assert decoded(zero, detection_out=rows[:1][None, None] - np.float32([0, 1, 0, 0, 0, 0, 0])) == [
        (10, 20, 30, 40, 0.75, 1)
    ]


def test_d_fine_by_hand() -> None:
    outputs = {
        "labels": np.array([[1]]),
        "boxes": np.float32([[[10, 20, 30, 40]]]),
        "scores": np.float32([[0.75]]),
    }
    assert decoded(made("d_fine"), **outputs) == [(10, 20, 30, 40, 0.75, 1)]


def test_rf_detr_by_hand() -> None:
    """Sigmoids of the logits of 3/4, 1/4; the last class, of 0.9, is none. One query of two counts twice."""
    chances = np.array([[[0.25, 0.75, 0.9], [0.125, 0.125, 0.9]]])
    outputs = {
        "dets": np.float32([[[0.2, 0.375, 0.2, 0.25], [0.5, 0.5, 1, 1]]]),
        "labels": np.log(chances / (1 - chances)).astype(np.float32),
    }
    assert decoded(made("rf_detr"), **outputs) == [(10, 20, 30, 40, 0.75, 1), (10, 20, 30, 40, 0.25, 0)]
    shapes = {"dets": (None, 2, 4), "labels": (None, 2, 3)}
    first = made("rf_detr", shapes, background="first")
    assert [row[-2:] for row in decoded(first, **outputs)] == [(0.9, 1), (0.9, 1)]
    all_named = made("rf_detr", shapes, ("a", "b", "c"), background="none")
    assert [row[-2:] for row in decoded(all_named, **outputs)] == [(0.9, 2), (0.9, 2)]


def test_a_row_whose_image_is_no_number_is_unsound_for_every_image() -> None:
    rows = np.float32([[np.nan, 1, 0.75, 0.1, 0.25, 0.3, 0.5]])[None, None]
    detection = made("openvino_ssd")
    place = FREE.place(read_view("identity"), IMAGE)
    for row in (0, 1):
        assert not detection.is_sound(detection.decode({"detection_out": rows}, row, place, scene_of(FREE, IMAGE)))


@pytest.mark.parametrize("head", ["paddle", "openvino_ssd"])
def test_lists_of_all_images_are_joined_and_run_in_batches(head: str) -> None:
    assert made(head).is_joined
    assert made(head).can_batch
    assert not made("tensorflow").is_joined
