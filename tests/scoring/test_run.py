"""Each image is stored once, in order, whatever ends a run before; another run's results are not mixed in."""

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.scoring import BROKEN, content_of, rows_of, run_scoring, toy, write_images
from tta_server.errors import ConfigError, TTAError
from tta_server.imaging.decoding import Limits
from tta_server.scoring.inputs import Inputs, open_inputs
from tta_server.scoring.output import LEDGER, MANIFEST, RESULTS, OutputFolder

COUNT, BROKEN_ONES = 19, (3, 10, 11)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("photos"), COUNT, BROKEN_ONES)


@pytest.fixture(scope="module")
def whole(model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run leaves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run_scoring(model, images, out)
    return out


class Killed(BaseException):
    """As a kill."""


class CutInputs:
    """Inputs of which the one with this number ends the run."""

    notes = ()

    def __init__(self, inputs: Inputs, at: int) -> None:
        self._inputs = inputs
        self._at = at
        self.ids = inputs.ids

    def __len__(self) -> int:
        return len(self._inputs)

    def marks(self) -> Iterator[str]:
        return self._inputs.marks()

    def images(self, start: int, stop: int, limits: Limits) -> Iterator[object]:
        for number, image in enumerate(self._inputs.images(start, stop, limits), start):
            if number == self._at:
                raise Killed
            yield image


def test_rows_are_in_the_order_of_the_images_and_failures_are_rows(whole: Path) -> None:
    rows = rows_of(whole)
    assert [row["id"] for row in rows] == [f"{number:03d}.png" for number in range(COUNT)]
    assert [number for number, row in enumerate(rows) if row["status"] == "failed"] == list(BROKEN_ONES)
    assert all(row["error"].startswith("this is not an image") for row in rows if row["status"] == "failed")
    assert all(row["prediction"]["top"] for row in rows if row["status"] == "ok")
    entries = [json.loads(line) for line in (whole / LEDGER).read_text().splitlines()]
    assert [(entry["shard"], entry["images"], entry["failed"]) for entry in entries] == [
        (0, 4, 1), (1, 4, 0), (2, 4, 2), (3, 4, 0), (4, 3, 0),
    ]  # fmt: skip


@given(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=4), st.integers(1, 3))
def test_runs_that_are_cut_anywhere_end_as_one(
    model: Path, images: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory, cuts: list[int], threads: int
) -> None:
    out = tmp_path_factory.mktemp("cut") / "out"
    for at in cuts:
        with suppress(Killed):
            run_scoring(model, CutInputs(open_inputs(str(images)), at), out, threads=threads)
    run_scoring(model, images, out, threads=threads)
    assert content_of(out) == content_of(whole)


def _torn_line(out: Path) -> None:
    with (out / LEDGER).open("ab") as file:
        file.write(b'{"shard": 4, "file": "part-0')


def _lost_line(out: Path) -> None:
    lines = (out / LEDGER).read_bytes().splitlines(keepends=True)
    (out / LEDGER).write_bytes(b"".join(lines[:2] + lines[3:]))


def _lost_file(out: Path) -> None:
    (out / RESULTS / "part-00001.jsonl").unlink()


def _cut_file(out: Path) -> None:
    (out / RESULTS / "part-00001.jsonl").write_bytes(b"{}\n")


def _unfinished_files(out: Path) -> None:
    (out / RESULTS / "part-00003.jsonl.tmp").write_bytes(b"half")
    (out / "ledger.jsonl.tmp").write_bytes(b"half")


@pytest.mark.parametrize("damage", [_torn_line, _lost_line, _lost_file, _cut_file, _unfinished_files])
def test_what_a_crash_may_leave_is_mended(model: Path, images: Path, whole: Path, tmp_path: Path, damage) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    damage(out)
    run_scoring(model, images, out)
    assert content_of(out) == content_of(whole)
    assert not [*out.rglob("*.tmp")]


def test_what_is_done_is_not_done_again(model: Path, images: Path, tmp_path: Path) -> None:
    run_scoring(model, images, tmp_path / "out")
    run = run_scoring(model, CutInputs(open_inputs(str(images)), 0), tmp_path / "out")
    assert len(run.entries) == 5


