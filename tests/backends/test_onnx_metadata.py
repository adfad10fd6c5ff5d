"""Metadata of ONNX files, read and written without the rest of the file."""

from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.exports import with_metadata as with_props
from tests.support.onnx_models import classifier
from tta_server.backends.onnx_metadata import MOST, read_metadata, with_metadata
from tta_server.errors import ConfigError

HERE = Path("m.onnx")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(st.dictionaries(texts, texts, max_size=4), texts, texts)
def test_an_entry_is_added_or_replaced_and_all_else_stays(tmp_path_factory, before, key, value) -> None:
    model = with_props(classifier(), before)
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    path.write_bytes(with_metadata(HERE, model.SerializeToString(), key, value))
    assert read_metadata(path) == before | {key: value}
    found = onnx.load(path)
    assert {each.key: each.value for each in found.metadata_props} == before | {key: value}
    assert found.graph.SerializeToString(deterministic=True) == model.graph.SerializeToString(deterministic=True)
    del found.metadata_props[:], model.metadata_props[:]
    assert found == model


def test_the_bytes_before_the_new_entry_are_those_of_the_file() -> None:
    content = classifier().SerializeToString()
    assert with_metadata(HERE, content, "a", "b") == content + b"\x72\x06\x0a\x01a\x12\x01b"


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_what_is_no_model_has_no_metadata_and_takes_none(tmp_path: Path, cut: int) -> None:
    content = classifier().SerializeToString()[:-cut]
    (tmp_path / "m.onnx").write_bytes(content)
    assert read_metadata(tmp_path / "m.onnx") == {}
    with pytest.raises(ConfigError, match=r"m\.onnx: the file is no ONNX model, or cut off"):
        with_metadata(HERE, content, "a", "b")


@given(st.binary(max_size=60))
def test_any_bytes_are_read(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    path.write_bytes(content)
    read_metadata(path)


def test_a_file_that_is_missing_has_none(tmp_path: Path) -> None:
    assert read_metadata(tmp_path / "m.onnx") == {}


def test_a_file_of_two_gigabytes_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    content = classifier().SerializeToString()
    monkeypatch.setattr("tta_server.backends.onnx_metadata.MOST", len(content) + 7)
    with pytest.raises(ConfigError, match="save the model with external data, or leave"):
        with_metadata(HERE, content, "a", "b")
    assert MOST == 2_147_483_647
