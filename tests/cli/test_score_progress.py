"""What a run prints: a bar on a terminal, lines of JSON elsewhere, a summary; each figure by hand."""

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.scoring import BROKEN, color_image, made_rows, run_scoring, toy, write_images
from tta_server.cli import score_forecast, score_progress
from tta_server.cli.console import PlainConsole
from tta_server.cli.score_forecast import forecast, times_on_nodes
from tta_server.cli.score_progress import ScoreProgress, summary
from tta_server.cli.score_workers import Workers
from tta_server.imaging.decoding import Limits
from tta_server.scoring.formats import FORMATS
from tta_server.scoring.inputs import open_inputs
from tta_server.scoring.output import OutputFolder, ShardEntry
from tta_server.scoring.run import Task
from tta_server.scoring.scorer import open_plan, read_scoring_options
from tta_server.scoring.shards import Row

EARLIER = [ShardEntry(0, "part", 10, 2, 16, 1, ""), ShardEntry(1, "part", 10, 1, 9, 1, "")]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(score_progress, "time", found)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """An answer of two views, and a failure."""
    return made_rows(toy(tmp_path_factory.mktemp("models")), [color_image((9, 200, 9)), BROKEN])


def test_a_line_every_ten_seconds(clock: Clock, found: list[Row], capsys: pytest.CaptureFixture[str]) -> None:
    """20 images were scored before, 3 of them failed; an image each 2 s, of which every other one fails."""
    ok, failed = found
    with ScoreProgress(60, EARLIER) as progress:
        assert progress.seconds_left is None
        for number in range(12):
            clock.now += 2
            progress.add(failed if number % 2 else ok)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        {"images": 25, "of": 60, "failed": 5, "rate": 0.5, "views": 2.0, "left_s": 70},
        {"images": 30, "of": 60, "failed": 8, "rate": 0.5, "views": 2.0, "left_s": 60},
    ]
    assert (progress.rate, progress.mean_views, progress.seconds_left) == (0.5, 2, 56)


def test_a_bar_on_a_terminal(clock: Clock, found: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = PlainConsole(force_terminal=True, width=100, file=io.StringIO(), color_system=None)
    monkeypatch.setattr(score_progress, "err", terminal)
    with ScoreProgress(24, []) as progress:
        clock.now += 4
        progress.add(found[0])
        progress.add(found[0])
    last = terminal.file.getvalue().split("scoring")[-1]  # type: ignore[attr-defined]
    assert " 2/24 0.5/s " in last
    assert "2.0 views" in last
    assert "failed" not in last
    with ScoreProgress(24, EARLIER) as progress:
        clock.now += 4
        progress.add(found[1])
    last = terminal.file.getvalue().split("scoring")[-1]  # type: ignore[attr-defined]
    assert "21/24" in last
    assert "4 failed, 0.0 views" in last


def test_listeners_hear_of_images_and_of_each_failure_with_those_before(clock: Clock, found: list[Row]) -> None:
    images, failures = list[str](), list[int]()
    progress = ScoreProgress(30, EARLIER)
    progress.on_image(lambda row: images.append(row.id))
    progress.on_failure(failures.append)
    for each in [*found, *found]:
        progress.add(each)
    assert images == ["0", "1", "0", "1"]
    assert failures == [4, 5]


def made_task(folder: Path, count: int, broken: list[int]) -> Task:
    listed = open_inputs(str(write_images(folder / "photos", count, broken)))
    plan = open_plan(toy(folder), read_scoring_options({}))
    return Task(plan, listed, Limits(), OutputFolder(folder / "out"), FORMATS["jsonl"])


def printed(table: object) -> list[str]:
    console = PlainConsole(width=150, file=io.StringIO())
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("failures", "named"), [(0, 0), (1, 1), (5, 5), (6, 5), (9, 5)])
def test_a_summary_names_the_first_failures(
    tmp_path: Path, clock: Clock, found: list[Row], failures: int, named: int
) -> None:
    """Of 20 images: 10 failed in a run before, the others now, with 2 views each that was scored."""
    progress = ScoreProgress(20, [])
    clock.now += 5
    for number in range(10):
        progress.add(replace(found[1], id=str(number)) if number < failures else found[0])
    entries = [ShardEntry(0, "part", 10, failures, 20 - 2 * failures, 1, "")]
    lines = printed(summary(entries, progress, tmp_path))
    assert lines[:3] == [
        f"images   10 of 20, {failures} failed",
        "views    2.00 a scored image",
        "rate     2.0 images/s in this run",
    ]
    assert [line.split()[1] for line in lines if line.startswith("failed")] == [f"{n}:" for n in range(named)]
    more = [line.split()[1] for line in lines if "more: rows with status failed" in line]
    assert more == ([str(failures - named)] if failures > named else [])


def test_a_run_in_which_nothing_was_left_to_score_has_no_rate(tmp_path: Path) -> None:
    lines = printed(summary([ShardEntry(0, "part", 10, 0, 20, 1, "")], ScoreProgress(10, []), tmp_path))
    assert [line.split()[0] for line in lines] == ["images", "views", "results"]


@pytest.mark.parametrize(
    ("seconds", "each", "whole"),
    [
        (8, "500.0", "0:00:05"),
        (0.8, "50.0", "under a second"),
        (1.6, "100.0", "0:00:01"),
        (5958.4, "372400.0", "1:02:04"),
    ],
)
def test_a_forecast_is_of_all_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, each: str, whole: str
) -> None:
    """Of 20 images 16 are scored in so long, after one of them as a warm-up; all would be by two threads."""
    task, times = made_task(tmp_path, 20, [1]), iter([0.0, seconds])
    monkeypatch.setattr(score_forecast, "time", SimpleNamespace(monotonic=lambda: next(times)))
    found = printed(forecast(task, 4, Workers(2)))
    task.plan.model.retire()
    assert found[:3] == [
        "images    20, in shards of 256",
        f"an image  {each} ms on one core, by 16 of them, of which 1 failed",
        f"all       {whole} with 2 threads",
    ]
    run_scoring(tmp_path / "toy", tmp_path / "photos", tmp_path / "out", shard=256)
    written = sum(path.stat().st_size for path in (tmp_path / "out" / "results").iterdir())
    number, unit = found[3].removeprefix("results   about ").split()
    assert unit == "kB"
    assert float(number) * 1e3 == pytest.approx(written, rel=0.1)


def test_a_forecast_for_nodes_counts_whole_shards() -> None:
    """A million images are 3907 shards: with 2 actors on each of 12 nodes, 163 of 10 s one after the other."""
    assert times_on_nodes(10.0, 3907, 2) == {2: 9770.0, 4: 4890.0, 12: 1630.0, 40: 490.0}


def test_more_actors_than_shards_are_left_out() -> None:
    assert times_on_nodes(10.0, 8, 2) == {2: 20.0, 4: 10.0}
    assert times_on_nodes(10.0, 1, 2) == {}
