"""`tta-server score --ray` on a cluster of two nodes: run by `test_ray.py` in a network namespace of its own."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.clusters import TwoNodes, kill
from tests.support.commands import TERMINAL, run
from tests.support.scoring import BROKEN, color_image, content_of, rows_of, toy, write_images
from tests.support.serving import PATIENCE, command, until
from tests.support.toys import RED

SHARDS = 6


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with TwoNodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards, each with an image that takes two seconds, so that there are more to come after the first."""
    folder = write_images(tmp_path_factory.mktemp("photos"), SHARDS * 256 - 5, [300])
    for shard in range(SHARDS):
        (folder / f"{shard * 256 + 100:03d}.png").write_bytes(color_image(RED))
    return folder


def words(photos: Path, model: Path, out: Path, *more: str) -> list[str]:
    return ["score", str(photos), "--model", str(model), "--out", str(out), "--format", "jsonl", "--batch", "8", *more]


@pytest.fixture(scope="module")
def whole(photos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run on this machine leaves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run(*words(photos, model, out)).returncode == 0
    return content_of(out)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


class Run:
    """The command on the cluster, once it has written a shard."""

    def __init__(self, cluster: TwoNodes, photos: Path, model: Path, out: Path) -> None:
        before = shards_in(out)
        arguments = command(*words(photos, model, out, "--ray", cluster.address, "--ray-actors", "2"))
        self.process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=os.environ | TERMINAL)
        until(lambda: _ended(self.process) or shards_in(out) > before)
        assert self.process.poll() is None, self.process.communicate()

    def end(self) -> tuple[int, str]:
        """Its exit status and what it printed."""
        _, stderr = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, stderr


def _ended(process: "subprocess.Popen[str]") -> bool:
    """Leaves the cores to it for a moment."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.02)
    return process.returncode is not None


def shards_in(out: Path) -> int:
    """Those that are in the ledger."""
    ledger = out / "ledger.jsonl"
    return len(ledger.read_bytes().splitlines()) if ledger.exists() else 0


def test_a_killed_actor_costs_nothing(cluster, photos, model, out, whole) -> None:
    running = Run(cluster, photos, model, out)
    kill(cluster.wait_for_actors(2)[0])
    assert shards_in(out) < SHARDS
    status, stderr = running.end()
    assert status == 0, stderr
    assert "1531 of 1531, 1 failed" in stderr
    assert content_of(out) == whole


def test_a_killed_node_costs_nothing(cluster, photos, model, out, whole) -> None:
    running = Run(cluster, photos, model, out)
    cluster.wait_for_actors(2)
    assert cluster.replace_second_node(), "the node had no actor"
    assert shards_in(out) < SHARDS
    status, stderr = running.end()
    assert status == 0, stderr
    assert content_of(out) == whole


def test_a_killed_command_and_a_stopped_one_go_on_here(cluster, photos, model, out, whole) -> None:
    """The last run is on this machine, without Ray."""
    running = Run(cluster, photos, model, out)
    running.process.kill()
    running.end()
    before = shards_in(out)
    assert 0 < before < SHARDS
    stopped = Run(cluster, photos, model, out)
    stopped.process.send_signal(signal.SIGINT)
    status, stderr = stopped.end()
    assert status == 130, stderr
    assert "stopped; the same command goes on from here" in stderr
    assert "Traceback" not in stderr
    assert before < shards_in(out)
    assert run(*words(photos, model, out)).returncode == 0
    assert content_of(out) == whole


def test_failures_are_bounded(cluster, model, tmp_path) -> None:
    folder = write_images(tmp_path / "photos", 10, [2, 5, 6])
    (folder / "007.png").write_bytes(BROKEN)
    done = subprocess.run(
        command(*words(folder, model, tmp_path / "out", "--ray", cluster.address, "--max-failures", "2")),
        capture_output=True, text=True, timeout=PATIENCE, env=os.environ | TERMINAL,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "more images failed than --max-failures 2 allows" in done.stderr
    assert len(rows_of(tmp_path / "out")) == 10
