"""A run of the file shows which of two heads of one shape it has."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.support.exports import write_export
from tests.support.heads import cells
from tests.support.onnx_models import graph
from tta_server.onboarding.evidence import Fact
from tta_server.onboarding.measured.heads import measure_head
from tta_server.onboarding.model_file import read_model_file
from tta_server.views.geometry import Size

INPUT = Size(96, 64)
MIDDLES, LENGTHS = cells(INPUT)


def raw(rng: Any) -> np.ndarray:
    return np.concatenate([rng.normal(0.5, 0.5, MIDDLES.shape), rng.normal(1, 0.8, MIDDLES.shape)], axis=1)


def decoded(rng: Any) -> np.ndarray:
    found = raw(rng)
    return np.concatenate([MIDDLES + (found[:, :2] - 0.5) * LENGTHS, np.exp(found[:, 2:]) * LENGTHS], axis=1)


def elsewhere(rng: Any) -> np.ndarray:
    """Boxes in pixels in an order that is not that of cells."""
    return decoded(rng)[::-1]


def broken(rng: Any) -> np.ndarray:
    return np.full((len(MIDDLES), 4), np.inf)


def written(folder: Path, boxes: np.ndarray, shape=(1, 3, 64, 96)) -> Path:
    """A file that gives these boxes for any image, with an objectness and three classes."""
    rows = np.concatenate([boxes, np.full((len(boxes), 4), 0.1)], axis=1)[None].astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Constant", [], ["last"], value_ints=[3]),
        helper.make_node("Constant", [], ["rows"], value=helper.make_tensor("t", 1, rows.shape, rows.ravel())),
        helper.make_node("Squeeze", ["mean", "last"], ["flat"]),
        helper.make_node("Sub", ["flat", "flat"], ["nothing"]),
        helper.make_node("Add", ["nothing", "rows"], ["output"]),
    ]
    declared = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", len(boxes), 8])
    return write_export(folder, graph(nodes, shape, "float32", [declared]))


def found(folder: Path, boxes: np.ndarray, **facts: Any) -> list[tuple[str, Any]]:
    stated = {"task": "detection"} | {key.replace("__", "."): value for key, value in facts.items()}
    file = read_model_file(written(folder, boxes))
    return [(each.key, each.value) for each in measure_head(file, stated) if isinstance(each, Fact)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("boxes", "head"), [(raw, "yolox"), (decoded, "yolov5"), (elsewhere, None), (broken, None)])
def test_what_boxes_show(tmp_path: Path, boxes: Any, head: str | None, seed: int) -> None:
    expected = [("output.head", head)] if head else []
    assert found(tmp_path, boxes(np.random.default_rng(seed))) == expected


def test_nothing_is_run_where_nothing_is_open(tmp_path: Path) -> None:
    boxes = raw(np.random.default_rng(0))
    assert not found(tmp_path, boxes, output__head="yolov8")
    assert not found(tmp_path, boxes, task="keypoints")
    assert not found(tmp_path, boxes[:-1]), "no row for each cell"
