"""The columns of Parquet hold what the lines of JSON hold, for each task; the same rows give the same bytes."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.scoring.test_coco import tiny
from tests.support import pictures
from tests.support.references import MODELS
from tests.support.rle import decoded
from tests.support.scoring import BROKEN, shard_of
from tta_server.errors import ConfigError, InvalidInput
from tta_server.scoring.columns import TASKS as TASKS_WITH_COLUMNS
from tta_server.scoring.failures import read_limit
from tta_server.scoring.formats import FORMATS, check_fits, choose_format, choose_masks
from tta_server.scoring.schema import Schema, schema_of
from tta_server.scoring.scorer import Scorer
from tta_server.tasks import TASKS

INCLUDE = {"clothing": ["agreement", "views"], "nuclei": ["agreement"], "nuclei-count": ["uncertainty"]}


def stored(name: str, schema: Schema, found: list[Any]) -> bytes:
    return FORMATS[name].encode(schema, 0, [FORMATS[name].row(schema, one) for one in found])


@pytest.mark.parametrize("name", ["clothing", "bloodcells", "mouse", "nuclei-count", "nuclei"])
def test_the_same_answers_in_columns_and_in_lines(name: str) -> None:
    image = pictures.encoded(pictures.nuclei() if name.startswith("nuclei") else pictures.pixels())
    with Scorer(MODELS / name, max_views=2, include=INCLUDE.get(name, [])) as scorer:
        found = list(scorer([image, BROKEN]))
        schema = schema_of(scorer.plan)
    lines = [json.loads(line) for line in stored("jsonl", schema, found).splitlines()]
    content = stored("parquet", schema, found)
    assert content == stored("parquet", schema, found)
    ok, failed = pq.read_table(io.BytesIO(content)).to_pylist(maps_as_pydicts="strict")
    assert (ok["id"], ok["status"], ok["error"], ok["views"]) == ("0", "ok", None, 2)
    assert (failed["status"], failed["error"]) == ("failed", lines[1]["error"])
    assert {value for key, value in failed.items() if key not in ("id", "status", "error")} == {None}
    receipt = json.loads(ok["receipt"])
    assert receipt == lines[0]["receipt"]
    assert (ok["confidence"], ok["stop_reason"]) == (receipt["confidence"], receipt["stop_reason"])
    expected = lines[0]["prediction"]
    columns = {key: value for key, value in ok.items() if key in expected}
    included = json.loads(ok["included"])
    assert (
        columns | included == expected
        if schema.task != "segmentation"
        else expected.keys() <= columns.keys() | included.keys()
    )


def test_a_mask_is_a_picture() -> None:
    with Scorer(MODELS / "nuclei", max_views=1) as scorer:
        (one,) = scorer([pictures.nuclei(90, 70)])
    (row,) = pq.read_table(io.BytesIO(stored("parquet", Schema("segmentation", "nuclei"), [one]))).to_pylist()
    mask = np.asarray(Image.open(io.BytesIO(row["mask"])))
    assert np.array_equal(mask, one.outcome.result.mask)
    assert dict(row["area"]) == one.outcome.prediction["area"]
    assert row["views"] == 1


@pytest.mark.parametrize("task", ["segmentation", "masks"])
def test_masks_as_run_lengths_in_columns_and_in_lines(tmp_path: Path, task: str) -> None:
    """Red on the left, blue on the right, no green; pycocotools takes each value as it is."""
    image = np.zeros((2, 5, 3), np.uint8)
    image[:, :2, 0] = image[:, 2:, 2] = 255
    model = tiny(task, tmp_path)
    line = json.loads(shard_of("jsonl", model, [image], masks="rle"))["prediction"]
    (row,) = pq.read_table(io.BytesIO(shard_of("parquet", model, [image], masks="rle"))).to_pylist()
    assert dict(row["masks"]) == line["masks"]
    assert "mask" not in line.keys() | row.keys()
    assert np.array_equal([decoded(mask) for mask in line["masks"].values()], image.transpose(2, 0, 1) > 0)
    assert line["area"] == dict(row["area"]) == {"red": 4, "green": 0, "blue": 6}


def test_masks_are_chosen_by_name() -> None:
    chosen = {name: [choose_masks(FORMATS[name], None), choose_masks(FORMATS[name], "rle")] for name in FORMATS}
    assert chosen == {
        "parquet": ["png", "rle"], "jsonl": ["png", "rle"], "csv": ["rle"] * 2, "coco": ["rle"] * 2,
        "yolo": ["png", "rle"],
    }  # fmt: skip
    with pytest.raises(ConfigError, match="--masks takes png or rle, not polygons"):
        choose_masks(FORMATS["jsonl"], "polygons")
    with pytest.raises(ConfigError, match="--format coco holds masks as rle, not png; leave --masks out"):
        choose_masks(FORMATS["coco"], "png")
    with pytest.raises(ConfigError, match="--masks is for segmentation, and toy does detection; leave --masks out"):
        check_fits(FORMATS["jsonl"], Schema("detection", "toy"), "rle")
    with pytest.raises(InvalidInput, match="masks takes png or rle, not 'polygons'"):
        Scorer(MODELS / "nuclei", masks="polygons")


def test_each_task_has_columns() -> None:
    assert TASKS_WITH_COLUMNS.keys() == TASKS.keys()


def test_formats_by_name() -> None:
    assert choose_format(None).name == "parquet"
    assert choose_format("jsonl").suffix == ".jsonl"
    with pytest.raises(ConfigError, match="--format takes parquet, jsonl, csv, coco, yolo, not xml"):
        choose_format("xml")


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tta_server.scoring.arrow.find_spec", lambda name: None)
    assert choose_format(None).name == "jsonl"
    with pytest.raises(ConfigError, match=r"pip install 'tta-server\[score\]', or use --format jsonl"):
        choose_format("parquet")


@pytest.mark.parametrize(
    ("text", "failed", "passed"),
    [("0", 1, True), ("12", 12, False), ("12", 13, True), ("1%", 10, False), ("1%", 11, True), ("0.5%", 6, True)],
)
def test_a_limit_of_failures(text: str, failed: int, passed: bool) -> None:
    limit = read_limit(text)
    assert limit
    assert limit.is_passed(failed, 1000) is passed


@pytest.mark.parametrize("text", ["", "-1", "half", "1.5", "101%", "1 %"])
def test_a_limit_that_makes_no_sense(text: str) -> None:
    with pytest.raises(Exception, match="--max-failures takes a number of images, or a share of them like 1%, not"):
        read_limit(text)
