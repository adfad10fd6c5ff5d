"""Columns by values computed by hand, also of tasks that no bundled model has."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper
from PIL import Image

from tta_server.scoring.formats import FORMATS
from tta_server.scoring.schema import schema_of
from tta_server.scoring.scorer import Scorer

INPUT = "input: {size: [8, 8], scale: 1, mean: [4.0], std: [1.0]}\npolicy: hflip\nsymmetries: [hflip]\n"
"""Of a black pixel -4, of one of 9 in a channel 5."""
LABELS = "labels: [red, green, blue]\n"


def colors_model(folder: Path, config: str, node: str) -> Path:
    """A model that gives what a node makes of the image: its pixels (Identity), or the means of its channels."""
    result: list[Any] = ["N", 3, "h", "w"] if node == "Identity" else ["N", 3]
    attributes: dict[str, Any] = {} if node == "Identity" else {"axes": [2, 3], "keepdims": 0}
    graph = helper.make_graph(
        [helper.make_node(node, ["image"], ["found"], **attributes)],
        "colors",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "h", "w"])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, result)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "tta.yaml").write_text(config + INPUT)
    return folder


def columns_of(folder: Path, image: np.ndarray, **options: Any) -> dict[str, Any]:
    """The row of Parquet of an image."""
    parquet = FORMATS["parquet"]
    with Scorer(folder, **options) as scorer:
        (found,) = scorer([image])
        schema = schema_of(scorer.plan)
    content = parquet.encode(schema, 0, [parquet.row(schema, found)])
    (row,) = pq.read_table(io.BytesIO(content)).to_pylist(maps_as_pydicts="strict")
    return dict(row)


def picture(*corners: tuple[int, int, int]) -> np.ndarray:
    """An image of 6 by 4 pixels, black but for rectangles of (rows, columns, channel) from its corner."""
    image = np.zeros((4, 6, 3), np.uint8)
    for rows, columns, channel in corners:
        image[:rows, :columns, channel] = 9
    return image


def test_a_class(tmp_path: Path) -> None:
    """Logits are the means of channels less 4."""
    model = colors_model(tmp_path / "toy", "task: classification\noutput: {kind: logits}\n" + LABELS, "ReduceMean")
    row = columns_of(model, np.broadcast_to(np.uint8([3, 0, 5]), (8, 8, 3)))
    powers = np.exp([-1.0, -4.0, 1.0])
    assert (row["label"], row["index"]) == ("blue", 2)
    assert row["probabilities"] == pytest.approx(powers / powers.sum(), abs=1e-6)


def test_labels_that_may_be_true_together(tmp_path: Path) -> None:
    """Logits are the means of channels less 4."""
    model = colors_model(tmp_path / "toy", "task: multilabel\noutput: {kind: logits}\n" + LABELS, "ReduceMean")
    row = columns_of(model, np.broadcast_to(np.uint8([9, 0, 3]), (8, 8, 3)))
    assert row["labels"] == ["red"]
    assert row["probabilities"] == pytest.approx(1 / (1 + np.exp([-5.0, 4.0, 1.0])), abs=1e-6)
    assert [each["label"] for each in json.loads(row["included"])["top"]] == ["red", "blue", "green"]


def test_a_vector(tmp_path: Path) -> None:
    """Of length 1, as embeddings are compared: (3, 0, 4) / 5."""
    model = colors_model(tmp_path / "toy", "task: embedding\noutput: {name: found}\n", "ReduceMean")
    row = columns_of(model, np.broadcast_to(np.uint8([7, 4, 8]), (8, 8, 3)))
    assert row["embedding"] == pytest.approx([0.6, 0, 0.8], abs=1e-6)
    assert json.loads(row["included"]).keys().isdisjoint({"embedding"})


def test_masks_that_may_overlap(tmp_path: Path) -> None:
    """Each label's mask is a picture of its own, of the image's size."""
    config = "task: segmentation\noutput: {kind: logits, multilabel: true}\n" + LABELS
    row = columns_of(colors_model(tmp_path / "toy", config, "Identity"), picture((4, 6, 0), (4, 3, 2)))
    assert (row["height"], row["width"], row["mask"]) == (4, 6, None)
    masks = {label: np.asarray(Image.open(io.BytesIO(png))) > 0 for label, png in row["masks"].items()}
    assert row["area"] == {label: int(mask.sum()) for label, mask in masks.items()}
    assert masks["red"].all()
    assert masks["blue"].tolist() == [[True, True, True, False, False, False]] * 4
    assert not masks["green"].any()
    assert {label: mask.shape for label, mask in masks.items()} == dict.fromkeys(row["masks"], (4, 6))
