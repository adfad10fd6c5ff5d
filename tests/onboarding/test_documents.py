"""Files beside a model, and those that are named."""

import json
from pathlib import Path

import pytest

from tta_server.errors import ConfigError
from tta_server.onboarding.documents import LARGEST, documents_beside, documents_in, read_labels
from tta_server.onboarding.evidence import Document


def test_what_lies_beside_a_model(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "onnx" / "preprocessor_config.json").write_text("{}")
    (tmp_path / "onnx" / "labels.txt").write_text("a\r\nb\n\n", newline="")
    (tmp_path / "other.json").write_text("{}")
    found = documents_beside(tmp_path / "onnx" / "model.onnx")
    assert list(found) == [
        Document("preprocessor_config.json", {}),
        Document("labels.txt", ["a", "b"]),
        Document("config.json", {"a": 1}),
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"{", "is not valid JSON in line 1"), (b"[]", "holds no JSON object"), (b"\xff", "is not text in UTF-8")],
)
def test_a_file_that_can_t_be_read(tmp_path: Path, content: bytes, problem: str) -> None:
    """One that lies beside may belong to something else; one that is named does not."""
    path = tmp_path / "config.json"
    path.write_bytes(content)
    (found,) = documents_beside(tmp_path / "model.onnx")
    assert f"{path}: {problem}" in found.problem
    with pytest.raises(ConfigError, match=problem):
        documents_in(path)


def test_deep_and_large_files(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": ' + "[" * 200_000)
    with pytest.raises(ConfigError, match="is not valid JSON"):
        documents_in(path)
    path.write_bytes(b" " * (LARGEST + 1))
    with pytest.raises(ConfigError, match="has over 16 MiB"):
        documents_in(path)


def test_files_of_other_programs(tmp_path: Path) -> None:
    """Names that many programs use: files without a key of those that are read are another's."""
    others = {"model_config.json": {"model_type": "llama"}, "environment.json": {"PATH": "/bin"}}
    others |= {"pipeline.json": {"steps": []}, "detail.json": {}, "deploy.json": {"model_type": "x"}}
    for name, content in others.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert not documents_beside(tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match="holds none of"):
        documents_in(tmp_path)
    (tmp_path / "labels.txt").write_text("a\nb")
    (tmp_path / "deploy.json").write_text('{"customs": []}')
    assert [document.name for document in documents_in(tmp_path)] == ["deploy.json", "labels.txt"]
    assert documents_in(tmp_path / "environment.json") == [Document("environment.json", {"PATH": "/bin"})]


def test_the_folder_of_a_version(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "labels.txt").write_text("a\nb")
    assert documents_beside(tmp_path / "1" / "model.onnx") == [Document("labels.txt", ["a", "b"])]
    assert not documents_beside(tmp_path / "v1" / "model.onnx")


def test_a_folder_without_anything(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds none of"):
        documents_in(tmp_path)
    with pytest.raises(ConfigError, match="can't be read"):
        read_labels(tmp_path / "missing.txt")
