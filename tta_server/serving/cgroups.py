"""The control groups of this process, cgroup v1 and v2: what a container may use."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

TYPES = ("cgroup", "cgroup2")


@dataclass(frozen=True, slots=True)
class Controller:
    """What a group limits: the controller's name in v1, and the files to read, by file system type."""

    name: str
    files: Mapping[str, Sequence[str]]


def words_of_groups(root: Path, controller: Controller) -> Iterator[Sequence[str]]:
    """The words in the files of this process's group, then of each visible group above it.

    Files are read below `root`. A missing or unreadable file has no words.
    """
    groups = _groups(_lines(root / "proc/self/cgroup"), controller.name)
    for mount in _mounts(_lines(root / "proc/self/mountinfo"), controller.name):
        if mount.type in groups:
            for folder in _folders(mount, groups[mount.type]):
                place = root / str(folder).lstrip("/")
                yield [
                    word
                    for name in controller.files[mount.type]
                    for line in _lines(place / name)
                    for word in line.split()
                ]


@dataclass(frozen=True, slots=True)
class _Mount:
    """A mounted control group file system: `point` is the folder of the group `root`."""

    type: str
    root: PurePosixPath
    point: PurePosixPath


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _groups(lines: list[str], name: str) -> dict[str, PurePosixPath]:
    """The process's group by file system type, from lines `number:controllers:path`; v2 lists no controllers."""
    groups = {}
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups["cgroup2"] = PurePosixPath(path)
        elif name in controllers.split(","):
            groups["cgroup"] = PurePosixPath(path)
    return groups


def _mounts(lines: list[str], name: str) -> Iterator[_Mount]:
    """Mounts that may hold limits, from lines `id parent device root point options ... - type source options`."""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in TYPES:
            continue
        if kind[0] == "cgroup" and name not in kind[2].split(","):
            continue
        yield _Mount(kind[0], PurePosixPath(_unescaped(fields[3])), PurePosixPath(_unescaped(fields[4])))


def _unescaped(field: str) -> str:
    """A field with its octal escapes decoded, which stand for blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _folders(mount: _Mount, group: PurePosixPath) -> Iterator[PurePosixPath]:
    """The group's folder and its parents up to the mount point; only the mount point for a group outside of it."""
    inside = group.relative_to(mount.root) if group.is_relative_to(mount.root) else PurePosixPath()
    if ".." in inside.parts:
        inside = PurePosixPath()
    yield from (mount.point / part for part in (inside, *inside.parents))