def test_another_runs_folder_is_refused_with_what_differs(model: Path, images: Path, whole: Path) -> None:
    before = content_of(whole)
    with pytest.raises(ConfigError, match="was begun with merge 'mean_probabilities', now it is 'vote'"):
        run_scoring(model, images, whole, merge="vote")
    with pytest.raises(ConfigError, match="was begun with batch 3, now it is 5"):
        run_scoring(model, images, whole, batch=5)
    with pytest.raises(ConfigError, match="was begun with views"):
        run_scoring(model, images, whole, max_views=1)
    assert content_of(whole) == before


def test_another_model_or_other_images_are_another_run(model: Path, images: Path, whole: Path, tmp_path: Path) -> None:
    more = shutil.copytree(images, tmp_path / "more")
    (more / "zzz.png").write_bytes(BROKEN)
    with pytest.raises(ConfigError, match=r"was begun with inputs .*19"):
        run_scoring(model, more, whole)
    longer = shutil.copytree(images, tmp_path / "longer")
    (longer / "003.png").write_bytes(BROKEN + b"s")
    with pytest.raises(ConfigError, match="was begun with inputs"):
        run_scoring(model, longer, whole)
    other = shutil.copytree(model, tmp_path / "toy")
    config = (other / "tta.yaml").read_text()
    (other / "tta.yaml").write_text(config.replace("red, green", "rot, green"))
    with pytest.raises(ConfigError, match=r"was begun with tta\.yaml"):
        run_scoring(other, images, whole)


def test_a_manifest_has_what_ran_the_model(whole: Path) -> None:
    manifest = json.loads((whole / MANIFEST).read_text())
    assert manifest["device"] == "cpu"
    assert {"onnxruntime", "onnxruntime-gpu", "torch"} <= manifest["versions"].keys()


def test_a_folder_of_something_else_is_left_alone(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / RESULTS).mkdir(parents=True)
    (out / RESULTS / "mine.csv").write_text("mine")
    with pytest.raises(ConfigError, match="holds files without a manifest"):
        run_scoring(model, images, out)
    (out / MANIFEST).write_text("[]")
    with pytest.raises(ConfigError, match="is no manifest of a run"):
        run_scoring(model, images, out)
    (out / MANIFEST).unlink()
    (out / RESULTS / "mine.csv").unlink()
    run_scoring(model, images, out)
    (out / LEDGER).write_text("mine\n")
    with pytest.raises(ConfigError, match="line 1 is not of a run"):
        run_scoring(model, images, out)


def test_one_run_at_a_time_has_the_folder(model: Path, images: Path, tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out").locked(), pytest.raises(ConfigError, match="another run writes here"):
        run_scoring(model, images, tmp_path / "out")
    assert len(run_scoring(model, images, tmp_path / "out").entries) == 5


def test_a_changed_shard_is_found(whole: Path, tmp_path: Path) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    output = OutputFolder(out)
    assert not [*output.damaged()]
    path = out / RESULTS / "part-00002.jsonl"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"ok", b"OK"))
    assert [*output.damaged()] == [path]


def test_a_stopped_run_ends_after_its_shard(model: Path, images: Path, whole: Path, tmp_path: Path) -> None:
    """The run is stopped by its first image, when its one thread has the two chunks of the first shard."""
    run = run_scoring(model, images, tmp_path / "out", threads=1, stop_at_first=True)
    assert sorted(run.entries) == [0]
    run_scoring(model, images, tmp_path / "out")
    assert content_of(tmp_path / "out") == content_of(whole)


def test_an_image_that_vanishes_is_a_row(model: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 3)
    listed = open_inputs(str(folder))
    (folder / "001.png").unlink()
    run_scoring(model, listed, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["error"] == "can't be read: No such file or directory"


def test_a_folder_that_takes_no_file_is_one_sentence(model: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TTAError, match="can't be written: Not a directory"):
        run_scoring(model, images, tmp_path / "file" / "out")
