"""How much memory this process has taken, and how much is free, on its machine and in its container."""

from collections.abc import Sequence
from pathlib import Path

from tta_server.serving.cgroups import Controller, words_of_groups

MEMORY = Controller(
    "memory",
    {"cgroup2": ("memory.max", "memory.stat"), "cgroup": ("memory.limit_in_bytes", "memory.stat")},
)
USED = ("anon", "shmem", "total_rss", "total_shmem")
"""Of the statistics of a group, v2 and v1: bytes that can't be given back, unlike those of cached files."""


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that more processes may take: of the machine, or of a group above this process if less; None if unknown."""
    of_machine = _field(root / "proc/meminfo", "MemAvailable:")
    if of_machine is None:
        return None
    groups = (_left(words) for words in words_of_groups(root, MEMORY))
    return min([of_machine, *(left for left in groups if left is not None)])


def peak_memory(root: Path = Path("/")) -> int | None:
    """The most bytes that this process has had in memory since its start; None if unknown."""
    return _field(root / "proc/self/status", "VmHWM:")


def _field(path: Path, name: str) -> int | None:
    """Bytes, from a line `name number kB`."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


def _left(words: Sequence[str]) -> int | None:
    """Bytes below a group's limit; None if it has none."""
    if not words or not words[0].isdecimal():
        return None  # "max", or the file is missing
    statistics = dict(zip(words[1::2], words[2::2], strict=False))
    return int(words[0]) - sum(int(statistics.get(name, 0)) for name in USED)
