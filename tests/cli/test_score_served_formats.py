"""`tta-server score --url`: for each task, in every format, the files of a local run; also from a cache."""

import csv
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.cli.test_score_remote import CLOSE, distance
from tests.scoring.test_coco import tiny
from tests.support import pictures
from tests.support.commands import run
from tests.support.rle import decoded
from tests.support.scoring import BROKEN
from tests.support.serving import Server
from tests.tasks.test_every_task import TINY
from tta_server.tasks import TASKS

KINDS = ("classification", "multilabel", "regression", "embedding", "detection", "points")
SEGMENTERS = ("segmentation", "masks", "class numbers")
"""One label a pixel, several, and class numbers, where black has none of the labels."""
FORMATS = {task: ["jsonl", "parquet", "csv"] for task in (*KINDS, *SEGMENTERS)}
FORMATS["detection"] += ["coco", "yolo"]
for each in ("points", *SEGMENTERS):
    FORMATS[each] += ["coco"]


def name_of(task: str) -> str:
    return task.replace(" ", "-")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for task in FORMATS:
        tiny(task, folder / "of").rename(folder / name_of(task))
    (folder / "of").rmdir()
    return folder


@pytest.fixture(scope="module")
def caching(models: Path) -> Iterator[Server]:
    with Server("--port", "0", "--slots", "1", "--cache-mb", "20", "--models", str(models)) as running:
        assert running.url
        yield running


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colours at different places, one image that is black but for a corner, and one that is none."""
    folder, source = tmp_path_factory.mktemp("photos"), np.random.default_rng(18)
    dark = np.zeros((16, 20, 3), np.uint8)
    dark[2:7, 3:9, 0] = 255
    (folder / "dark.png").write_bytes(pictures.encoded(dark))
    (folder / 'no "image", =1.png').write_bytes(BROKEN)
    (folder / "some.png").write_bytes(pictures.encoded(source.integers(0, 2, (16, 20, 3), np.uint8) * 255))
    return folder


def content(out: Path) -> dict[str, Any]:
    """All files of the results, and those beside them, as values."""
    files = [*(out / "results").iterdir(), *out.glob("*.txt"), *out.glob("[ir]*.json")]
    return {path.name: READERS[path.suffix](path) for path in sorted(files)}


def lines_of(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def table(path: Path) -> list[Any]:
    rows = pq.read_table(path).to_pylist(maps_as_pydicts="strict")
    return [row | {key: json.loads(row[key]) for key in ("receipt", "included") if row[key]} for row in rows]


def cells(path: Path) -> list[Any]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: number_or_text(value) for key, value in row.items()} for row in csv.DictReader(file)]


def number_or_text(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def archive(path: Path) -> dict[str, str]:
    with tarfile.open(path) as found:
        return {name: found.extractfile(name).read().decode() for name in found.getnames()}  # type: ignore[union-attr]


READERS = {
    ".jsonl": lambda path: lines_of(path.read_text("utf-8")),
    ".parquet": table,
    ".csv": cells,
    ".json": lambda path: json.loads(path.read_bytes()),
    ".tar": archive,
    ".txt": lambda path: path.read_text("utf-8"),
}


def score(photos: Path, model: Path, out: Path, *more: object) -> Any:
    done = run("score", photos, "--model", model, "--out", out, *more)
    assert done.returncode == 0, done.stderr
    return content(out)


@pytest.mark.parametrize("task", FORMATS)
def test_a_server_gives_the_files_of_a_local_run(
    caching: Server, models: Path, photos: Path, task: str, tmp_path: Path
) -> None:
    """The first format's answers are computed, those of the others come from the server's cache."""
    name = name_of(task)
    masks = ["png", "rle"] if task in SEGMENTERS else [None]
    for kind in FORMATS[task]:
        for mask in masks if kind in ("jsonl", "parquet") else [None]:
            more = ["--format", kind, *(["--masks", mask] if mask else [])]
            out = tmp_path / f"{kind}-{mask}"
            expected = score(photos, models / name, out / "local", *more)
            found = score(photos, Path(name), out / "remote", "--url", caching.url, *more)
            again = score(photos, Path(name), out / "again", "--url", caching.url, *more)
            assert distance(found, expected) <= CLOSE, (kind, mask, found, expected)
            assert found == again
    with caching.client() as client:
        found = re.search(f'tta_cache_hits_total{{kind="stored",model="{name}"}} (\\S+)', client.get("/metrics").text)
    assert found
    assert float(found[1]) > 0


@pytest.mark.parametrize("task", FORMATS)
def test_all_that_may_be_included_is_the_same(
    caching: Server, models: Path, photos: Path, task: str, tmp_path: Path
) -> None:
    includes = {*TASKS[TINY[task][1]["task"] if task in TINY else task].includes} - (
        {"views"} if task == "masks" else set()
    )
    more = ["--include", ",".join(includes), "--policy", "hflip", "--format", "jsonl"]
    expected = score(photos, models / name_of(task), tmp_path / "local", *more)
    assert (
        distance(score(photos, Path(name_of(task)), tmp_path / "remote", "--url", caching.url, *more), expected)
        <= CLOSE
    )


@pytest.mark.parametrize("kind", FORMATS["detection"])
def test_a_plan_and_a_check_of_what_a_server_scored(caching: Server, photos: Path, kind: str, tmp_path: Path) -> None:
    words = ["score", photos, "--model", "detection", "--out", tmp_path / "out", "--url", caching.url, "--format", kind]
    planned = run(*words, "--plan")
    assert planned.returncode == 0, planned.stderr
    assert "by 3 of them, of which 1 failed" in planned.stdout
    assert not (tmp_path / "out").exists()
    assert run(*words).returncode == 0
    assert run(*words, "--verify").stdout == "1 shard is as written: 3 of 3 images\n"


def test_pixels_of_no_class_are_in_no_mask(caching: Server, photos: Path, tmp_path: Path) -> None:
    found = score(
        photos, Path("class-numbers"), tmp_path / "out", "--url", caching.url, "--format", "jsonl", "--masks", "rle"
    )
    prediction = found["part-00000.jsonl"][0]["prediction"]
    masks = {label: decoded(rle) for label, rle in prediction["masks"].items()}
    assert {label: int(mask.sum()) for label, mask in masks.items()} == {"red": 30, "green": 0, "blue": 0}
    assert masks["red"][2:7, 3:9].all()
    assert prediction["area"] == {"red": 30, "green": 0, "blue": 0}
