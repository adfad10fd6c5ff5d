"""Tables, lists and archives as they come: with byte order marks, other encodings, null cells, and one column."""

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tta_server.errors import ConfigError, InvalidInput, TooLarge
from tta_server.imaging.decoding import Limits
from tta_server.scoring.inputs import open_inputs


def test_a_table_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfpath,label\na.png,1\n")
    assert open_inputs(str(tmp_path / "a.csv")).ids == ["a.png"]


@pytest.mark.parametrize(("name", "header"), [("a.csv", b"path\n"), ("a.txt", b"")])
def test_names_in_another_encoding_find_their_files(tmp_path: Path, name: str, header: bytes) -> None:
    file = b"caf\xe9.png"
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + file)).write_bytes(b"content")
    (tmp_path / name).write_bytes(header + file + b"\n")
    (image,) = open_inputs(str(tmp_path / name)).images(0, 1, Limits())
    assert (image.id, image.read()) == ("caf\\xe9.png", b"content")


def test_blanks_in_a_list_are_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" a b.png \n")
    assert open_inputs(str(tmp_path / "a.txt")).ids == [" a b.png "]


def test_a_table_of_one_column_needs_no_name_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("photo\na.png\n")
    assert open_inputs(str(tmp_path / "a.csv")).ids == ["a.png"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_paths_of_both_kinds_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"path": pa.array(["a.png", "b.png"], kind)}), tmp_path / "a.parquet")
    assert open_inputs(str(tmp_path / "a.parquet")).ids == ["a.png", "b.png"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(2)])
def test_bytes_of_all_kinds_and_a_null(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"path": ["one", "two"], "image": pa.array([b"ab", None], kind)})
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = open_inputs(str(tmp_path / "a.parquet")).images(0, 2, Limits())
    assert (first.id, first.read(), second.id) == ("one", b"ab", "two")
    with pytest.raises(InvalidInput, match="the cell holds no image"):
        second.read()


def test_a_column_is_not_the_id_of_itself(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": [b"ab"], "name": ["one"]}), tmp_path / "a.parquet")
    assert open_inputs(str(tmp_path / "a.parquet")).ids == ["one"]


def test_marks_of_a_parquet_file_have_its_length(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [b"ab"]}), path)
    assert list(open_inputs(str(path)).marks()) == [f"a.parquet:0\0{path.stat().st_size}"]


def archive(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as file:
        for member, content in members:
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type = kind
    return found


def test_only_files_of_an_archive_are_images(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", [(member("d.png", tarfile.DIRTYPE), b""), (member("A.JPG"), b"ab")])
    found = open_inputs(str(path))
    assert found.ids == ["A.JPG"]
    assert not found.notes


def test_marks_of_an_archive_have_the_length_of_each_image(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", [(member("a.jpg"), b"ab"), (member("b.jpg"), b"abc")])
    assert list(open_inputs(str(path)).marks()) == ["a.jpg\x002", "b.jpg\x003"]


def test_any_part_of_an_archive_is_read_alone_up_to_the_limit(tmp_path: Path) -> None:
    contents = [b"a" * 600, b"b", b"c" * 5, b"d" * 6]
    path = archive(tmp_path / "a.tar", [(member(f"{n}.jpg"), content) for n, content in enumerate(contents)])
    second, third, fourth = open_inputs(str(path)).images(1, 4, Limits(max_bytes=5))
    assert [(each.id, each.read()) for each in (second, third)] == [("1.jpg", b"b"), ("2.jpg", b"ccccc")]
    with pytest.raises(TooLarge, match="more than 5 bytes"):
        fourth.read()


def test_names_of_an_archive_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", [(member("caf\udce9.png"), b"ab")], tarfile.GNU_FORMAT)
    assert open_inputs(str(path)).ids == ["caf\\xe9.png"]


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """Its images could not be read in place."""
    with tarfile.open(tmp_path / "a.tar", "w:gz") as file:
        file.addfile(member("a.png"), io.BytesIO())
    with pytest.raises(ConfigError, match="is not an archive that can be read"):
        open_inputs(str(tmp_path / "a.tar"))
