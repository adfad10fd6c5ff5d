"""What fsspec reads is scored as files of this machine are: the same images, order and bytes."""

import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from tests.scoring.test_inputs import contents
from tests.support.file_server import ENDLESS, SECRET, FileServer, serve_folder
from tests.support.scoring import rows_of, run_scoring, toy, write_images
from tests.support.serving import until
from tta_server.errors import ConfigError, InvalidInput, TooLarge
from tta_server.imaging.decoding import Limits
from tta_server.scoring.files import _is_final
from tta_server.scoring.inputs import open_inputs
from tta_server.scoring.read_ahead import HELD
from tta_server.scoring.url_listing import _stamp

names = st.text("ab.é %#[", min_size=1, max_size=6).filter(lambda name: name.strip(". ") and "[" not in name[:1])
trees = st.dictionaries(
    st.tuples(st.lists(names, max_size=2).map(tuple), names, st.sampled_from([".png", ".JPG", ".txt", ""])),
    st.binary(max_size=20),
    min_size=1,
    max_size=12,
)


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder of fsspec's memory file system, emptied at the end."""
    yield f"memory://{uuid4().hex}"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("b.png", "sub/a.PNG", "sub/c.jpg", "readme.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def server(photos: Path) -> Iterator[FileServer]:
    with serve_folder(photos) as found:
        yield found


@given(trees)
def test_a_tree_has_the_same_images_by_any_way(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[tuple[tuple[str, ...], str, str], bytes]
) -> None:
    folder, store = tmp_path_factory.mktemp("tree"), fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    store.pipe("/tree/0.png", b"first")
    (folder / "0.png").write_bytes(b"first")
    for (parts, name, suffix), content in tree.items():
        relative = "/".join([*(f"{part}+" for part in parts), name + suffix])
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        (folder / relative).write_bytes(content)
        store.pipe(f"/tree/{relative}", content)
    expected = open_inputs(str(folder))
    for url in (f"file://{folder}", f"local://{folder}", "memory://tree"):
        found = open_inputs(url)
        assert contents(found) == contents(expected), url
        assert [note.rpartition(":")[2] for note in found.notes] == [n.rpartition(":")[2] for n in expected.notes]


def test_a_pattern_a_single_image_and_an_archive(memory: str) -> None:
    store = fsspec.filesystem("memory")
    for name in ("b.png", "a.png", "deep/c.png", "folder.png/readme"):
        store.pipe(f"{memory}/{name}", name.encode())
    root = memory.removeprefix("memory://")
    assert contents(open_inputs(f"{memory}/*.png")) == [
        (f"memory:///{root}/a.png", b"a.png"),
        (f"memory:///{root}/b.png", b"b.png"),
    ]
    assert contents(open_inputs(f"{memory}/deep/c.png")) == [("c.png", b"deep/c.png")]
    with store.open(f"{memory}/shard.tar", "wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("0001.jpg", "0001.json", "0002.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    assert contents(open_inputs(f"{memory}/shard.tar")) == [("0001.jpg", b"0001.jpg"), ("0002.jpg", b"0002.jpg")]


def test_tables_at_a_url_name_files_beside_them(memory: str, photos: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe(f"{memory}/x/b.png", b"remote b")
    rows = ["b.png", str(photos / "b.png"), f"{memory}/x/b.png", f"file://{photos}/sub/c.jpg"]
    expected = list(zip(rows, (b"remote b", b"b.png", b"remote b", b"sub/c.jpg"), strict=True))
    store.pipe(f"{memory}/x/list.txt", "\n".join(rows).encode())
    store.pipe(f"{memory}/x/table.csv", "\n".join(["path", *rows]).encode())
    with store.open(f"{memory}/x/table.parquet", "wb") as file:
        pq.write_table(pa.table({"path": rows}), file)
    for name in ("list.txt", "table.csv", "table.parquet"):
        assert contents(open_inputs(f"{memory}/x/{name}")) == expected
    with store.open(f"{memory}/x/bytes.parquet", "wb") as file:
        pq.write_table(pa.table({"image": [b"1", b"2", b"3"]}), file, row_group_size=2)
    assert contents(open_inputs(f"{memory}/x/bytes.parquet")) == [
        ("bytes.parquet:0", b"1"), ("bytes.parquet:1", b"2"), ("bytes.parquet:2", b"3"),
    ]  # fmt: skip


def test_a_local_list_may_mix_paths_and_urls(memory: str, photos: Path) -> None:
    fsspec.filesystem("memory").pipe(f"{memory}/r.png", b"remote")
    (photos / "list.txt").write_text(f"b.png\n{memory}/r.png\n")
    found = open_inputs(str(photos / "list.txt"))
    assert contents(found) == [("b.png", b"b.png"), (f"{memory}/r.png", b"remote")]
    assert list(found.marks()) == ["b.png\x005", f"{memory}/r.png\x00"]


def test_names_with_colons_are_files_and_chains_are_urls(memory: str, tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe(f"{memory}/r.png", b"remote")
    (tmp_path / "a::b.png").write_bytes(b"local")
    (tmp_path / "list.txt").write_text(f"a::b.png\nsimplecache::{memory}/r.png\n")
    assert [content for _, content in contents(open_inputs(str(tmp_path / "list.txt")))] == [b"local", b"remote"]


def test_marks_tell_another_version_of_a_file(memory: str) -> None:
    store = fsspec.filesystem("memory")
    store.pipe(f"{memory}/a.png", b"1")
    store.pipe(f"{memory}/t.tar", bytes(10240))
    before = list(open_inputs(memory).marks())
    assert before == list(open_inputs(memory).marks())
    store.pipe(f"{memory}/a.png", b"2")
    assert before != list(open_inputs(memory).marks())


def test_the_stamp_of_a_file_is_its_length_and_its_first_known_version() -> None:
    stamps = [{"size": 1}, {"size": 2}, {"size": 1, "ETag": "a"}, {"size": 1, "ETag": "b"}, {"size": 1, "mtime": 1.5}]
    assert len({_stamp(each) for each in stamps}) == len(stamps)
    assert _stamp({"size": 1, "ETag": "a", "mtime": 1.5}) == _stamp({"size": 1, "ETag": "a", "mtime": 2.5})


def test_over_http(server: FileServer, photos: Path) -> None:
    expected = [("b.png", b"b.png"), ("sub/a.PNG", b"sub/a.PNG"), ("sub/c.jpg", b"sub/c.jpg")]
    assert contents(open_inputs(f"{server.url}/")) == expected
    assert contents(open_inputs(f"{server.url}/sub/c.jpg?size=large")) == [("c.jpg?size=large", b"sub/c.jpg")]
    assert contents(open_inputs(f"{server.url}/*.png")) == [(f"{server.url}/b.png", b"b.png")]
    (photos / "list.txt").write_text("sub/c.jpg\n")
    assert contents(open_inputs(f"{server.url}/list.txt")) == [("sub/c.jpg", b"sub/c.jpg")]


def test_no_more_is_read_than_the_limit(server: FileServer) -> None:
    (image,) = open_inputs(f"{server.url}/{ENDLESS}").images(0, 1, Limits(max_bytes=50_000))
    with pytest.raises(TooLarge, match="more than 50000 bytes"):
        image.read()
    assert server.sent < 20_000_000  # what sockets and clients buffer


def test_a_file_may_be_as_long_as_the_limit(server: FileServer) -> None:
    (image,) = open_inputs(f"{server.url}/b.png").images(0, 1, Limits(max_bytes=5))
    assert image.read() == b"b.png"
    (image,) = open_inputs(f"{server.url}/b.png").images(0, 1, Limits(max_bytes=4))
    with pytest.raises(TooLarge, match="more than 4 bytes"):
        image.read()


def test_a_file_is_one_request_and_tried_again_where_a_server_is_busy(server: FileServer) -> None:
    server.failures = 2
    assert contents(open_inputs(f"{server.url}/b.png")) == [("b.png", b"b.png")]
    assert server.requests == ["GET /b.png"] * 3
    server.failures = 3
    (image,) = open_inputs(f"{server.url}/b.png").images(0, 1, Limits())
    with pytest.raises(InvalidInput, match="can't be read: 503"):
        image.read()


def test_what_vanishes_or_is_refused_is_a_row(server: FileServer, photos: Path, tmp_path: Path) -> None:
    write_images(photos, 1)
    urls = [f"{server.url}/{name}" for name in ("000.png", "gone.png", SECRET)] + ["memory://nowhere/x.png"]
    (photos / "list.txt").write_text("\n".join(urls))
    run_scoring(toy(tmp_path), photos / "list.txt", tmp_path / "out")
    found = {row["id"]: row.get("error", "ok") for row in rows_of(tmp_path / "out")}
    assert found[urls[0]] == "ok"
    assert found[urls[1]] == found[urls[3]] == "can't be read: No such file or directory"
    assert found[urls[2]].startswith("can't be read: 403")
    assert server.requests.count(f"GET /{SECRET}") == 1


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("memory://no/folder", "memory://no/folder: the folder can't be read: No such file or directory"),
        ("memory://no/list.txt", "memory://no/list.txt: can't be read: No such file or directory"),
        ("memory://no/t.parquet", "memory://no/t.parquet: can't be read: No such file or directory"),
        ("memory://no/t.tar", "memory://no/t.tar: can't be read: No such file or directory"),
        ("memory://no/*.png", "holds no image to score"),
        ("warp://x/y.png", "warp://x/y.png: can't be opened: Protocol not known: warp"),
        (
            "s3://bucket/photos",
            r"s3://bucket/photos: Install s3fs to access S3: pip install 'tta-server\[fsspec\]' s3fs",
        ),
    ],
)
def test_what_can_not_be_listed_ends_the_run(source: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        next(iter(open_inputs(source).images(0, 1, Limits()))).read()


def test_a_list_of_urls_that_nothing_reads_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\ns3://bucket/a.png\n")
    with pytest.raises(ConfigError, match=r"s3://bucket/a\.png: Install s3fs"):
        open_inputs(str(tmp_path / "list.txt"))


WITHOUT = """
import sys
sys.modules["fsspec"] = None
from tta_server.errors import ConfigError
from tta_server.scoring.inputs import open_inputs
print(open_inputs(sys.argv[1]).ids)
try:
    open_inputs("s3://bucket/photos")
except ConfigError as error:
    print(error)
"""


def test_without_fsspec_local_lists_work_and_a_url_says_what_to_install(photos: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT, str(photos)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['b.png', 'sub/a.PNG', 'sub/c.jpg']",
        "s3://bucket/photos: URLs need fsspec: pip install 'tta-server[fsspec]'",
    ]


def test_an_error_while_a_table_is_read_is_a_sentence(memory: str) -> None:
    fsspec.filesystem("memory").pipe(f"{memory}/t.parquet", b"no table")
    with pytest.raises(ConfigError, match="is not a valid Parquet file"):
        open_inputs(f"{memory}/t.parquet")
    fsspec.filesystem("memory").pipe(f"{memory}/bytes.parquet", b"")
    with pytest.raises((ConfigError, InvalidInput)):
        open_inputs(f"{memory}/bytes.parquet")


def test_an_image_in_an_archive_is_tried_again_where_a_store_is_busy(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, failures = fsspec.filesystem("memory"), ["busy", "busy"]
    with store.open(f"{memory}/t.tar", "wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    (image,) = open_inputs(f"{memory}/t.tar").images(0, 1, Limits())
    whole = type(store)._open

    def busy(self: Any, *arguments: Any, **options: Any) -> Any:
        if failures:
            raise OSError(failures.pop())
        return whole(self, *arguments, **options)

    monkeypatch.setattr(type(store), "_open", busy)
    assert image.read() == b"abc"
    assert not failures


def test_a_status_that_is_no_number_is_tried_again() -> None:
    """Each file system has errors of its own."""
    error = OSError("busy")
    error.status = "slow down"  # type: ignore[attr-defined]
    assert not _is_final(error)
    finals = {}
    for status in (403, 404, 408, 429, 500, 503):
        error.status = status  # type: ignore[attr-defined]
        finals[status] = _is_final(error)
    assert finals == {403: True, 404: True, 408: False, 429: False, 500: False, 503: False}


class CountingStore(MemoryFileSystem):
    """Knows how many files were read."""

    protocol = "counting"
    reads: ClassVar[list[str]] = []

    def _open(self, path: str, *arguments: Any, **options: Any) -> Any:
        self.reads.append(path)
        return super()._open(path, *arguments, **options)


def test_few_images_are_read_before_they_are_asked_for(tmp_path: Path) -> None:
    """Of a chunk of 200 no more than HELD; all of them are read, once each, by one thread or by many."""
    fsspec.register_implementation("counting", CountingStore, clobber=True)
    store = CountingStore()
    store.store.clear()
    urls = [f"counting:///{number}.png" for number in range(200)]
    for number, url in enumerate(urls):
        store.pipe(url, str(number).encode())
    (tmp_path / "list.txt").write_text("\n".join(urls))
    found = open_inputs(str(tmp_path / "list.txt"))
    CountingStore.reads.clear()
    images = list(found.images(0, 200, Limits()))
    until(lambda: len(CountingStore.reads) >= HELD)
    assert len(CountingStore.reads) == HELD
    assert images[0].read() == images[0].read() == b"0"
    assert images[150].read() == b"150"
    until(lambda: len(CountingStore.reads) >= HELD + 2)
    assert len(CountingStore.reads) == HELD + 2
    with ThreadPoolExecutor(7) as pool:
        assert list(pool.map(lambda image: image.read(), images)) == [str(n).encode() for n in range(200)]
    assert len(CountingStore.reads) == len(set(CountingStore.reads)) + 1  # the one that was asked for early, again
    until(lambda: not any(thread.name.startswith("read") for thread in threading.enumerate()))


class BucketStore(MemoryFileSystem):
    """Lists the mark of each folder as a file without a name, as object stores do."""

    protocol = "bucket"

    def walk(self, path: str, **options: Any) -> Iterator[Any]:
        for folder, folders, files in super().walk(path, **options):
            yield folder, folders, {"": {"name": f"{folder}/", "size": 0, "type": "file"}, **files}


def test_the_mark_of_a_folder_is_no_file() -> None:
    fsspec.register_implementation("bucket", BucketStore, clobber=True)
    url = f"bucket://{uuid4().hex}"
    BucketStore().pipe(f"{url}/a.png", b"a")
    found = open_inputs(url)
    assert (list(found.ids), list(found.notes)) == (["a.png"], [])
