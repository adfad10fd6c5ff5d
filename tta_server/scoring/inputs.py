"""What is scored: a folder, a pattern, a list, a table, an archive, or any of these behind a URL."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from tta_server.errors import ConfigError, shown
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import SUFFIXES, read_file
from tta_server.scoring.batches import InputImage
from tta_server.scoring.tables import CSV_SUFFIXES, PARQUET_SUFFIXES, read_csv, read_list, read_parquet
from tta_server.scoring.tar import TAR_SUFFIXES, read_tar

LIST_SUFFIXES = (".txt", ".lst")
KINDS = (
    "a folder, a pattern like 'photos/*.jpg', a list (.txt), a table (.csv, .parquet), an archive (.tar) or an image"
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
    """Files of this machine; `names` are relative to `folder`, as the system has them."""

    folder: str
    names: Sequence[str]
    notes: Sequence[str] = ()

    @property
    def ids(self) -> Sequence[str]:
        """The names as text: bytes that are not UTF-8 are escaped."""
        return [_as_text(name) for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def marks(self) -> Iterator[str]:
        """A file that is not there has the length -1."""
        for name in self.names:
            yield f"{_as_text(name)}\0{_length(os.path.join(self.folder, name))}"

    def images(self, start: int, stop: int, limits: Limits) -> Iterator[InputImage]:
        for name in self.names[start:stop]:
            yield InputImage(_as_text(name), _reader(os.path.join(self.folder, name), limits))

    def part(self, start: int, stop: int) -> "Files":
        return Files(os.path.abspath(self.folder), self.names[start:stop])


def _length(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1


def _reader(path: str, limits: Limits) -> Callable[[], bytes]:
    return lambda: read_file(path, limits)


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
    suffix = Path(source).suffix.lower()
    if os.path.isdir(source):
        return _folder(source)
    if not os.path.exists(source):
        return _pattern(source)
    if suffix in LIST_SUFFIXES:
        return Files(os.path.dirname(source), read_list(source))
    if suffix in CSV_SUFFIXES:
        return _column(source, read_csv(source, column))
    if suffix in PARQUET_SUFFIXES:
        return read_parquet(source, column, partial(_column, source))
    if suffix in TAR_SUFFIXES:
        return read_tar(source)
    return Files(os.path.dirname(source), [os.path.basename(source)])


def _column(source: str, cells: Sequence[str | None]) -> Files:
    """The paths in a table, relative to its folder; cells without one are counted."""
    names = [cell for cell in cells if cell]
    left_out = len(cells) - len(names)
    notes = [f"{source}: {left_out} rows without a path are left out"] if left_out else []
    return Files(os.path.dirname(source), names, notes)


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
