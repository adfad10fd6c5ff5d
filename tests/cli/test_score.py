"""`tta-server score`: what it prints, its exit status, and what is left however it ends."""

import json
import os
import random
import resource
import signal
import subprocess
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer

from tests.scoring.test_coco import RED, lit, tiny
from tests.support import pictures
from tests.support.commands import TERMINAL, check_mistake, run, run_process
from tests.support.scoring import BROKEN, content_of, rows_of, toy, write_images
from tests.support.serving import PATIENCE, command, until
from tta_server.cli.score_options import RayOption, ScoreCommand


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("models"))


def words(photos: Path, model: Path, out: Path, *more: str) -> list[str]:
    return ["score", str(photos), "--model", str(model), "--out", str(out), "--format", "jsonl", *more]


def test_a_folder_is_scored_and_said(model: Path, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 300, [7, 290])
    done = run_process(*words(photos, model, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "300 of 300, 2 failed" in done.stderr
    assert "007.png: this is not an image" in done.stderr
    rows = rows_of(tmp_path / "out")
    assert [row["id"] for row in rows] == [f"{number:03d}.png" for number in range(300)]
    assert [row["id"] for row in rows if row["status"] == "failed"] == ["007.png", "290.png"]
    assert sorted(path.name for path in (tmp_path / "out" / "results").iterdir()) == [
        "part-00000.jsonl",
        "part-00001.jsonl",
    ]
    again = run(*words(photos, model, tmp_path / "out"))
    assert (again.returncode, "300 of 300, 2 failed" in again.stderr) == (0, True)
    verified = run(*words(photos, model, tmp_path / "out", "--verify"))
    assert verified.stdout == "2 shards are as written: 300 of 300 images\n"


def test_parquet_is_the_default(model: Path, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 3)
    done = run("score", photos, "--model", model, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "out" / "results")
    assert table.column("label").to_pylist() == ["green"] * 3


def test_a_model_by_its_name_and_options_of_predict(photo: Path, tmp_path: Path) -> None:
    done = run(
        "score", photo, "--model", "clothing", "--out", tmp_path / "out", "--format", "jsonl", "--policy", "hflip",
        "--merge", "vote", "--include", "views", "--top-k", "2", "--min-views", "all", "--batch", "2", "--threads", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = rows_of(tmp_path / "out")
    assert row["receipt"]["merge"] == "vote"
    assert [view["name"] for view in row["receipt"]["views"]] == ["plain", "hflip"]
    assert len(row["prediction"]["top"]) == 2
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["batch"] == 2


def test_a_forecast_scores_nothing(model: Path, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 20, [1])
    done = run(*words(photos, model, tmp_path / "out", "--plan"))
    assert done.returncode == 0, done.stderr
    assert "20, in shards of 256" in done.stdout
    assert "by 16 of them, of which 1 failed" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("limit", "status"), [("30%", 0), ("3", 0), ("2", 3), ("20%", 3)])
def test_a_limit_of_failures_ends_with_3_and_what_is_done(model: Path, tmp_path: Path, limit: str, status: int) -> None:
    photos = write_images(tmp_path / "photos", 10, [2, 5, 6])
    done = run(*words(photos, model, tmp_path / "out", "--max-failures", limit))
    assert done.returncode == status, done.stderr
    assert len(rows_of(tmp_path / "out")) == 10
    assert ("more images failed than --max-failures" in done.stderr) is (status == 3)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--format", "xml"], "--format takes parquet, jsonl, csv, coco, yolo, not xml"),
        (["--max-failures", "some"], "--max-failures takes a number of images, or a share"),
        (["--merge", "median"], "unknown merge 'median'"),
        (["--min-views", "most"], "min_views takes a whole number of at least 1, or 'all'"),
        (["--batch", "0"], "--batch takes a whole number"),
        (["--format", "coco"], "--format coco does not hold classification; for toy use parquet, jsonl, csv"),
        (["--masks", "rle"], "--masks is for segmentation, and toy does classification; leave --masks out"),
        (["--format", "csv", "--masks", "png"], "--format csv holds masks as rle, not png; leave --masks out"),
        (["--metrics-port", "70000"], "--metrics-port takes a whole number"),
        (["--verify"], "holds no run; give --out the folder of one"),
    ],
)
def test_a_mistake_is_one_sentence(model: Path, tmp_path: Path, more: list[str], sentence: str) -> None:
    photos = write_images(tmp_path / "photos", 1)
    assert sentence in check_mistake(run(*words(photos, model, tmp_path / "out", *more)))


