"""How many cores this process may use, by its CPU affinity and its container's CPU quota."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tta_server.serving.cgroups import Controller, words_of_groups

CPU = Controller("cpu", {"cgroup2": ("cpu.max",), "cgroup": ("cpu.cfs_quota_us", "cpu.cfs_period_us")})
"""Quota and period in microseconds."""


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
    """The lowest quota, in cores, of this process's control group and its visible parents; None without one."""
    quotas = (_quota(words) for words in words_of_groups(root, CPU))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(words: Sequence[str]) -> float | None:
    """A quota in cores; None if there is none, or its file is missing."""
    if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[0]) and int(words[1]):
        return int(words[0]) / int(words[1])
    return None  # "max 100000", or -1 and 100000
