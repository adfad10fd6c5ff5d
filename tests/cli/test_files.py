"""Model folders and files of pictures: mistakes are found before any work."""

from pathlib import Path

import pytest

from tests.support.commands import check_mistake, run
from tests.support.references import MODELS
from tta_server.cli.files import model_folder
from tta_server.errors import ConfigError


@pytest.mark.parametrize("name", ["m[/b]", "m[bold]", ":smile:"])
def test_names_of_models_are_printed_as_they_are(tmp_path: Path, photo: Path, name: str) -> None:
    (tmp_path / "models").mkdir()
    folder = tmp_path / "models" / name.replace("/", "_")
    folder.symlink_to(MODELS / "cifar10")
    arguments = ["--models", str(folder.parent), "--model", folder.name]
    assert folder.name in run("models", "--models", str(folder.parent)).stdout
    assert run("predict", str(photo), *arguments).returncode == 0
    assert name in check_mistake(run("predict", str(photo), "--models", str(folder.parent), "--model", f"no{name}"))
    assert name in check_mistake(run("serve", "--models", str(tmp_path / f"no{name}")))
    out = tmp_path / f"sheet{folder.name}.png"
    assert out.name in run("views", str(photo), *arguments, "--out", str(out)).stdout


@pytest.mark.parametrize("command_name", ["serve", "models"])
def test_a_folder_without_models_is_a_mistake(tmp_path: Path, command_name: str) -> None:
    assert "no model found" in check_mistake(run(command_name, "--models", str(tmp_path)))
    assert "no such folder" in check_mistake(run(command_name, "--models", str(tmp_path / "none")))


def test_a_missing_folder_of_models_is_named(photo: Path) -> None:
    sentence = check_mistake(run("predict", str(photo), "--model", "clothing", "--models", "/nonexist"))
    assert sentence.startswith("error: /nonexist: no such folder; give --models a folder that holds <name>/tta.yaml")


@pytest.mark.parametrize("command", [["predict", "--draw"], ["views", "--out"]])
@pytest.mark.parametrize(
    ("place", "words"),
    [("none/x.png", "there is no folder"), ("x.foo", "ends in one of .png"), ("folder.png", "is a folder")],
)
def test_a_place_where_no_picture_can_be_is_a_mistake(
    tmp_path: Path, photo: Path, command: list[str], place: str, words: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    name, option = command
    sentence = check_mistake(run(name, str(photo), "--model", "nuclei", option, str(tmp_path / place)))
    assert str(tmp_path / place) in sentence
    assert words in sentence


def test_a_model_is_named_or_given_by_its_folder(tmp_path: Path) -> None:
    """A name in the folder of models counts first."""
    folder = tmp_path / "mine"
    folder.symlink_to(MODELS / "cifar10")
    assert model_folder(MODELS, "clothing") == MODELS / "clothing"
    assert model_folder(MODELS, str(folder)) == folder
    assert model_folder(tmp_path / "no models", str(folder)) == folder
    with pytest.raises(ConfigError, match="there is no model 'coats' in"):
        model_folder(MODELS, "coats")