def write_scenes(folder: Path, *names: str) -> Path:
    """Images of 20 by 16 pixels with a red box each."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(pictures.encoded(lit(RED)))
    return folder


def test_coco_is_whole_once_all_shards_are(tmp_path: Path) -> None:
    photos, bright = write_scenes(tmp_path / "photos", "a.png", "sub/b.png"), tiny("detection", tmp_path)
    (photos / "c.jpg").write_bytes(BROKEN)
    arguments = words(photos, bright, tmp_path / "out", "--format", "coco")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    before = content_of(tmp_path / "out")
    listed = json.loads(before["images.json"])
    assert {each["id"]: each["file_name"] for each in listed["images"]} == {0: "a.png", 2: "sub/b.png"}
    assert [each["file_name"] for each in listed["failures"]] == ["c.jpg"]
    assert [each["image_id"] for each in json.loads(before["results.json"])] == [0, 2]
    (tmp_path / "out" / "results.json").unlink()
    assert run(*arguments).returncode == 0
    assert content_of(tmp_path / "out") == before
    assert run(*arguments, "--verify").stdout == "1 shard is as written: 3 of 3 images\n"


def test_the_archives_of_yolo_unpack_to_a_data_set(tmp_path: Path) -> None:
    photos, out = write_scenes(tmp_path / "photos", "a.png", "sub/b.png"), tmp_path / "out"
    done = run(*words(photos, tiny("detection", tmp_path), out, "--format", "yolo"))
    assert done.returncode == 0, done.stderr
    with tarfile.open(out / "results" / "part-00000.tar") as archive:
        archive.extractall(tmp_path / "dataset", filter="data")
    for name in ("a.txt", "sub/b.txt"):
        assert (tmp_path / "dataset" / "labels" / name).read_text() == "0 0.3 0.28125 0.3 0.3125 1\n"
    assert (out / "classes.txt").read_text() == "red\ngreen\nblue\n"


def test_images_with_one_label_file_are_refused_before_anything_runs(tmp_path: Path) -> None:
    photos = write_scenes(tmp_path / "photos", "sub/a.png", "sub/a.jpg")
    done = run(*words(photos, tiny("detection", tmp_path), tmp_path / "out", "--format", "yolo"))
    assert "'sub/a.jpg' and 'sub/a.png' would both be labels/sub/a.txt" in check_mistake(done)
    assert not (tmp_path / "out").exists()


def test_a_changed_shard_is_named(model: Path, tmp_path: Path) -> None:
    photos, out = write_images(tmp_path / "photos", 3), tmp_path / "out"
    run(*words(photos, model, out))
    shard = out / "results" / "part-00000.jsonl"
    shard.write_bytes(shard.read_bytes().replace(b"ok", b"OK"))
    assert f"{shard}: not as it was written" in check_mistake(run(*words(photos, model, out, "--verify")))
    shard.unlink()
    assert f"{shard}: not as it was written" in check_mistake(run(*words(photos, model, out, "--verify")))
    assert run(*words(photos, model, out)).returncode == 0
    assert run(*words(photos, model, out, "--verify")).returncode == 0


def start(arguments: list[str], **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments), stderr=subprocess.PIPE, text=True, env=os.environ | TERMINAL, **options
    )


def started(out: Path, process: subprocess.Popen[str]) -> bool:
    """Whether a first shard is written, or the run has ended."""
    ledger = out / "ledger.jsonl"
    return process.poll() is not None or (ledger.exists() and ledger.stat().st_size > 0)


@pytest.mark.timing
def test_ctrl_c_ends_after_the_shard_and_the_same_command_goes_on(model: Path, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 5000)
    process = start(words(photos, model, tmp_path / "out"))
    until(lambda: started(tmp_path / "out", process))
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, stderr
    assert "stopped; the same command goes on from here" in stderr
    assert "Traceback" not in stderr
    done = len((tmp_path / "out" / "ledger.jsonl").read_text().splitlines())
    assert 0 < done < 20
    assert len(rows_of(tmp_path / "out")) == done * 256
    assert run(*words(photos, model, tmp_path / "out")).returncode == 0
    assert [row["id"] for row in rows_of(tmp_path / "out")] == sorted(path.name for path in photos.iterdir())


def limit_files() -> None:
    """No file of this process may be over 100 kB, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_full_disk_is_one_sentence_and_what_is_done_is_kept(model: Path, tmp_path: Path) -> None:
    photos, out = write_images(tmp_path / "photos", 300), tmp_path / "out"
    process = start(words(photos, model, out), preexec_fn=limit_files)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, stderr
    assert "Traceback" not in stderr
    assert "out: can't be written: File too large; what is done is kept" in stderr
    assert not [*out.rglob("*.tmp")]
    assert not rows_of(out)
    assert run(*words(photos, model, out)).returncode == 0
    assert len(rows_of(out)) == 300


