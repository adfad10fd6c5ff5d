"""CSV by values computed by hand: one row an image, or one a box or point, and a header in every shard."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scoring.test_coco import lit, tiny
from tests.support.rle import decoded
from tests.support.scoring import BROKEN, shard_of
from tests.tasks.test_every_task import TINY
from tta_server.errors import ConfigError
from tta_server.scoring.csv_rows import CELLS, COLUMNS
from tta_server.scoring.formats import FORMATS, check_fits
from tta_server.scoring.schema import Schema
from tta_server.tasks import TASKS

COLOR = np.zeros((8, 8, 3), np.uint8) + np.array([51, 102, 255], np.uint8)
"""Its channels have the means 0.2, 0.4 and 1, which the models of vectors give."""
HALVES = np.zeros((2, 5, 3), np.uint8)
HALVES[:, :2, 0] = HALVES[:, 2:, 2] = 255


def rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def rows_of(task: str, folder: Path, *images: Any) -> list[dict[str, str]]:
    return rows(shard_of("csv", tiny(task, folder), images))


def test_each_task_has_columns() -> None:
    assert CELLS.keys() == COLUMNS.keys() == TASKS.keys()


def test_a_class(tmp_path: Path) -> None:
    """Probabilities of 0.2, 0.4 and 1, which the model's own mean does not make a sum of 1."""
    ok, failed = rows_of("classification", tmp_path, COLOR, BROKEN)
    assert [ok[key] for key in ("id", "status", "error", "label", "index", "views")] == [
        "0",
        "ok",
        "",
        "blue",
        "2",
        "1",
    ]
    found = [float(ok[f"probability_{label}"]) for label in ("red", "green", "blue")]
    assert found == pytest.approx([0.2, 0.4, 1], abs=1e-6)
    assert ok["stop_reason"] == "all_views"
    assert failed["error"].startswith("this is not an image")
    assert {key for key, value in failed.items() if value} == {"id", "status", "error"}


def test_labels_that_may_be_true_together(tmp_path: Path) -> None:
    (row,) = rows_of("multilabel", tmp_path, COLOR)
    assert [row[f"present_{label}"] for label in ("red", "green", "blue")] == ["0", "0", "1"]
    assert float(row["probability_green"]) == pytest.approx(0.4, abs=1e-6)


def test_numbers_and_vectors(tmp_path: Path) -> None:
    (row,) = rows_of("regression", tmp_path / "values", COLOR)
    assert [float(row[f"value_{label}"]) for label in ("red", "green", "blue")] == pytest.approx([0.2, 0.4, 1])
    (row,) = rows_of("embedding", tmp_path / "vectors", COLOR)
    length = np.sqrt(0.04 + 0.16 + 1)
    found = [float(row[f"embedding_{n}"]) for n in range(3)]
    assert found == pytest.approx([0.2 / length, 0.4 / length, 1 / length], abs=1e-6)


def test_a_number_has_the_digits_of_its_precision(tmp_path: Path) -> None:
    """0.2 in float32 is not 0.20000000298023224: the fewest digits that give it back are kept."""
    (row,) = rows_of("classification", tmp_path, COLOR)
    assert np.float32(row["probability_red"]) == pytest.approx(np.float32(0.2), abs=1e-7)
    assert len(row["probability_red"]) <= len("0.20000001")


@pytest.mark.parametrize("task", ["segmentation", "masks"])
def test_masks_are_areas_and_run_lengths(tmp_path: Path, task: str) -> None:
    (row,) = rows_of(task, tmp_path, HALVES)
    assert [row[key] for key in ("height", "width")] == ["2", "5"]
    assert [row[f"area_{label}"] for label in ("red", "green", "blue")] == ["4", "0", "6"]
    masks = [decoded({"size": [2, 5], "counts": row[f"rle_{label}"]}) for label in ("red", "green", "blue")]
    assert np.array_equal(masks, HALVES.transpose(2, 0, 1) > 0)


def test_a_row_a_box_and_one_for_an_image_without(tmp_path: Path) -> None:
    images = [lit((0, (3, 2, 9, 7), 255), (1, (10, 4, 12, 12), 204)), lit(), BROKEN]
    found = rows_of("detection", tmp_path, *images)
    assert [(row["id"], row["status"], row["box"], row["label"]) for row in found] == [
        ("0", "ok", "0", "red"), ("0", "ok", "1", "green"), ("1", "ok", "", ""), ("2", "failed", "", ""),
    ]  # fmt: skip
    corners = [[float(row[key]) for key in ("left", "top", "right", "bottom")] for row in found[:2]]
    assert corners == [[3, 2, 9, 7], [10, 4, 12, 12]]
    assert [row["score"] for row in found] == ["1.0", "0.8", "", ""]
    assert [(row["height"], row["width"], row["views"]) for row in found] == [("16", "20", "1")] * 3 + [("", "", "")]
    assert [(row["found_by"], row["visible_in"]) for row in found[:2]] == [("1", "1")] * 2


def test_a_row_a_point(tmp_path: Path) -> None:
    """The model gives each point the mean of a channel, as a share of both sides."""
    found = rows_of("points", tmp_path, COLOR)
    assert [(row["id"], row["label"]) for row in found] == [("0", label) for label in ("red", "green", "blue")]
    assert [float(row["x"]) for row in found] == pytest.approx([1.6, 3.2, 8], abs=1e-3)
    assert [row["visible"] for row in found] == ["1"] * 3


def test_cells_are_quoted_as_rfc_4180_says() -> None:
    stored, schema = FORMATS["csv"], Schema("classification", "any", ('a "b", c',))
    content = stored.encode(schema, 0, [[{"id": 'sub/ü, "1"\n.jpg', "status": "failed", "error": "x"}]])
    header, row, rest = content.split(b"\r\n")
    assert header == b'id,status,error,label,index,"probability_a ""b"", c",views,confidence,stop_reason'
    assert row == 'sub/ü, "1"\n.jpg'.replace('"', '""').join('""').encode() + b",failed,x,,,,,,"
    assert rest == b""


def test_vectors_whose_length_is_open_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs the length of the vectors, which toy does not state; use parquet"):
        check_fits(FORMATS["csv"], Schema("embedding", "toy"), None)
    check_fits(FORMATS["csv"], Schema("embedding", "toy", dimensions=3), None)
    check_fits(FORMATS["parquet"], Schema("embedding", "toy"), None)


def test_a_shard_of_failures_has_the_same_header(tmp_path: Path) -> None:
    for task in TINY.keys() & {"classification", "embedding", "segmentation", "points"}:
        model = tiny(task, tmp_path / task)
        whole, failures = (shard_of("csv", model, images) for images in ([COLOR], [BROKEN]))
        assert whole.split(b"\r\n")[0] == failures.split(b"\r\n")[0]
