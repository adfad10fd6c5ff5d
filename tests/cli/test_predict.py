"""`tta-server predict`: what it prints and its exit status."""

import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.unreadable import unreadable_files
from tests.support import pictures, references
from tests.support.commands import check_mistake, run, run_process
from tests.support.references import MODELS
from tests.support.serving import command


def test_predict_prints_a_table(photo: Path) -> None:
    done = run_process("predict", str(photo), "--model", "clothing", "--top-k", "2")
    assert done.returncode == 0, done.stderr
    assert "8 of 8" in done.stdout
    assert "all_views" in done.stdout
    best = int(references.clothing(pictures.opened(photo.read_bytes())).argmax())
    assert references.CLOTHING[best] in done.stdout


def test_predict_prints_json_that_is_the_answer(photo: Path) -> None:
    done = run("predict", str(photo), "--model", "clothing", "--policy", "plain", "--top-k", "10", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["image"] == str(photo)
    expected = references.clothing(pictures.opened(photo.read_bytes()))
    probabilities = {entry["index"]: entry["probability"] for entry in printed["prediction"]["top"]}
    assert [probabilities[k] for k in range(10)] == pytest.approx(expected.tolist(), abs=1e-6)


def test_predict_goes_on_after_a_broken_image_and_exits_with_1(photo: Path, tmp_path: Path) -> None:
    broken, other = tmp_path / "broken.jpg", tmp_path / "other.png"
    broken.write_bytes(b"no image")
    other.write_bytes(pictures.png(seed=2))
    done = run("predict", str(photo), str(broken), str(other), "--model", "clothing", "--json")
    assert done.returncode == 1
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == [str(photo), str(other)]
    assert f"{broken}: this is not an image" in done.stderr
    assert "Traceback" not in done.stderr


NAMES = ["a[bold].jpg", "q[/b].jpg", "x[?b].jpg", "a:smile:.jpg", "back\\[bold].jpg"]


def test_names_are_printed_as_they_are(photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "d["
    folder.mkdir()
    for name in NAMES:
        (folder / name.replace("/", "")).write_bytes(photo.read_bytes())
    names = [name.replace("/", "") for name in NAMES]
    done = run("predict", *(str(folder / name) for name in names), "d[/b]", "--model", "clothing")
    assert done.returncode == 1
    assert all(name in done.stdout for name in names), done.stdout
    assert "error: d[/b]: can't be read: No such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_predict_goes_on_after_a_file_that_can_not_be_read(photo: Path, tmp_path: Path) -> None:
    found = unreadable_files(tmp_path)
    done = run("predict", *found, str(photo), "--model", "cifar10", "--json")
    assert done.returncode == 1
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == [str(photo)]
    assert all(f"error: {path}: {sentence}" in done.stderr for path, sentence in found.items()), done.stderr
    assert "Traceback" not in done.stderr


def test_an_image_may_come_through_a_pipe(photo: Path) -> None:
    arguments = command("predict", "/dev/stdin", "--model", "cifar10", "--json")
    done = subprocess.run(arguments, input=photo.read_bytes(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["image"] == "/dev/stdin"


def test_predict_prints_the_share_of_each_class_in_a_mask(tmp_path: Path) -> None:
    path = tmp_path / "cells.png"
    path.write_bytes(pictures.encoded(pictures.nuclei()))
    done = run("predict", str(path), "--model", "nuclei", "--policy", "plain")
    assert done.returncode == 0, done.stderr
    assert "background" in done.stdout
    assert "%" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--policy", "nope"], "unknown policy 'nope'"),
        (["--policy", '["identity", "vflip"]'], "symmetries: hflip"),
        (["--merge", "median"], "unknown merge 'median'"),
        (["--budget-ms", "0"], "budget_ms takes"),
    ],
)
def test_a_wrong_option_is_a_mistake_that_names_what_is_allowed(
    photo: Path, arguments: list[str], sentence: str
) -> None:
    done = run("predict", str(photo), "--model", "clothing", *arguments)
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_model_names_those_that_are_there(photo: Path) -> None:
    assert "found: bloodcells, cifar10, clothing, mouse, nuclei, nuclei-count" in check_mistake(
        run("predict", str(photo), "--model", "none")
    )


def test_a_missing_image_is_a_mistake() -> None:
    assert "/none.jpg does not exist" in check_mistake(run("predict", "/none.jpg", "--model", "clothing"))


@pytest.mark.parametrize("model", ["bloodcells", "mouse", "nuclei"])
def test_predict_draws_on_the_image(tmp_path: Path, model: str) -> None:
    (sample,) = (MODELS / model).glob("sample.*")
    done = run("predict", str(sample), "--model", model, "--draw", str(tmp_path / "drawn.png"))
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "drawn.png") as drawn, Image.open(sample) as plain:
        assert drawn.size == plain.size
        assert drawn.convert("RGB").tobytes() != plain.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("images", "model", "sentence"),
    [(1, "clothing", "has no place on the image"), (2, "nuclei", "--draw takes one image")],
)
def test_an_answer_that_can_not_be_drawn_is_a_mistake(
    tmp_path: Path, photo: Path, images: int, model: str, sentence: str
) -> None:
    done = run("predict", *[str(photo)] * images, "--model", model, "--draw", str(tmp_path / "x.png"))
    assert sentence in check_mistake(done)
