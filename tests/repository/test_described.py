"""A model folder with only a model file, which holds the text of its tta.yaml."""

from pathlib import Path

import pytest
from onnx import save

from tests.support.exports import with_metadata
from tests.support.onnx_models import classifier, write_model
from tta_server.errors import ConfigError
from tta_server.repository.loader import find_models, load_model

TEXT = "task: classification\nlabels: [a, b, c]\ninput: {size: [8, 8]}\noutput: {kind: logits}\n"


def alone(folder: Path, text: str | None = TEXT, version: str = "1") -> Path:
    """A folder with a model file, which has this text in its metadata."""
    (folder / version).mkdir(parents=True)
    model = classifier() if text is None else with_metadata(classifier(), {"tta.yaml": text})
    save(model, folder / version / "model.onnx")
    return folder


def test_a_model_file_is_enough(tmp_path: Path) -> None:
    alone(tmp_path / "mine")
    write_model(tmp_path / "other", classifier(), TEXT)
    (tmp_path / "notes").mkdir()
    alone(tmp_path / "bare", None)
    assert [folder.name for folder in find_models(tmp_path)] == ["mine", "other"]
    model = load_model(tmp_path / "mine")
    assert (model.config.labels, model.version) == (("a", "b", "c"), "1")


def test_the_newest_version_counts(tmp_path: Path) -> None:
    alone(tmp_path / "mine", TEXT.replace("a, b, c", "x, y, z"), "10")
    alone(tmp_path / "mine", TEXT, "2")
    assert load_model(tmp_path / "mine").config.labels == ("x", "y", "z")


def test_a_file_beside_it_counts_more(tmp_path: Path) -> None:
    folder = alone(tmp_path / "mine")
    (folder / "tta.yaml").write_text(TEXT.replace("a, b, c", "x, y, z"))
    assert load_model(folder).config.labels == ("x", "y", "z")


def test_files_that_the_text_names_lie_in_the_folder(tmp_path: Path) -> None:
    folder = alone(tmp_path / "mine", TEXT.replace("[a, b, c]", "names.txt"))
    with pytest.raises(ConfigError, match="there is no such file beside"):
        load_model(folder)
    (folder / "names.txt").write_text("x\ny\nz\n")
    assert load_model(folder).config.labels == ("x", "y", "z")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, r"mine/tta.yaml: there is no such file, and 1/model.onnx has no metadata tta.yaml"),
        ("", r"mine/1/model.onnx: metadata tta.yaml: the file holds null"),
        ("task: [", r"mine/1/model.onnx: metadata tta.yaml: is not valid YAML in line 1"),
        (TEXT.replace("logits", "x"), r"mine/1/model.onnx: metadata tta.yaml: output.kind is 'x'"),
        (TEXT + "policy: [hflip, [\n", "is not valid YAML"),
        (TEXT + "policy: hflip\n", r"mine/1/model.onnx: metadata tta.yaml: .*hflip"),
        (TEXT + "stop: {epsilon: 0.1}\n", r"mine/1/model.onnx: metadata tta.yaml: stop: "),
        (TEXT + "merge: wbf\n", r"mine/1/model.onnx: metadata tta.yaml: merge is 'wbf'"),
    ],
)
def test_a_mistake_names_the_place(tmp_path: Path, text: str | None, sentence: str) -> None:
    folder = alone(tmp_path / "mine", text)
    with pytest.raises(ConfigError, match=sentence):
        load_model(folder)


def test_a_folder_of_undescribed_files_is_named(tmp_path: Path) -> None:
    alone(tmp_path / "mine", None)
    with pytest.raises(ConfigError, match=r"no model found; expected .* or the file alone with the text of a"):
        find_models(tmp_path)
