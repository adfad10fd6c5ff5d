"""Names of models and their folders: of a repository, and single ones."""

from pathlib import Path

import pytest

from tests.support.folders import GOOD, write_folder
from tta_server.errors import ConfigError
from tta_server.serving.folders import ModelFolders


def test_a_single_model_has_its_name_and_the_others_those_of_their_folders(tmp_path: Path) -> None:
    folders = ModelFolders(write_folder(tmp_path, GOOD), {"mine": Path("/mnt/models")})
    assert folders.find() == ["mine", GOOD]
    assert folders.names() == {"mine", GOOD}
    assert [folders.of(name) for name in folders.find()] == [Path("/mnt/models"), tmp_path / GOOD]
    assert folders.roots == [Path("/mnt/models"), tmp_path]


def test_without_a_repository_there_are_the_single_models_only() -> None:
    folders = ModelFolders(None, {"mine": Path("/mnt/models")})
    assert (folders.find(), folders.names(), folders.roots) == (["mine"], {"mine"}, [Path("/mnt/models")])


def test_a_name_of_two_models_is_refused_at_start(tmp_path: Path) -> None:
    folders = ModelFolders(write_folder(tmp_path, GOOD), {GOOD: Path("/mnt/models")})
    with pytest.raises(ConfigError, match=f"--model {GOOD}=/mnt/models: {tmp_path} has a model of that name; give ano"):
        folders.find()
    assert folders.of(GOOD) == Path("/mnt/models")


def test_a_repository_that_is_gone_leaves_the_single_models(tmp_path: Path) -> None:
    folders = ModelFolders(tmp_path / "gone", {"mine": Path("/mnt/models")})
    assert folders.names() == {"mine"}
    with pytest.raises(ConfigError, match="no such folder"):
        folders.find()
