"""Runs in every format that are cut anywhere end as one that is not, files of the whole run too."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scoring.test_coco import GREEN, RED, lit, tiny
from tests.scoring.test_run import CutInputs, Killed
from tests.support import pictures
from tests.support.scoring import BROKEN, content_of, run_scoring
from tta_server.errors import ConfigError
from tta_server.scoring.inputs import open_inputs
from tta_server.scoring.output import LEDGER, RESULTS, OutputFolder

COUNT = 11
WHOLE_RUN = {"parquet": set(), "csv": set(), "coco": {"results.json", "images.json"}, "yolo": {"classes.txt"}}
"""Files that a format writes once all shards are there."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("detection", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        found = [RED, GREEN][: number % 3]
        (folder / f"{number:03d}.png").write_bytes(pictures.encoded(lit(*found)) if number != 6 else BROKEN)
    return folder


@pytest.fixture(scope="module")
def whole(model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("whole")
    for name in WHOLE_RUN:
        run_scoring(model, images, out / name, format_name=name, masks="rle")
    return {name: out / name for name in WHOLE_RUN}


def names_beside(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if path.is_file()} - {".lock", "ledger.jsonl", "manifest.json"}


@settings(max_examples=12)
@given(
    st.sampled_from(sorted(WHOLE_RUN)), st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=3), st.integers(1, 3)
)
def test_runs_that_are_cut_anywhere_end_as_one(
    model: Path,
    images: Path,
    whole: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    cuts: list[int],
    threads: int,
) -> None:
    out = tmp_path_factory.mktemp("cut") / "out"
    for at in cuts:
        with suppress(Killed):
            cut = CutInputs(open_inputs(str(images)), at)
            run_scoring(model, cut, out, threads=threads, format_name=name, masks="rle")
        assert not names_beside(out)
    run_scoring(model, images, out, threads=threads, format_name=name, masks="rle")
    assert names_beside(out) == WHOLE_RUN[name]
    assert content_of(out) == content_of(whole[name])
    assert not [*OutputFolder(out).damaged()]


def test_every_image_is_once_in_the_results_or_the_failures(whole: dict[str, Path], images: Path) -> None:
    found = json.loads((whole["coco"] / "images.json").read_text())
    listed = {each["id"]: each["file_name"] for each in [*found["images"], *found["failures"]]}
    assert listed == dict(enumerate(sorted(path.name for path in images.iterdir())))
    assert [each["id"] for each in found["failures"]] == [6]
    results = json.loads((whole["coco"] / "results.json").read_text())
    assert [each["image_id"] for each in results] == [n for n in range(COUNT) if n != 6 for _ in range(n % 3)]


def test_what_a_kill_while_the_last_files_are_written_leaves_is_mended(
    model: Path, images: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    out = shutil.copytree(whole["coco"], tmp_path / "out")
    (out / "images.json").unlink()
    (out / "results.json").rename(out / "results.json.tmp")
    run_scoring(model, images, out, format_name="coco", masks="rle")
    assert content_of(out) == content_of(whole["coco"])


def test_a_run_in_another_format_or_with_other_masks_is_refused(
    model: Path, images: Path, whole: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError, match="was begun with format 'coco', now it is 'csv'"):
        run_scoring(model, images, whole["coco"], format_name="csv", masks="rle")
    with pytest.raises(ConfigError, match="was begun with masks 'rle', now it is 'png'"):
        run_scoring(model, images, whole["csv"], format_name="csv")


def test_a_shard_that_was_changed_leaves_no_half_of_a_list(
    model: Path, images: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    """Of the same length, so that only its content says so; the list of the run before stays."""
    out = shutil.copytree(whole["coco"], tmp_path / "out")
    shard = out / RESULTS / "part-00001.json"
    shard.write_bytes(b"x" * shard.stat().st_size)
    with pytest.raises(ConfigError, match=r"part-00001\.json: not as it was written"):
        run_scoring(model, images, out, format_name="coco", masks="rle")
    assert not [*out.rglob("*.tmp")]
    assert (out / LEDGER).read_bytes() == (whole["coco"] / LEDGER).read_bytes()
    shard.unlink()
    run_scoring(model, images, out, format_name="coco", masks="rle")
    assert content_of(out) == content_of(whole["coco"])


def test_a_stopped_run_has_no_list_of_all_results_yet(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = run_scoring(model, images, out, threads=1, stop_at_first=True, format_name="coco", masks="rle")
    assert 0 < len(run.entries) < 3
    assert not names_beside(out)
