"""`tta-server calibrate`, from a folder of images to requests that stop earlier."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support import pictures
from tests.support.commands import run, run_process
from tests.support.references import MODELS
from tests.support.toys import faulty_model
from tta_server import load
from tta_server.cli.calibrate import calibrate
from tta_server.errors import ConfigError, InvalidInput, TTAError
from tta_server.repository.calibration import FILE

DATA = Path(__file__).parents[3] / "shared" / "data" / "cifar10"


@pytest.fixture
def moody(tmp_path: Path) -> Path:
    """A model of two views, which always agree; NaN for a black image."""
    return faulty_model(tmp_path / "models" / "moody")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """70 plain coloured images in two folders, a broken one, a black one, and a file of another kind."""
    source = np.random.default_rng(0)
    for number in range(70):
        folder = tmp_path / "images" / ("even" if number % 2 else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        color = source.integers(2, 240, 3)
        Image.new("RGB", (8, 8), tuple(map(int, color))).save(folder / f"{number}.png")
    (tmp_path / "images" / "broken.JPG").write_bytes(b"no image")
    (tmp_path / "images" / "black.png").write_bytes(pictures.encoded(np.zeros((8, 8, 3), np.uint8)))
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_it_writes_the_calibration_and_prints_how_to_use_it(moody: Path, images: Path, tmp_path: Path) -> None:
    log = tmp_path / "margins.csv"
    done = run(
        "calibrate", "moody", "--models", moody.parent, "--data", images, "-e", "0.05", "-e", "0.2", "--log", log
    )
    assert done.returncode == 0, done.stderr
    assert "moody: 2 views, 70 images, merge mean_probabilities" in done.stdout
    assert "0 of 70" in done.stdout
    assert "1.00 of 2 (50%)" in done.stdout
    assert "all 2 views change 0.0% of the answers of the plain view alone" in done.stdout
    assert f"{moody / FILE}: the calibration; set stop: {{epsilon: 0.2}} in tta.yaml" in done.stdout
    assert '?stop={"epsilon":0.2}' in done.stdout
    assert "broken.JPG: this is not an image" in done.stderr
    assert "black.png: the model's output for view 'plain' holds NaN" in done.stderr
    assert "notes.txt" not in done.stderr
    with log.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "views", "margin", "label"]
    assert [(r["image"], r["views"]) for r in rows[:3]] == [("0", "1"), ("0", "2"), ("1", "1")]
    assert len(rows) == 140
    assert all(0 <= float(row["margin"]) <= 1 for row in rows)
    with load(moody, slots=1) as model:  # a second slot might have both views merged before the rule looks
        receipt = model.predict(next((images / "odd").iterdir()), stop={"epsilon": 0.05}, budget_ms=5000).receipt
    assert (receipt.stop, receipt.stop_reason) == ({"epsilon": 0.05}, "confident")


def test_it_prints_how_to_use_a_calibration_in_another_place(moody: Path, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "found.json", tmp_path / "curve.png"
    done = run(
        "calibrate", "moody", "--models", moody.parent, "--data", images, "-e", "0.05", "--out", out, "--plot", plot
    )
    assert done.returncode == 0, done.stderr
    assert f"{out}: the calibration; put it beside tta.yaml as calibration.json" in done.stdout
    assert not (moody / FILE).exists()
    assert json.loads(out.read_text())["images"] == 70
    with Image.open(plot) as picture:
        assert picture.width >= 1000
        assert len(picture.convert("RGB").getcolors(10_000_000) or []) > 100


def test_a_limit_draws_the_same_images_each_time(moody: Path, images: Path, tmp_path: Path) -> None:
    drawn = []
    for name in ("one.json", "other.json"):
        log = tmp_path / f"{name}.csv"
        call(moody, images, epsilon=[0.2], limit=30, to=tmp_path / name, log=log)
        drawn.append(log.read_text())
    assert drawn[0] == drawn[1]
    assert 2 * 28 <= len(drawn[0].splitlines()) - 1 <= 2 * 30


def call(folder: Path, data: Path, **options: Any) -> None:
    calibrate(folder.name, data, folder.parent, **options)


# ---- mistakes ----


def test_a_mistake_is_one_sentence_and_status_2(moody: Path, images: Path) -> None:
    done = run("calibrate", "moody", "--models", moody.parent, "--data", images)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error: epsilon 0.01 takes at least 299 images (about 3 / epsilon); there are 72" in done.stderr
    assert not (moody / FILE).exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epsilon": [0.0]}, "--epsilon takes a share between 0 and 1"),
        ({"epsilon": [0.1, 1.0]}, "--epsilon takes a share between 0 and 1"),
        ({"epsilon": [0.001]}, "at least 2995 images"),
        ({"limit": 20, "epsilon": [0.1]}, "at least 29 images.* there are 20"),
        ({"log": Path("/tmp")}, "/tmp can't be written; choose another place with --log"),
        ({"to": Path("none/such.json")}, "none/such.json can't be written; choose another place with --out"),
        ({"plot": Path("none/such.png")}, "choose another place with --plot"),
        ({"plot": Path("such.docx")}, "--plot takes a file named .png, .svg, .pdf"),
        ({"log": Path("none/such.csv")}, "choose another place with --log"),
    ],
)
def test_wrong_options_are_refused_before_the_work(
    moody: Path, images: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TTAError, match=sentence):
        call(moody, images, **options)


def test_skipped_images_do_not_count(moody: Path, images: Path) -> None:
    """The folder has 72, enough for an epsilon of 0.0415; the 70 that can be read are too few."""
    with pytest.raises(InvalidInput, match=r"at least 71 images.* there are 70"):
        call(moody, images, epsilon=[0.0415])


def test_a_folder_without_images_names_the_suffixes_of_images(moody: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"holds no images, which are files named .avif, .bmp, .gif, .heic"):
        call(moody, tmp_path / "empty")


def test_no_usable_image_is_an_error(moody: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for number in range(12):
        (tmp_path / "bad" / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(InvalidInput, match="none of the 12 images could be used"):
        call(moody, tmp_path / "bad", epsilon=[0.5])


def test_an_unknown_model_names_those_that_are_there(images: Path) -> None:
    with pytest.raises(ConfigError, match="found: bloodcells, cifar10, clothing, mouse, nuclei, nuclei-count"):
        calibrate("none", images, MODELS)


def test_segmentation_is_refused_with_the_stop_rules_that_it_has(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nuclei can't be calibrated: .* it knows stop all, certain, open"):
        calibrate("nuclei", images, MODELS, to=tmp_path / FILE)


def test_without_matplotlib_a_plot_names_the_extra_to_install(
    moody: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tta_server.cli.plots.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tta-server\[plots\]'"):
        call(moody, images, plot=tmp_path / "curve.png")


# ---- on real images ----


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the labelled images of ../shared/data are not here")
def test_cifar10_then_stops_earlier(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MODELS / "cifar10", tmp_path / "cifar10"))
    done = run_process(
        "calibrate", "cifar10", "--models", tmp_path, "--data", DATA, "--epsilon", "0.02", "--limit", "400"
    )
    assert done.returncode == 0, done.stderr
    with load(folder, slots=1) as model:
        paths = sorted(DATA.glob("*/*.jpg"))[::250]
        answers = [model.predict(path, stop={"epsilon": 0.02}, budget_ms=5000) for path in paths]
    early = [answer.receipt for answer in answers if answer.receipt.stop_reason == "confident"]
    assert len(early) > len(paths) / 2
    assert all(len(receipt.views) < receipt.planned == 6 for receipt in early)
    assert all(receipt.stop == {"epsilon": 0.02} for receipt in early)


def test_a_policy_that_changes_many_answers_is_doubted(tmp_path: Path, images: Path) -> None:
    """Its second view, which weighs more, has other colours, which are what the model answers."""
    folder = faulty_model(tmp_path / "models" / "moody")
    text = (folder / "tta.yaml").read_text().replace("policy: hflip", "policy: [identity, {hue: 120, weight: 3}]")
    (folder / "tta.yaml").write_text(text)
    done = run("calibrate", "moody", "--models", folder.parent, "--data", images, "-e", "0.2")
    assert done.returncode == 0, done.stderr
    assert "That is many" in done.stdout
    assert "Compare policies on labelled images" in done.stdout


def test_a_wrong_declaration_is_refused_before_any_image_runs(tmp_path: Path, images: Path) -> None:
    folder = faulty_model(tmp_path / "models" / "moody")
    text = (folder / "tta.yaml").read_text().replace("scale: 1", "mean: [123, 116, 103]")
    (folder / "tta.yaml").write_text(text)
    done = run("calibrate", "moody", "--models", folder.parent, "--data", images, "-e", "0.2")
    assert done.returncode == 2
    assert "set input.scale: 1 (check input.mean;" in " ".join(done.stderr.split())
