"""How many cores this process may use, by its CPU affinity and its container's CPU quota (cgroup v1 and v2)."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

QUOTA_FILES = {"cgroup2": ("cpu.max",), "cgroup": ("cpu.cfs_quota_us", "cpu.cfs_period_us")}
"""The files that hold quota and period in microseconds, by file system type."""


def available_cores(root: Path = Path("/")) -> int:
    """Cores for worker threads, at least 1: the process's cores, or its container's CPU quota if that is less.

    A quota is rounded down. If more threads are busy than it allows, the kernel pauses the whole container, event loop
    included, for the rest of each period (usually 100 ms): 2 threads on a quota of 1.5 pause for 25 ms of each 100, and
    views take longer than estimated. The fraction of a core serves the threads that read and write requests.
    """
    quota = cpu_quota(root)
    count = process_cores(os.environ)
    return count if quota is None else max(1, min(count, int(quota)))


def process_cores(environ: Mapping[str, str]) -> int:
    """PYTHON_CPU_COUNT if it is set, like Python 3.13's `os.process_cpu_count`; else the CPU affinity."""
    stated = environ.get("PYTHON_CPU_COUNT", "")
    if stated.isdecimal() and int(stated) > 0:
        return int(stated)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The lowest quota, in cores, of this process's control group and its visible parents; None without one.

    Files are read below `root`. A missing or unreadable file counts as no quota.
    """
    groups = _groups(_lines(root / "proc/self/cgroup"))
    quotas = [
        quota
        for mount in _mounts(_lines(root / "proc/self/mountinfo"))
        if mount.type in groups
        for folder in _folders(mount, groups[mount.type])
        if (quota := _quota(root / str(folder).lstrip("/"), mount.type)) is not None
    ]
    return min(quotas, default=None)


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


def _groups(lines: list[str]) -> dict[str, PurePosixPath]:
    """The process's group by file system type, from lines `number:controllers:path`; v2 lists no controllers."""
    groups = {}
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups["cgroup2"] = PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            groups["cgroup"] = PurePosixPath(path)
    return groups


def _mounts(lines: list[str]) -> Iterator[_Mount]:
    """Mounts that may hold CPU quotas, from lines `id parent device root point options ... - type source options`."""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in QUOTA_FILES:
            continue
        if kind[0] == "cgroup" and "cpu" not in kind[2].split(","):
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


def _quota(folder: Path, kind: str) -> float | None:
    """A folder's quota in cores; None if it has none."""
    words = [word for name in QUOTA_FILES[kind] for line in _lines(folder / name) for word in line.split()]
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[0]) and int(words[1]):
        return int(words[0]) / int(words[1])
    return None  # "max 100000", or -1 and 100000
