"""Whichever actors die, each image is stored once, in order, as an uninterrupted run on one machine stores it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scoring.test_coco import tiny
from tests.support.fake_ray import FakeRay, Lost
from tests.support.scoring import content_of, rows_of, run_scoring, toy, write_images
from tta_server.errors import BackendFailed, ConfigError
from tta_server.imaging.decoding import Limits
from tta_server.scoring.cluster.actors import ATTEMPTS, Actors
from tta_server.scoring.cluster.options import PoolSize, Share
from tta_server.scoring.cluster.run import ClusterRun
from tta_server.scoring.cluster.worker import Setup, ShardResult, pack_folder
from tta_server.scoring.formats import FORMATS
from tta_server.scoring.inputs import Files, Inputs, open_inputs
from tta_server.scoring.manifest import LIBRARIES, digest_inputs
from tta_server.scoring.output import OutputFolder
from tta_server.scoring.scorer import read_scoring_options
from tta_server.scoring.shards import Shards

COUNT, BROKEN_ONES = 19, (3, 10, 11)
THREE = PoolSize(1, 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("photos"), COUNT, BROKEN_ONES)


@pytest.fixture(scope="module")
def whole(model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted run on this machine leaves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run_scoring(model, images, out)
    return out


def setup_of(model: Path, format_name: str = "jsonl", **options: Any) -> Setup:
    return Setup(model.name, read_scoring_options(options), Limits(), format_name, 1, 3, 4)


def run_on(
    ray: FakeRay,
    model: Path,
    inputs: Inputs | Path,
    out: Path,
    size: PoolSize = THREE,
    stops: bool = False,
    format_name: str = "jsonl",
) -> list[int]:
    """Run as the command does; return the shards that were written, in their order. `stops`: after the first."""
    listed = open_inputs(str(inputs)) if isinstance(inputs, Path) else inputs
    shards = Shards(listed, Limits(), OutputFolder(out), FORMATS[format_name], 4)
    written: list[int] = []

    def listen(result: ShardResult) -> None:
        written.append(result.shard.number)
        if stops:
            run.stop()

    with shards.output.locked():
        actors = Actors(ray, setup_of(model, format_name), pack_folder(model), Share(1, 0), print)
        first, opened = actors.first()
        shards.output.begin({"inputs": digest_inputs(listed.marks()), **opened.fingerprint})
        run = ClusterRun(shards, actors, first, size, shards.output.entries(), listen)
        run.run()
        shards.finish(opened.schema, run.entries)
    return written


@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5))
def test_whichever_actors_die_the_bytes_are_those_of_one_machine(
    model: Path, images: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory, data, least, more, room
) -> None:
    """At most ATTEMPTS - 1 die, since more may be at one shard's cost."""
    deaths = iter(data.draw(st.lists(st.booleans(), max_size=20)))
    left = [ATTEMPTS - 1]

    def dies(name: str, arguments: Any) -> Exception | None:
        left[0] -= (found := next(deaths, False) and left[0] > 0)
        return Lost("it died") if found else None

    ray = FakeRay(lambda count: data.draw(st.integers(0, count - 1)), dies, max(room, least))
    out = tmp_path_factory.mktemp("ray") / "out"
    written = run_on(ray, model, images, out, PoolSize(least, least + more - 1))
    assert content_of(out) == content_of(whole)
    assert sorted(written) == [0, 1, 2, 3, 4]
    assert ray.most_waiting <= 2 * (least + more - 1)


def test_a_run_begun_here_goes_on_with_actors_and_the_other_way_round(
    model: Path, images: Path, whole: Path, tmp_path: Path
) -> None:
    run_scoring(model, images, tmp_path / "a", threads=1, stop_at_first=True)
    assert sorted(run_on(FakeRay(), model, images, tmp_path / "a")) == [1, 2, 3, 4]
    assert content_of(tmp_path / "a") == content_of(whole)
    assert 0 < len(run_on(FakeRay(), model, images, tmp_path / "b", stops=True)) < 5
    run_scoring(model, images, tmp_path / "b")
    assert content_of(tmp_path / "b") == content_of(whole)


def test_results_of_the_whole_run_are_those_of_one_machine_too(images: Path, tmp_path: Path) -> None:
    """COCO's image ids count on from shard to shard, and its results are in one file at the end."""
    model = tiny("detection", tmp_path / "models")
    run_scoring(model, images, tmp_path / "here", format_name="coco")
    run_on(FakeRay(), model, images, tmp_path / "there", format_name="coco")
    assert (tmp_path / "there" / "results.json").is_file()
    assert content_of(tmp_path / "there") == content_of(tmp_path / "here")


