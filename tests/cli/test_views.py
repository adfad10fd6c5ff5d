"""`tta-server views`."""

from pathlib import Path

import pytest
from PIL import Image

from tests.cli.unreadable import unreadable_files
from tests.support import pictures
from tests.support.commands import check_mistake, run
from tests.support.references import MODELS


def test_views_of_a_file_that_can_not_be_read_is_a_mistake(tmp_path: Path) -> None:
    for path, sentence in unreadable_files(tmp_path).items():
        found = check_mistake(run("views", path, "--model", "cifar10", "--out", str(tmp_path / "sheet.png")))
        assert f"{path}: {sentence}" in found


@pytest.mark.parametrize("model", ["clothing", "nuclei"])
def test_views_writes_a_picture(tmp_path: Path, model: str) -> None:
    path, out = tmp_path / "in.img", tmp_path / "sheet.png"
    path.write_bytes(pictures.jpeg() if model == "clothing" else pictures.encoded(pictures.nuclei()))
    done = run("views", str(path), "--model", model, "--out", str(out))
    assert done.returncode == 0, done.stderr
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert f"{sheet.width}x{sheet.height}" in done.stdout
        assert len(sheet.convert("RGB").getcolors(1 << 24) or ()) > 100


def test_views_of_a_broken_image_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(pictures.png()[:100])
    out = tmp_path / "sheet.png"
    check_mistake(run("views", str(path), "--model", "clothing", "--out", str(out)))
    assert not out.exists()


@pytest.mark.parametrize("model", ["bloodcells", "mouse", "nuclei-count"])
def test_every_kind_of_model_has_a_sheet(tmp_path: Path, model: str) -> None:
    (sample,) = (MODELS / model).glob("sample.*")
    done = run("views", str(sample), "--model", model, "--out", str(tmp_path / "sheet.png"))
    assert done.returncode == 0, done.stderr
