"""What is scored: a folder, a pattern, a list, a table, an archive, or any of these behind a URL."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from urllib.parse import urlsplit

from tta_server.errors import ConfigError, shown
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import SUFFIXES
from tta_server.scoring.batches import InputImage
from tta_server.scoring.files import STREAMED, absolute, check_schemes, is_url, join, local_path, parent, read_image
from tta_server.scoring.tables import CSV_SUFFIXES, PARQUET_SUFFIXES, read_csv, read_list, read_parquet
from tta_server.scoring.tar import TAR_SUFFIXES, read_tar
from tta_server.scoring.url_listing import Listed, list_folder, list_pattern

LIST_SUFFIXES = (".txt", ".lst")
READERS = 16
"""Files at URLs that are read at once."""
KINDS = (
    "a folder, a pattern like 'photos/*.jpg', a list (.txt), a table (.csv, .parquet), an archive (.tar) or an image, "
    "on this machine or at a URL"
)


class Inputs(Protocol):
    """Images in a fixed order, each with an id of its own."""

    @property
    def notes(self) -> Sequence[str]:
        """What was left out."""

    @property
    def ids(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def marks(self) -> Iterator[str]:
        """What is known of each image before it is read: its id and its length in bytes."""

    def images(self, start: int, stop: int, limits: Limits) -> Iterator[InputImage]:
        """Those from number `start` up to `stop`."""

    def part(self, start: int, stop: int) -> "Inputs":
        """The same images alone, for another machine that sees the same files: paths are absolute, and it is small."""


@dataclass(frozen=True, slots=True)
class Files:
    """Files of this machine and at URLs; `names` are relative to `folder`, as the system has them.

    `stamps` are digests of each file's length and version, where the listing of a URL states them.
    """

    folder: str
    names: Sequence[str]
    notes: Sequence[str] = ()
    stamps: Sequence[bytes] = ()

    @property
    def ids(self) -> Sequence[str]:
        """The names as text: bytes that are not UTF-8 are escaped."""
        return [_as_text(name) for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def marks(self) -> Iterator[str]:
        """A file that is not there has the length -1; of a URL in a list nothing is asked."""
        for number, name in enumerate(self.names):
            known = self.stamps[number].hex() if self.stamps else _length(join(self.folder, name))
            yield f"{_as_text(name)}\0{known}"

    def images(self, start: int, stop: int, limits: Limits) -> Iterator[InputImage]:
        """What is at URLs is read from here on, several at a time."""
        pool = ThreadPoolExecutor(READERS, "read")  # starts no thread before there is a URL
        try:
            for name in self.names[start:stop]:
                path = join(self.folder, name)
                read = partial(read_image, path, limits)
                yield InputImage(_as_text(name), pool.submit(read).result if is_url(path) else read)
        finally:
            pool.shutdown(wait=False)

    def part(self, start: int, stop: int) -> "Files":
        return Files(absolute(self.folder), self.names[start:stop])


def _length(path: str) -> int | str:
    if is_url(path):
        return ""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1


def _as_text(name: str) -> str:
    return name if name.isascii() else os.fsencode(name).decode(errors="backslashreplace")


def open_inputs(source: str, column: str | None = None) -> Inputs:
    """Find what `source` names. Raises ConfigError where there is nothing, and for ids that occur twice."""
    found = _open(source, column)
    if not found.ids:
        raise ConfigError(f"{source}: holds no image to score; it takes {KINDS}")
    if twice := _repeated(found.ids):
        raise ConfigError(f"{source}: names {shown(twice)} twice, and each image is scored once; remove one of them")
    return found


def _open(source: str, column: str | None) -> Inputs:
    source = local_path(source)
    if is_url(source):
        return _url(source, column)
    if os.path.isdir(source):
        return _folder(source)
    if not os.path.exists(source):
        return _pattern(source)
    return _file(source, os.path.splitext(source)[1].lower(), column)


def _url(url: str, column: str | None) -> Inputs:
    """What a URL names is known by its end: asking whether it is a folder would read a whole file over HTTP."""
    is_streamed = url.startswith(STREAMED)
    if any(sign in url for sign in ("*[" if is_streamed else "*?[")):
        return _listed("", list_pattern(url), url)
    suffix = os.path.splitext(urlsplit(url).path if is_streamed else url)[1].lower()
    if suffix in (*LIST_SUFFIXES, *CSV_SUFFIXES, *PARQUET_SUFFIXES, *TAR_SUFFIXES, *SUFFIXES):
        return _file(url, suffix, column)
    return _listed(url, list_folder(url), url)


def _listed(folder: str, found: Listed, source: str) -> Files:
    notes = [f"{source}: left out, without the suffix of an image: {found.others}"] if found.others else []
    return Files(folder, found.names, notes, found.stamps)


def _file(source: str, suffix: str, column: str | None) -> Inputs:
    if suffix in LIST_SUFFIXES:
        return _named(source, read_list(source))
    if suffix in CSV_SUFFIXES:
        return _column(source, read_csv(source, column))
    if suffix in PARQUET_SUFFIXES:
        return read_parquet(source, column, partial(_column, source))
    if suffix in TAR_SUFFIXES:
        return read_tar(source)
    name = source.rpartition("/")[2] if is_url(source) else os.path.basename(source)
    check_schemes([source])
    return Files(parent(source), [name])


def _named(source: str, names: Sequence[str], notes: Sequence[str] = ()) -> Files:
    """The files that a list or table names. Raises ConfigError for URLs that nothing here reads."""
    check_schemes(names)
    return Files(parent(source), names, notes)


def _column(source: str, cells: Sequence[str | None]) -> Files:
    """The paths in a table, relative to its folder; cells without one are counted."""
    names = [cell for cell in cells if cell]
    left_out = len(cells) - len(names)
    notes = [f"{source}: {left_out} rows without a path are left out"] if left_out else []
    return _named(source, names, notes)


def _pattern(source: str) -> Inputs:
    if not glob.has_magic(source):
        raise ConfigError(f"{source}: does not exist; it takes {KINDS}")
    names = sorted(path for path in glob.iglob(source, recursive=True) if os.path.isfile(path))
    return Files("", names)


def _folder(folder: str) -> Files:
    """All images below a folder, sorted; links are followed, but not into a folder around them."""
    walk = _Walk(folder)
    names = sorted(walk.names("", frozenset()))
    if walk.others:
        walk.notes.append(f"{folder}: left out, without the suffix of an image: {walk.others}")
    return Files(folder, names, walk.notes)


class _Walk:
    """Looks for images below a folder; `others` counts further files."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.notes: list[str] = []
        self.others = 0

    def names(self, below: str, parents: frozenset[tuple[int, int]]) -> Iterator[str]:
        """Paths relative to the folder. Raises ConfigError for a folder that can't be read."""
        place, folders = os.path.join(self._folder, below), list[str]()
        try:
            status = os.stat(place)
            around = parents | {(status.st_dev, status.st_ino)}
            if around == parents:
                self.notes.append(f"{place}: is a link to a folder around it, and is left out")
                return
            with os.scandir(place) as found:
                for entry in found:
                    name = os.path.join(below, entry.name)
                    if _is_folder(entry):
                        folders.append(name)
                    elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                        yield name
                    else:
                        self.others += 1
        except OSError as error:
            raise ConfigError(f"{place}: can't be read: {error.strerror or error}") from None
        for name in folders:
            yield from self.names(name, around)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _repeated(ids: Iterable[str]) -> str | None:
    """The first id that occurs twice."""
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            return one
        seen.add(one)
    return None