def test_a_stopped_run_finishes_what_actors_are_at_and_drops_what_waits(
    model: Path, images: Path, tmp_path: Path
) -> None:
    """One actor has the shards 0 and 1 when shard 0 ends; it is then at shard 1, and shard 2 waits."""
    assert run_on(FakeRay(), model, images, tmp_path / "out", PoolSize(1, 1), stops=True) == [0, 1]


def test_images_that_end_every_actor_end_the_run(model: Path, images: Path, tmp_path: Path) -> None:
    def dies(name: str, arguments: Any) -> Exception | None:
        return Lost("it died") if name == "score" and arguments[0] == 2 else None

    with pytest.raises(BackendFailed, match=rf"images '008.png' to '011.png' ended {ATTEMPTS} actors \(The actor died"):
        run_on(FakeRay(fails=dies), model, images, tmp_path / "out", PoolSize(1, 1))
    assert OutputFolder(tmp_path / "out").entries().keys() == {0, 1}


def test_actors_that_never_start_end_the_run(model: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match=f"{ATTEMPTS} actors in a row ended before they were ready: The actor died"):
        run_on(FakeRay(fails=lambda name, arguments: Lost("it died")), model, images, tmp_path / "out")


def test_what_an_actor_raises_is_named(model: Path, images: Path, tmp_path: Path) -> None:
    def raises(name: str, arguments: Any) -> Exception | None:
        return MemoryError("no memory for 4 images") if name == "score" else None

    with pytest.raises(BackendFailed, match=rf"ended {ATTEMPTS} actors \(no memory for 4 images\)"):
        run_on(FakeRay(fails=raises), model, images, tmp_path / "out")


def test_a_model_that_a_node_cannot_load_is_its_sentence(model: Path, tmp_path: Path) -> None:
    """Its path is that within the model's folder: the node has it in another place."""
    broken = shutil.copytree(model, tmp_path / "toy")
    (broken / "1" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"^node [^/]+: toy/1/model.onnx: "):
        Actors(FakeRay(), setup_of(model), pack_folder(broken), Share(1, 0), print).first()
    with pytest.raises(ConfigError, match=r"^node .+: --format takes .*, not xml"):
        Actors(FakeRay(), replace(setup_of(model), format="xml"), pack_folder(model), Share(1, 0), print).first()


def test_a_node_with_other_versions_is_refused(model: Path, images: Path, tmp_path: Path, monkeypatch) -> None:
    """Once the first actor scores, the next one to start finds no NumPy."""

    def change(name: str, arguments: Any) -> Exception | None:
        if name == "score":
            others = tuple(library for library in LIBRARIES if library != "numpy")
            monkeypatch.setattr("tta_server.scoring.manifest.LIBRARIES", others)
            ray.choose = lambda count: count - 1
        return None

    ray = FakeRay(fails=change)
    with pytest.raises(ConfigError, match=r"node .+: versions.numpy is null, on the first node '\d"):
        run_on(ray, model, images, tmp_path / "out")


class ElsewhereInputs:
    """Inputs whose images are not there on the nodes."""

    def __init__(self, inputs: Inputs, elsewhere: Inputs) -> None:
        self._inputs, self._elsewhere = inputs, elsewhere

    def __len__(self) -> int:
        return len(self._inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._elsewhere if name == "part" else self._inputs, name)


def test_images_that_only_a_node_cannot_read_end_the_run(model: Path, images: Path, tmp_path: Path) -> None:
    here = open_inputs(str(images))
    assert isinstance(here, Files)
    there = replace(here, folder=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"'000.png': node .+ can't read it, this machine can; put the images where"):
        run_on(FakeRay(), model, ElsewhereInputs(here, there), tmp_path / "out")
    assert not OutputFolder(tmp_path / "out").entries()


def test_an_image_that_no_machine_can_read_is_a_row(model: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "photos", 5)
    listed = open_inputs(str(folder))
    (folder / "001.png").unlink()
    run_on(FakeRay(), model, listed, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok", "failed", "ok", "ok", "ok"]
    assert rows[1]["error"] == "can't be read: No such file or directory"


def test_a_cluster_without_room_is_said(model: Path, images: Path, tmp_path: Path, monkeypatch) -> None:
    """The first actor has a room after the note."""
    ray, notes = FakeRay(room=0), []

    def note(text: str) -> None:
        notes.append(text)
        ray.room = 1

    monkeypatch.setattr("tta_server.scoring.cluster.actors.NOTE_SECONDS", 0.0)
    Actors(ray, setup_of(model), pack_folder(model), Share(2, 0.5), note).first()
    assert notes[0] == "waiting for an actor: each takes 2 CPU and 0.5 GPU, the cluster has 0 CPU and 0 GPU"
