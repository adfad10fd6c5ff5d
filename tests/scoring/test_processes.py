"""Scoring with processes: the bytes of threads, whatever an image or a process does."""

import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.scoring import BROKEN, color_image, content_of, rows_of, run_scoring, toy, write_images
from tests.support.serving import until
from tta_server.errors import BackendFailed, ConfigError, InvalidInput
from tta_server.imaging.decoding import Limits
from tta_server.scoring import processes as processes_module
from tta_server.scoring.batches import InputImage
from tta_server.scoring.manifest import fingerprint
from tta_server.scoring.processes import Processes, Setup, chunks_of, started
from tta_server.scoring.scorer import open_plan, read_scoring_options

OPTIONS = read_scoring_options({})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("models"))


def setup_of(model: Path) -> Setup:
    return Setup(model, OPTIONS, Limits(), "jsonl", 2)


def made_of(setup: Setup) -> Mapping[str, Any]:
    plan = open_plan(setup.folder, setup.options)
    try:
        return fingerprint(plan, setup.folder, setup.batch, setup.format, setup.limits)
    finally:
        plan.model.retire()


@pytest.fixture(scope="module")
def processes(model: Path) -> Iterator[Processes]:
    setup = setup_of(model)
    with started(setup, 2, made_of(setup)) as found:
        yield found


def children() -> set[int]:
    """Processes of this one, by id."""
    return {int(each) for each in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@pytest.mark.parametrize("format_name", ["jsonl", "parquet"])
def test_processes_write_the_bytes_of_threads(model: Path, tmp_path: Path, format_name: str) -> None:
    images = write_images(tmp_path / "photos", 19, [3, 10, 11])
    run_scoring(model, images, tmp_path / "threads", format_name=format_name)
    run_scoring(model, images, tmp_path / "processes", format_name=format_name, processes=2)
    assert content_of(tmp_path / "processes") == content_of(tmp_path / "threads")


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_how_many_images_are_given_at_once_changes_no_byte(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """All of a shard at once, and chunk by chunk, each image in a message of its own; a broken image takes no row."""
    images = write_images(tmp_path / "photos", 19, [3, 10, 11])
    run_scoring(model, images, tmp_path / "threads", shard=8, batch=batch)
    for seconds, nbytes in ((1e9, 4_000_000), (1e-9, 1)):
        monkeypatch.setattr(processes_module, "TRIP_SECONDS", seconds)
        monkeypatch.setattr(processes_module, "MESSAGE_BYTES", nbytes)
        out = tmp_path / str(nbytes)
        run_scoring(model, images, out, shard=8, batch=batch, processes=2)
        assert content_of(out) == content_of(tmp_path / "threads")


@given(st.integers(0, 20), st.integers(1, 7))
def test_chunks_are_those_of_threads(images: int, length: int) -> None:
    """A process that is given several chunks scores each by itself, since last bits depend on what shares a batch."""
    chunks = [list(chunk) for chunk in chunks_of(iter(range(images)), length)]
    assert chunks == [list(range(start, min(start + length, images))) for start in range(0, images, length)]


def test_either_goes_on_with_the_runs_of_the_other(model: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "photos", 19, [3])
    run_scoring(model, images, tmp_path / "whole")
    for name, first, then in (("a", 0, 2), ("b", 2, 0)):
        run_scoring(model, images, tmp_path / name, threads=1, stop_at_first=True, processes=first)
        assert 0 < len(rows_of(tmp_path / name)) < 19
        run_scoring(model, images, tmp_path / name, processes=then)
        assert content_of(tmp_path / name) == content_of(tmp_path / "whole")


@dataclass(frozen=True)
class Fails:
    error: Exception

    def __call__(self) -> bytes:
        raise self.error


def image(read: Callable[[], bytes]) -> InputImage:
    return InputImage("a", read)


def test_what_can_not_be_read_is_a_row_of_its_own(processes: Processes) -> None:
    images = [
        image(lambda: color_image((9, 200, 9))),
        image(Fails(InvalidInput("the cell holds no image"))),
        image(Fails(FileNotFoundError(2, "No such file or directory"))),
        image(Fails(ValueError("of a library"))),
        image(lambda: BROKEN),
    ]
    rows = processes.rows(images)
    assert [row.id for row in rows] == ["a"] * 5
    assert [row.views for row in rows] == [2, 0, 0, 0, 0]
    assert [row.error for row in rows[:4]] == [
        None, "the cell holds no image", "can't be read: No such file or directory", "the image could not be prepared"
    ]  # fmt: skip
    assert "this is not an image" in str(rows[4].error)


def test_a_process_that_is_killed_ends_the_run_which_goes_on_later(model: Path, tmp_path: Path) -> None:
    images, before = write_images(tmp_path / "photos", 40), children()

    def kill() -> bytes:
        for each in children() - before:
            os.kill(each, signal.SIGKILL)
        return color_image((9, 200, 9))

    setup = setup_of(model)
    with (
        started(setup, 2, made_of(setup)) as found,
        pytest.raises(BackendFailed, match="a process that scores ended with status -9; the same command goes on"),
    ):
        found.rows([image(kill)])
    assert children() == before
    run_scoring(model, images, tmp_path / "out", processes=2)
    assert len(rows_of(tmp_path / "out")) == 40


def test_a_model_that_has_changed_is_refused(model: Path) -> None:
    setup, before = setup_of(model), children()
    with (
        pytest.raises(ConfigError, match="toy: changed while the run started; start it again"),
        started(setup, 2, {**made_of(setup), "merge": "vote"}),
    ):
        pass
    assert children() == before


def test_a_model_that_is_gone_is_refused(model: Path, tmp_path: Path) -> None:
    setup = Setup(tmp_path / "gone", OPTIONS, Limits(), "jsonl", 2)
    with pytest.raises(ConfigError, match="gone"), started(setup, 1, {}):
        pass


def test_processes_that_can_not_start_are_one_sentence(model: Path) -> None:
    """With two files more than are open, the pipe of a process does not fit."""
    limits, free = resource.getrlimit(resource.RLIMIT_NOFILE), os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, limits[1]))
    try:
        with (
            pytest.raises(ConfigError, match="3 processes can't be started: Too many open files; take fewer with"),
            started(setup_of(model), 3, {}),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_processes_end_with_the_block(model: Path) -> None:
    before, setup = children(), setup_of(model)
    with started(setup, 2, made_of(setup)) as found:
        assert found.count == len(children() - before) == 2
    until(lambda: children() == before)
