"""Threads or processes: by the options, the number of images, the cores and the memory."""

import os
import signal
from pathlib import Path

import pytest

from tests.cli.test_score import start, started, words
from tests.support import pictures
from tests.support.commands import check_mistake, run, run_process
from tests.support.scoring import content_of, toy, write_images
from tests.support.serving import PATIENCE, until
from tests.support.toys import trap_image, trap_model
from tta_server.cli import score_workers
from tta_server.cli.score_run import How
from tta_server.cli.score_workers import Workers, choose_workers
from tta_server.imaging.decoding import Limits
from tta_server.scoring.formats import FORMATS
from tta_server.scoring.inputs import Files
from tta_server.scoring.output import OutputFolder
from tta_server.scoring.run import Task
from tta_server.scoring.scorer import open_plan, read_scoring_options

PLENTY = 10**12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(
    ("images", "cores", "memory", "threads", "processes", "expected"),
    [
        (1000, 4, PLENTY, None, None, Workers(4, are_processes=True)),
        (999, 4, PLENTY, None, None, Workers(4)),
        (1000, 1, PLENTY, None, None, Workers(1)),
        (1000, 4, None, None, None, Workers(4)),
        (1000, 4, 8_000, None, None, Workers(4, are_processes=True)),  # 4 of 1,000 bytes each are half of it
        (1000, 4, 7_999, None, None, Workers(4)),
        (1000, 4, PLENTY, 3, None, Workers(3)),
        (1, 4, 0, None, 2, Workers(2, are_processes=True)),
        (1, 4, 0, None, 1, Workers(1, are_processes=True)),
        (0, 4, PLENTY, None, 2, Workers(2)),
    ],
)
def test_processes_are_for_many_images_where_they_have_room(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: int,
    cores: int,
    memory: int | None,
    threads: int | None,
    processes: int | None,
    expected: Workers,
) -> None:
    monkeypatch.setattr(score_workers, "available_cores", lambda: cores)
    monkeypatch.setattr(score_workers, "available_memory", lambda: memory)
    monkeypatch.setattr(score_workers, "peak_memory", lambda: 1000)
    plan = open_plan(model, read_scoring_options({}))
    task = Task(plan, Files("", []), Limits(), OutputFolder(Path()), FORMATS["jsonl"])
    found = choose_workers(task, How(model, None, threads, processes, None, None, None), images)
    plan.model.retire()
    assert found == expected


def test_what_is_said_of_them() -> None:
    assert [str(Workers(n, are_processes=of)) for of in (False, True) for n in (1, 2)] == [
        "1 thread", "2 threads", "1 process", "2 processes"
    ]  # fmt: skip


def test_the_command_scores_with_processes_as_with_threads(model: Path, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 300, [7, 290])
    for name, more in (("threads", ("--threads", "2")), ("processes", ("--processes", "2"))):
        done = run_process(*words(photos, model, tmp_path / name, "--batch", "4", *more))
        assert done.returncode == 0, done.stderr
        assert "300 of 300, 2 failed" in done.stderr
        assert "007.png: this is not an image" in done.stderr
    assert content_of(tmp_path / "processes") == content_of(tmp_path / "threads")


def test_a_forecast_says_with_what(model: Path, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 3)
    assert "with 3 processes" in run(*words(photos, model, tmp_path / "out", "--plan", "--processes", "3")).stdout


@pytest.mark.parametrize(
    ("more", "first", "second"),
    [
        (["--threads", "2"], "--processes", "--threads"),
        (["--ray"], "--ray", "--processes"),
        (["--url", "http://localhost:1", "--model", "toy"], "--url", "--processes"),
    ],
)
def test_two_ways_to_score_are_a_mistake(model: Path, tmp_path: Path, more: list[str], first: str, second: str) -> None:
    photos = write_images(tmp_path / "photos", 1)
    done = run(*words(photos, model, tmp_path / "out", "--processes", "2", *more))
    assert f"{first} and {second} are two ways to score; leave one of them out" in check_mistake(done)


@pytest.mark.timing
def test_processes_end_with_a_command_that_is_killed(model: Path, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 2000)
    process = start(words(photos, model, tmp_path / "out", "--processes", "2", "--batch", "2"))
    until(lambda: started(tmp_path / "out", process))
    own = children_of(process.pid)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert len(own) == 2
    until(lambda: not any(is_alive(each) for each in own))


@pytest.mark.timing
def test_a_process_ends_in_the_middle_of_an_image(tmp_path: Path) -> None:
    """The one image takes for ever; 10 s of a core are more than the process needs to load the model."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "endless.png").write_bytes(pictures.encoded(trap_image("endless")))
    process = start(words(photos, trap_model(tmp_path / "traps"), tmp_path / "out", "--processes", "1", "--batch", "1"))
    until(lambda: process.poll() is not None or ((own := children_of(process.pid)) and cpu_seconds(own[0]) > 10))
    (child,) = children_of(process.pid)
    process.kill()
    process.communicate(timeout=PATIENCE)
    until(lambda: not is_alive(child))


def children_of(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def cpu_seconds(process: int) -> float:
    """Seconds of cores that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_alive(process: int) -> bool:
    """Whether a process runs; one that has ended may wait to be collected by whatever has adopted it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.timing
def test_a_second_ctrl_c_ends_processes_too(model: Path, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 3000)
    process = start(words(photos, model, tmp_path / "out", "--processes", "2", "--batch", "2"), start_new_session=True)
    until(lambda: started(tmp_path / "out", process))
    own = children_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    until(lambda: not any(is_alive(each) for each in own))