@pytest.mark.slow
@pytest.mark.timing
def test_kills_leave_the_files_of_a_whole_run_as_they_would_be(tmp_path: Path) -> None:
    photos = write_scenes(tmp_path / "photos", *(f"{number:04d}.png" for number in range(2000)))
    bright, source, out = tiny("detection", tmp_path), random.Random(18), tmp_path / "out"
    more = ["--format", "coco", "--batch", "8"]
    assert run(*words(photos, bright, tmp_path / "whole", *more)).returncode == 0
    for _ in range(4):
        process = start(words(photos, bright, out, *more))
        until(lambda process=process: started(out, process))
        try:
            process.wait(source.uniform(0, 0.6))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate(timeout=PATIENCE)
    assert run(*words(photos, bright, out, *more)).returncode == 0
    assert content_of(out) == content_of(tmp_path / "whole")
    assert len(json.loads((out / "results.json").read_text())) == 2000


@pytest.mark.slow
@pytest.mark.timing
def test_ten_kills_leave_what_an_uninterrupted_run_leaves(model: Path, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 5000, range(100, 5000, 411))
    assert run(*words(photos, model, tmp_path / "whole", "--batch", "8")).returncode == 0
    source, out = random.Random(16), tmp_path / "out"
    for _ in range(10):
        process = start(words(photos, model, out, "--batch", "8"))
        until(lambda process=process: started(out, process))
        try:
            process.wait(source.uniform(0, 0.6))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate(timeout=PATIENCE)
    assert run(*words(photos, model, out, "--batch", "8")).returncode == 0
    assert content_of(out) == content_of(tmp_path / "whole")
    assert sum(row["status"] == "failed" for row in rows_of(out)) == 12


def test_options_of_a_cluster_are_for_one(model: Path, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 1)
    assert "--ray-actors is for --ray" in check_mistake(
        run(*words(photos, model, tmp_path / "out", "--ray-actors", "2"))
    )


@pytest.mark.parametrize("words", [["--ray"], ["--ray", "--batch", "2"], ["--ray="]])
def test_ray_may_stand_without_an_address(words: list[str]) -> None:
    given: dict[str, object] = {}

    def score(ray: RayOption = None, batch: int = 1) -> None:
        given.update(ray=ray, batch=batch)

    app = typer.Typer()
    app.command(cls=ScoreCommand)(score)
    app(words, standalone_mode=False)
    assert given == {"ray": "", "batch": 2 if "--batch" in words else 1}
    app(["--ray", "host:6379"], standalone_mode=False)
    assert given["ray"] == "host:6379"
