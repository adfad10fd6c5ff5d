"""Free memory: of made-up containers on made-up machines, and of this one."""

from pathlib import Path

import pytest

from tests.serving.test_cores import V2, container
from tta_server.serving.memory import available_memory, peak_memory

V1 = "34 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
MACHINE = {"proc/meminfo": "MemTotal: 4000 kB\nMemAvailable:    3000 kB"}
STATISTICS = "anon 300000\nfile 900000\nkernel 7\nshmem 200000"


def v2(folder: str, limit: str, statistics: str = STATISTICS) -> dict[str, str]:
    return {f"sys/fs/cgroup{folder}/memory.max": limit, f"sys/fs/cgroup{folder}/memory.stat": statistics}


CASES = {
    "no group": ("", "", {}, 3_072_000),
    "no limit": ("0::/", V2, v2("", "max"), 3_072_000),
    "a limit: cached files count as free": ("0::/", V2, v2("", "1500000"), 1_000_000),
    "a limit above the machine": ("0::/", V2, v2("", "9000000"), 3_072_000),
    "the least of nested groups": (
        "0::/pod/box",
        V2,
        v2("/pod/box", "2500000") | v2("/pod", "2000000", "anon 1400000"),
        600_000,
    ),
    "no statistics": ("0::/", V2, {"sys/fs/cgroup/memory.max": "1500000"}, 1_500_000),
    "v1": (
        "5:memory:/",
        V1,
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "1500000",
            "sys/fs/cgroup/memory/memory.stat": "rss 3\ntotal_cache 8\ntotal_rss 400000\ntotal_shmem 200000",
        },
        900_000,
    ),
    "v1, a limit of the cpu": ("4:cpu:/", V2.replace("cgroup2", "cgroup"), v2("", "1500000"), 3_072_000),
}


@pytest.mark.parametrize(("cgroup", "mountinfo", "files", "expected"), CASES.values(), ids=CASES)
def test_the_least_on_the_way_up_is_free(
    tmp_path: Path, cgroup: str, mountinfo: str, files: dict[str, str], expected: int
) -> None:
    assert available_memory(container(tmp_path, cgroup, mountinfo, files | MACHINE)) == expected


def test_a_system_that_does_not_say_is_unknown(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None
    assert peak_memory(tmp_path) is None
    limited = container(tmp_path, "0::/", V2, v2("", "1500000"))
    assert available_memory(limited) is None


def test_the_name_of_a_process_need_not_be_text(tmp_path: Path) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "status").write_bytes(b"Name:\t\xc3\nVmHWM:\t  12 kB\n")
    assert peak_memory(tmp_path) == 12 * 1024


def test_this_machine_has_memory_and_this_process_takes_some() -> None:
    assert (available_memory() or 0) > 50_000_000
    assert 10_000_000 < (peak_memory() or 0) < 100_000_000_000
