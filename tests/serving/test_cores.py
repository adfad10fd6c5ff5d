"""Cores: the CPU quota of made-up containers, and the process's own affinity."""

import os
from pathlib import Path

import pytest

from tta_server.serving.cores import available_cores, cpu_quota, process_cores

V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "34 32 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


def container(root: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Path:
    """A root folder with what a container's kernel would show."""
    for path, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    return root


def cfs(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": str(quota), f"{folder}/cpu.cfs_period_us": str(period)}


CASES = {
    "v2, a namespace of its own": ("0::/", V2, {"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
    "v2, no quota": ("0::/", V2, {"sys/fs/cgroup/cpu.max": "max 100000"}, None),
    "v2, no file, as at the root of a host": ("0::/", V2, {}, None),
    "v2, a period of its own": ("0::/", V2, {"sys/fs/cgroup/cpu.max": "25000 50000"}, 0.5),
    "v2, the least of nested groups is above": (
        "0::/pod/box",
        V2,
        {"sys/fs/cgroup/pod/box/cpu.max": "400000 100000", "sys/fs/cgroup/pod/cpu.max": "200000 100000"},
        2.0,
    ),
    "v2, the least of nested groups is below": (
        "0::/pod/box",
        V2,
        {"sys/fs/cgroup/pod/box/cpu.max": "100000 100000", "sys/fs/cgroup/pod/cpu.max": "max 100000"},
        1.0,
    ),
    "v2, other groups do not count": ("0::/pod", V2, {"sys/fs/cgroup/other/cpu.max": "100000 100000"}, None),
    "v2, a group outside of the namespace": ("0::/../box", V2, {"sys/fs/cgroup/cpu.max": "300000 100000"}, 3.0),
    "v2, a mount of a part": (
        "0::/docker/abc/inner",
        V2.replace(" / ", " /docker/abc ", 1),
        {"sys/fs/cgroup/inner/cpu.max": "300000 100000", "sys/fs/cgroup/cpu.max": "700000 100000"},
        3.0,
    ),
    "v2, a blank in the mount point": (
        "0::/",
        V2.replace("/sys/fs/cgroup", r"/my\040groups"),
        {"my groups/cpu.max": "200000 100000"},
        2.0,
    ),
    "v1": ("4:cpu,cpuacct:/", f"{MEMORY}\n{V1}", cfs("sys/fs/cgroup/cpu,cpuacct", 250_000), 2.5),
    "v1, no quota": ("4:cpu,cpuacct:/", V1, cfs("sys/fs/cgroup/cpu,cpuacct", -1), None),
    "v1, the host's path in a container": (
        "4:cpu,cpuacct:/docker/abc\n5:memory:/docker/abc",
        V1.replace(" / ", " /docker/abc ", 1),
        cfs("sys/fs/cgroup/cpu,cpuacct", 100_000, 50_000),
        2.0,
    ),
    "v1, a path that is not mounted": (
        "4:cpu,cpuacct:/kubepods/pod1",
        V1.replace(" / ", " /docker/abc ", 1),
        cfs("sys/fs/cgroup/cpu,cpuacct", 400_000),
        4.0,
    ),
    "v1, nested": (
        "4:cpu,cpuacct:/pod/box",
        V1,
        cfs("sys/fs/cgroup/cpu,cpuacct/pod/box", 600_000) | cfs("sys/fs/cgroup/cpu,cpuacct/pod", 300_000),
        3.0,
    ),
    "v1 and v2 at once": (
        "4:cpu,cpuacct:/box\n0::/box",
        f"{V1}\n{V2.replace('/sys/fs/cgroup', '/sys/fs/cgroup/unified')}",
        cfs("sys/fs/cgroup/cpu,cpuacct/box", 200_000),
        2.0,
    ),
    "cpuset is not cpu": (
        "4:cpuset:/",
        V1.replace("cpu,cpuacct", "cpuset"),
        cfs("sys/fs/cgroup/cpuset", 100_000),
        None,
    ),
    "nonsense": ("nonsense", "nonsense\n1 2 - cgroup2", {"sys/fs/cgroup/cpu.max": "1 1"}, None),
    "nonsense in the file": ("0::/", V2, {"sys/fs/cgroup/cpu.max": "lots of it"}, None),
    "a quota of nothing": ("0::/", V2, {"sys/fs/cgroup/cpu.max": "0 0"}, None),
}


@pytest.mark.parametrize(("cgroup", "mountinfo", "files", "expected"), CASES.values(), ids=CASES)
def test_the_least_quota_on_the_way_up_is_found(
    tmp_path: Path, cgroup: str, mountinfo: str, files: dict[str, str], expected: float | None
) -> None:
    assert cpu_quota(container(tmp_path, cgroup, mountinfo, files)) == expected


def test_a_machine_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(("quota", "slots"), [("50000", 1), ("100000", 1), ("150000", 1), ("199999", 1), ("200000", 2)])
def test_a_quota_is_rounded_down_to_at_least_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, slots: int
) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", "8")
    assert available_cores(container(tmp_path, "0::/", V2, {"sys/fs/cgroup/cpu.max": f"{quota} 100000"})) == slots


def test_a_large_quota_does_not_exceed_the_cores_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON_CPU_COUNT", "3")
    assert available_cores(container(tmp_path, "0::/", V2, {"sys/fs/cgroup/cpu.max": "6400000 100000"})) == 3
    assert available_cores(tmp_path / "empty") == 3


def test_affinity_counts_unless_another_number_is_stated() -> None:
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert process_cores({}) == own
    assert process_cores({"PYTHON_CPU_COUNT": "5"}) == 5
    for ignored in ("default", "0", "", "many"):
        assert process_cores({"PYTHON_CPU_COUNT": ignored}) == own


def test_this_machine_has_cores() -> None:
    assert 1 <= available_cores() <= process_cores(os.environ)
