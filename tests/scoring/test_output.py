"""The folder of a run: what a line of the ledger says is so, and what a kill leaves is read as far as it is whole."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.scoring import content_of, toy, write_images
from tests.support.scoring import run_scoring as score
from tta_server.errors import ConfigError
from tta_server.scoring.output import LEDGER, RESULTS, TIMES, OutputFolder, Shard, write_whole

COUNT = 11


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of three shards leaves: two of 4 images, one of 3, with two images that fail."""
    folder = tmp_path_factory.mktemp("run")
    score(toy(folder), write_images(folder / "photos", COUNT, (2, 9)), folder / "out")
    return folder / "out"


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "out")


def test_of_a_ledger_that_is_cut_anywhere_the_whole_lines_are_kept(out: Path) -> None:
    content = (out / LEDGER).read_bytes()
    for end in range(len(content) + 1):
        (out / LEDGER).write_bytes(content[:end])
        kept = content[: content[:end].rfind(b"\n") + 1]
        assert list(OutputFolder(out).ledger()) == list(range(kept.count(b"\n")))
        assert (out / LEDGER).read_bytes() == kept


@pytest.mark.parametrize("line", [b"mine", b"[]", b"{}", b'{"shard": 0, "mine": 1}', b"\xff", b""])
def test_a_line_of_something_else_is_named(out: Path, line: bytes) -> None:
    with (out / LEDGER).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ConfigError, match=r"ledger\.jsonl: line 4 is not of a run; give another --out"):
        OutputFolder(out).ledger()


def test_a_line_counts_images_failures_and_views(whole: Path) -> None:
    """Each image that does not fail is seen plain and mirrored; the middle shard has no failure."""
    entries = OutputFolder(whole).entries()
    assert {shard: (entry.images, entry.failed, entry.views) for shard, entry in entries.items()} == {
        0: (4, 1, 6), 1: (4, 0, 8), 2: (3, 1, 4),
    }  # fmt: skip
    assert [entry.file for entry in entries.values()] == [f"part-0000{n}.jsonl" for n in range(3)]


def test_times_are_kept_beside_the_results_image_by_image(whole: Path) -> None:
    files = sorted((whole / TIMES).iterdir())
    assert [path.name for path in files] == [f"part-0000{n}.jsonl" for n in range(3)]
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"{n:03d}.png" for n in range(COUNT)]
    assert [n for n, row in enumerate(rows) if "stages_ms" not in row] == [2, 9]
    assert all(row["stages_ms"] for row in rows if "stages_ms" in row)


def test_a_shard_that_was_lost_and_written_again_counts_once(out: Path) -> None:
    """A kill before the ledger is sorted leaves two lines of a shard; the last one says what is there."""
    lines = (out / LEDGER).read_bytes().splitlines(keepends=True)
    (out / LEDGER).write_bytes(lines[0].replace(b'"sha256": "', b'"sha256": "0') + b"".join(lines))
    output = OutputFolder(out)
    assert [entry.images for entry in output.ledger().values()] == [4, 4, 3]
    assert not [*output.damaged()]


def test_a_shard_that_is_gone_is_damaged(out: Path) -> None:
    (out / RESULTS / "part-00001.jsonl").unlink()
    assert [path.name for path in OutputFolder(out).damaged()] == ["part-00001.jsonl"]
    assert list(OutputFolder(out).entries()) == [0, 2]


def test_each_shard_is_in_the_ledger_as_soon_as_it_is_written(tmp_path: Path) -> None:
    output = OutputFolder(tmp_path)
    with output.locked():
        for number in range(3):
            counts = {"images": 2, "failed": 0, "views": 4}
            entry = output.write(Shard(number, ".jsonl", bytes([65 + number]), b"times", counts))
            assert list(OutputFolder(tmp_path).entries()) == list(range(number + 1))
            assert output.path(entry).read_bytes() == bytes([65 + number])


@pytest.mark.parametrize(
    ("before", "now", "sentence"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, "begun with b null, now it is 2"),
        ({"a": 1, "b": 2}, {"a": 1}, "begun with b 2, now it is null"),
    ],
)
def test_a_manifest_with_another_key_is_of_another_run(
    tmp_path: Path, before: dict[str, int], now: dict[str, int], sentence: str
) -> None:
    output = OutputFolder(tmp_path)
    with output.locked():
        output.begin(before)
        output.begin(before)
        with pytest.raises(ConfigError, match=sentence):
            output.begin(now)
        assert output.read_manifest() == before


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    """A reader that has the old file open reads it to its end."""
    path = tmp_path / "file"
    write_whole(path, b"old")
    with path.open("rb") as old:
        write_whole(path, b"new content")
        assert old.read() == b"old"
    assert path.read_bytes() == b"new content"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_file_that_can_not_be_written_is_named_and_leaves_nothing(out: Path) -> None:
    before = content_of(out)
    path = out / RESULTS / "part-00007.jsonl"
    path.mkdir()
    shard = Shard(7, ".jsonl", b"content", b"times", {"images": 1, "failed": 0, "views": 1})
    with pytest.raises(
        ConfigError, match=r"part-00007\.jsonl\S*: can't be written: Is a directory; what is done is kept"
    ):
        OutputFolder(out).write(shard)
    path.rmdir()
    assert content_of(out) == before
