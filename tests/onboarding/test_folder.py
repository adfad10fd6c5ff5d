"""The folder that is written: its name, and when it may be."""

from pathlib import Path

import pytest

from tta_server.errors import ConfigError
from tta_server.onboarding.draft import Draft
from tta_server.onboarding.folder import check_folder, default_name, write_folder


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/yolo11n.onnx", "yolo11n"),
        ("/a/vit/model.onnx", "vit"),
        ("/a/vit/onnx/model.onnx", "vit"),
        ("/a/vit/1/model.onnx", "vit"),
        ("/model.onnx", ""),
        ("/1/onnx/model.onnx", ""),
    ],
)
def test_the_name_of_a_file(path: str, name: str) -> None:
    assert default_name(Path(path)) == name


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "a\n"])
def test_names_that_are_no_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="can't be a model's name"):
        check_folder(tmp_path, name, False)


def test_labels_of_a_draft_lie_beside_it(tmp_path: Path) -> None:
    source = tmp_path / "source.onnx"
    source.write_bytes(b"a model")
    folder = check_folder(tmp_path, "new", False)
    write_folder(folder, source, b"a model", Draft("task: x\n", ["a", "b"]))
    assert (folder / "labels.txt").read_text() == "a\nb\n"
    assert (folder / "1" / "model.onnx").read_bytes() == b"a model"
    with pytest.raises(ConfigError, match="exists; give another --name, or --force"):
        check_folder(tmp_path, "new", False)
    assert check_folder(tmp_path, "new", True) == folder
