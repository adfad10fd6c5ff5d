"""What is scored: each kind of source gives ids and bytes in a fixed order; what can't be is one sentence."""

import csv
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.scoring import write_images
from tta_server.errors import ConfigError, InvalidInput, TooLarge
from tta_server.imaging.decoding import Limits
from tta_server.scoring.inputs import Inputs, open_inputs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """photos/{b.png, sub/a.PNG, sub/c.jpg} and two files that are no images."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.png", "sub/a.PNG", "sub/c.jpg", "readme.txt", "sub/.DS_Store"):
        (folder / name).write_bytes(name.encode())
    return folder


def contents(inputs: Inputs, limits: Limits | None = None) -> list[tuple[str, object]]:
    return [(image.id, image.read()) for image in inputs.images(0, len(inputs), limits or Limits())]


def test_a_folder_has_its_images_sorted_and_says_what_is_left_out(photos: Path) -> None:
    found = open_inputs(str(photos))
    assert contents(found) == [("b.png", b"b.png"), ("sub/a.PNG", b"sub/a.PNG"), ("sub/c.jpg", b"sub/c.jpg")]
    assert found.notes == [f"{photos}: left out, without the suffix of an image: 2"]


def test_a_pattern_and_a_single_image(photos: Path) -> None:
    found = open_inputs(str(photos / "**" / "*.png"))
    assert contents(found) == [(str(photos / "b.png"), b"b.png")]
    assert contents(open_inputs(str(photos / "sub" / "c.jpg"))) == [("c.jpg", b"sub/c.jpg")]


def test_the_files_of_a_pattern_are_sorted(tmp_path: Path) -> None:
    names = [f"{number * 7 % 23:02d}.png" for number in range(23)]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "24.png").mkdir()
    assert list(open_inputs(str(tmp_path / "*")).ids) == sorted(str(tmp_path / name) for name in names)


def test_a_file_that_is_missing_or_empty_has_a_mark_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "LIST.TXT").write_text("empty.png\ngone.png\nno\0name.png\n")
    found = open_inputs(str(tmp_path / "LIST.TXT"))
    assert list(found.marks()) == ["empty.png\x000", "gone.png\x00-1", "no\x00name.png\x00-1"]
    *_, last = found.images(0, 3, Limits())
    with pytest.raises(InvalidInput, match="is not a path"):
        last.read()


def test_a_list_is_relative_to_itself(photos: Path) -> None:
    (photos / "list.txt").write_text(f"sub/c.jpg\n\nb.png\r\n{photos / 'sub' / 'a.PNG'}\n")
    found = open_inputs(str(photos / "list.txt"))
    assert [name for name, _ in contents(found)] == ["sub/c.jpg", "b.png", str(photos / "sub" / "a.PNG")]
    assert [content for _, content in contents(found)] == [b"sub/c.jpg", b"b.png", b"sub/a.PNG"]


def test_a_list_may_begin_with_a_byte_order_mark(photos: Path) -> None:
    (photos / "list.txt").write_text("b.png\n", encoding="utf-8-sig")
    assert contents(open_inputs(str(photos / "list.txt"))) == [("b.png", b"b.png")]


def test_empty_cells_of_a_column_of_paths_are_left_out(photos: Path) -> None:
    (photos / "table.csv").write_text("path,label\nb.png,cat\n,dog\n")
    pq.write_table(pa.table({"path": ["b.png", None, ""]}), photos / "table.parquet")
    for name in ("table.csv", "table.parquet"):
        assert contents(open_inputs(str(photos / name))) == [("b.png", b"b.png")]


def test_a_column_of_a_table(photos: Path) -> None:
    with (photos / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["label", "path"], ["cat", "b.png"], ["a, dog", "sub/c.jpg"]])
    assert [name for name, _ in contents(open_inputs(str(photos / "table.csv")))] == ["b.png", "sub/c.jpg"]
    (photos / "table.tsv").write_text("where\twhat\nb.png\tcat\n")
    assert contents(open_inputs(str(photos / "table.tsv"), "where")) == [("b.png", b"b.png")]
    with pytest.raises(InvalidInput, match=r"has several columns; name one with --column: 'where', 'what'"):
        open_inputs(str(photos / "table.tsv"))
    with pytest.raises(InvalidInput, match=r"has no column 'file'; name one"):
        open_inputs(str(photos / "table.csv"), "file")


def test_rows_of_a_table_without_a_path_are_counted(photos: Path) -> None:
    (photos / "table.csv").write_text("label,path\ncat,b.png\ndog,\n\ncow\nrat,sub/c.jpg\nowl,sub/a.PNG\n")
    pq.write_table(pa.table({"path": ["b.png", None, "", "sub/c.jpg", "sub/a.PNG"]}), photos / "table.parquet")
    for name in ("table.csv", "table.parquet"):
        found = open_inputs(str(photos / name))
        assert [image for image, _ in contents(found)] == ["b.png", "sub/c.jpg", "sub/a.PNG"]
        assert found.notes == [f"{photos / name}: 2 rows without a path are left out"]


def test_columns_of_parquet(photos: Path) -> None:
    pq.write_table(pa.table({"path": ["sub/c.jpg", "b.png"], "label": [1, 2]}), photos / "paths.parquet")
    assert [name for name, _ in contents(open_inputs(str(photos / "paths.parquet")))] == ["sub/c.jpg", "b.png"]
    values = [bytes([number]) for number in range(7)]
    table = pa.table({"id": [f"n{number}" for number in range(7)], "bytes": values})
    pq.write_table(table, photos / "bytes.parquet", row_group_size=3)
    found = open_inputs(str(photos / "bytes.parquet"))
    assert contents(found) == [(f"n{number}", bytes([number])) for number in range(7)]
    assert [image.id for image in found.images(2, 5, Limits())] == ["n2", "n3", "n4"]
    structs = [{"bytes": value, "path": None} for value in values]
    pq.write_table(pa.table({"image": structs}), photos / "hub.parquet")
    assert contents(open_inputs(str(photos / "hub.parquet")))[6] == ("hub.parquet:6", bytes([6]))
    with pytest.raises(InvalidInput, match="column label holds int64; it takes paths or the bytes of images"):
        open_inputs(str(photos / "paths.parquet"), "label")


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20), st.integers(1, 5), st.data())
def test_any_part_of_a_parquet_file_is_read_alone(
    tmp_path_factory: pytest.TempPathFactory, values: list[bytes], group: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("table") / "t.parquet"
    pq.write_table(pa.table({"image": values}), path, row_group_size=group)
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    found = open_inputs(str(path)).images(start, stop, Limits())
    assert [image.read() for image in found] == values[start:stop]


def test_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("0001.jpg", "0001.json", "deep/" + "x" * 120 + ".png"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    found = open_inputs(str(path))
    deep = "deep/" + "x" * 120 + ".png"
    assert contents(found) == [("0001.jpg", b"0001.jpg"), (deep, deep.encode())]
    assert found.notes == [f"{path}: left out, without the suffix of an image: 1"]
    with pytest.raises(TooLarge, match="more than 100 bytes"):
        contents(found, Limits(max_bytes=100))
    path.write_bytes(path.read_bytes()[: 512 + 3])
    first = next(iter(found.images(0, 1, Limits())))
    with pytest.raises(InvalidInput, match="the archive ends after 3 of its 8 bytes"):
        first.read()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.tar", b"no archive" * 100, "is not an archive that can be read"),
        ("a.parquet", b"no table", "is not a valid Parquet file"),
        ("a.csv", b'path\n"a', "is not a valid CSV file"),
        ("a.txt", b"\n\n", "holds no image to score; it takes a folder, a pattern"),
    ],
)
def test_a_source_that_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=sentence):
        open_inputs(str(tmp_path / name))


def test_nothing_to_score(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none: does not exist; it takes a folder"):
        open_inputs(str(tmp_path / "none"))
    for empty in (tmp_path, tmp_path / "*.jpg"):
        with pytest.raises(ConfigError, match="holds no image to score"):
            open_inputs(str(empty))


def test_an_image_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\nb.png\na.png\n")
    with pytest.raises(ConfigError, match=r"list\.txt: names 'a\.png' twice"):
        open_inputs(str(tmp_path / "list.txt"))


def test_links_are_followed_but_not_around(photos: Path, tmp_path: Path) -> None:
    other = write_images(tmp_path / "other", 1)
    (photos / "linked").symlink_to(other)
    (photos / "sub" / "loop").symlink_to(photos)
    (photos / "self").symlink_to(photos / "self")
    (photos / "gone.png").symlink_to(tmp_path / "nowhere")
    found = open_inputs(str(photos))
    assert list(found.ids) == ["b.png", "gone.png", "linked/000.png", "sub/a.PNG", "sub/c.jpg"]
    assert f"{photos / 'sub' / 'loop'}: is a link to a folder around it, and is left out" in found.notes


def test_names_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    name = b"caf\xe9.png"
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).write_bytes(b"1")
    (tmp_path / "café.png").write_bytes(b"2")
    assert sorted(contents(open_inputs(str(tmp_path)))) == [("caf\\xe9.png", b"1"), ("café.png", b"2")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_can_not_be_read_is_named(photos: Path) -> None:
    (photos / "sub").chmod(0)
    try:
        with pytest.raises(ConfigError, match=r"sub: can't be read: Permission denied"):
            open_inputs(str(photos))
    finally:
        (photos / "sub").chmod(0o755)


@pytest.mark.parametrize(
    "change", [lambda f: (f / "b.png").write_bytes(b"longer"), lambda f: (f / "b.png").rename(f / "z.png")]
)
def test_marks_tell_other_images(photos: Path, change: Callable[[Path], object]) -> None:
    before = list(open_inputs(str(photos)).marks())
    assert before == list(open_inputs(str(photos)).marks())
    change(photos)
    assert before != list(open_inputs(str(photos)).marks())


def test_a_part_has_the_same_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is pickled, as on its way to another machine, and read in another folder than the whole."""
    names = sorted(path.name for path in write_images(tmp_path / "photos", 7).iterdir())
    (tmp_path / "list.txt").write_text("".join(f"photos/{name}\n" for name in names))
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(tmp_path / "photos", "photos")
    images = [(tmp_path / "photos" / name).read_bytes() for name in names]
    pq.write_table(pa.table({"id": names, "image": images}), tmp_path / "all.parquet", row_group_size=2)
    monkeypatch.chdir(tmp_path)
    wholes = [open_inputs(source) for source in ("photos", "photos/*.png", "list.txt", "all.tar", "all.parquet")]
    expected = [contents(whole)[3:6] for whole in wholes]
    parts = [pickle.loads(pickle.dumps(whole.part(2, 6).part(1, 4))) for whole in wholes]
    monkeypatch.chdir("/")
    assert [contents(part) for part in parts] == expected
    assert [list(part.ids) for part in parts] == [list(whole.ids[3:6]) for whole in wholes]
