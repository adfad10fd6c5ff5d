"""Outputs of one image in two runs: what counts as rounding."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.support.onnx_models import graph, write_model
from tta_server.repository.loader import load_model
from tta_server.serving.agreement import agree
from tta_server.serving.verification import verify

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


# ---- whole numbers ----


def test_classes_of_boxes_may_change_places() -> None:
    assert same(np.array([[3, 1, 2]]), np.array([[1, 3, 2]]))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(1, 20, 30), (1, 1, 20, 30)])
def test_a_map_of_classes_may_differ_in_few_cells(shape: tuple[int, ...], dtype: type) -> None:
    classes = np.random.default_rng(0).integers(0, 3, shape).astype(dtype)
    few, many = classes.copy(), classes.copy()
    few.ravel()[:12] += 1  # of 600
    many.ravel()[:13] += 1
    assert same(classes, few)
    assert not same(classes, many)


@pytest.mark.parametrize(
    ("kind", "node", "check"),
    [
        ("batch", helper.make_node("ReduceMean", ["image"], ["other"], axes=[0]), "batch.independent"),
        ("noise", helper.make_node("RandomNormalLike", ["image"], ["other"]), "outputs.repeatable"),
    ],
)
def test_maps_of_classes_that_depend_on_more_than_the_image(tmp_path: Path, kind: str, node, check: str) -> None:
    """The number of the channel that is the largest against another image, or against noise."""
    nodes = [
        node,
        helper.make_node("Sub", ["image", "other"], ["apart"]),
        helper.make_node("ArgMax", ["apart"], ["classes"], axis=1, keepdims=0),
    ]
    declared = helper.make_tensor_value_info("classes", TensorProto.INT64, ["n", "h", "w"])
    config = {"task": "segmentation", "labels": ["r", "g", "b"], "input": {"size": "free"}}
    model = graph(nodes, ("n", 3, "h", "w"), "float32", [declared])
    found = verify(load_model(write_model(tmp_path / kind, model, config | {"output": {"kind": "classes"}})))
    assert [warning.check for warning in found.warnings] == [check]
