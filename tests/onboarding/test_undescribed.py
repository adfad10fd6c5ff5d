"""Single models in folders of several layouts: the configuration is what `init` would write."""

import json
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.exports import VIT_PROCESSOR, write_export
from tests.support.named import LAYOUTS, bare_triton, embedded, own, triton, ultralytics
from tests.support.onnx_models import classifier
from tta_server.errors import ConfigError
from tta_server.onboarding.undescribed import load_folder
from tta_server.repository.loader import load_model, model_digest


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_is_loaded_under_the_given_name(tmp_path: Path, layout: str) -> None:
    folder = LAYOUTS[layout](tmp_path / "models")
    model = load_folder(folder, "mine")
    assert (model.name, model.version) == ("mine", "1")
    assert model.config.labels == ("red", "green", "blue")
    assert model_digest(folder, model).startswith("sha256:")


@pytest.mark.parametrize("layout", [triton, ultralytics])
def test_the_configuration_is_what_init_writes(tmp_path: Path, layout) -> None:
    folder = layout(tmp_path / "models")
    (file,) = folder.glob("**/*.onnx")
    done = run("init", file, "--models", tmp_path / "written", "--name", "mine")
    assert done.returncode == 0, done.stderr
    assert repr(load_folder(folder, "mine").config) == repr(load_model(tmp_path / "written" / "mine").config)


def test_the_newest_version_counts_before_a_file_in_the_folder_itself(tmp_path: Path) -> None:
    folder = own(tmp_path / "models")
    (folder / "7").mkdir()
    (folder / "7" / "model.onnx").write_bytes((folder / "1" / "model.onnx").read_bytes())
    (folder / "other.onnx").write_bytes(b"no model")
    assert load_folder(folder, "mine").version == "7"


def test_what_is_assumed_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = triton(tmp_path / "models")
    processor = {key: value for key, value in VIT_PROCESSOR.items() if key != "resample"}
    (folder / "1" / "preprocessor_config.json").write_text(json.dumps(processor))
    load_folder(folder, "mine")
    (sentence,) = [record.getMessage() for record in caplog.records]
    assert sentence == "model mine: nothing states input.interpolation; assumed: bilinear"


def test_a_file_that_nothing_describes_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    """The command leaves a folder; with what it asks for filled in, that is served."""
    folder = bare_triton(tmp_path / "models")
    file = folder / "1" / "model.onnx"
    with pytest.raises(ConfigError) as raised:
        load_folder(folder, "mine")
    sentence = str(raised.value)
    assert sentence.startswith(f"{file}: nothing states task")
    assert f"run `tta-server init {file} --name mine --models FOLDER`" in sentence
    stated = ["task=classification", "labels=[a, b, c]", "input.resize=exact", "output.kind=logits"]
    stated += ["input.color=RGB", "input.scale=1", "input.mean=[0, 0, 0]", "input.std=[1, 1, 1]"]
    options = [part for each in stated for part in ("--set", each)]
    done = run("init", file, "--name", "mine", "--models", tmp_path / "written", *options)
    assert done.returncode == 0, done.stderr + done.stdout
    assert load_folder(tmp_path / "written" / "mine", "mine").config.task == "classification"


def test_a_folder_that_is_not_that_of_one_model_is_named(tmp_path: Path) -> None:
    def sentence(folder: Path) -> str:
        with pytest.raises(ConfigError) as raised:
            load_folder(folder, "mine")
        return str(raised.value)

    file = write_export(tmp_path / "two", classifier(), "a.onnx")
    assert sentence(file) == f"{file}: is no folder; --model takes NAME=DIR, and DIR the folder of one model"
    assert sentence(tmp_path / "none").startswith(f"{tmp_path / 'none'}: is no folder")
    write_export(tmp_path / "two", classifier(), "b.onnx")
    assert "holds 2 ONNX files; a model's folder has 1/model.onnx or one ONNX file" in sentence(tmp_path / "two")
    (tmp_path / "empty").mkdir()
    assert sentence(tmp_path / "empty").startswith(f"{tmp_path / 'empty'}: holds no model file; ")
    embedded(tmp_path / "empty" / "inner")
    assert f"holds those of inner; give --model mine={tmp_path / 'empty' / 'inner'}" in sentence(tmp_path / "empty")
