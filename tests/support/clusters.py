"""Ray clusters of two nodes on this machine, whose processes can be killed.

Ray listens on all addresses, so that its tests run in a network namespace with a loopback interface alone.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.serving import until

CPUS = 2
"""Of a node; they are only counted."""
UNSHARE = ["unshare", "--net", "bash", "-c", 'ip link set lo up; exec "$@"', "bash"]


def why_not() -> str | None:
    """Why Ray can't run here; None if it can."""
    if find_spec("ray") is None:
        return "Ray is not installed: pip install 'tta-server[ray]'"
    try:
        done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        return "there is no command unshare, which makes a network namespace"
    return f"no network namespace can be made: {done.stderr.strip()}" if done.returncode else None


@contextmanager
def ray_environment() -> Iterator[dict[str, str]]:
    """Variables with a folder of its own for Ray, whose path is short enough for sockets; nothing is reported."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    quiet |= {"RAY_worker_niceness": "0"}  # by default 15: on a busy machine actors would hardly run
    try:
        yield {**quiet, "RAY_TMPDIR": folder, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class TwoNodes:
    """A cluster: `address`, and its nodes' processes. A context manager that ends it."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._head = self._add_node()
        self._second = self._add_node()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def actors(self) -> list[int]:
        """The processes of the actors that are there, oldest first."""
        raylets = [_raylet(node) for node in self._cluster.list_all_nodes()]
        return sorted(pid for raylet in raylets for pid in _children(raylet) if b"ShardWorker" in _command(pid))

    def wait_for_actors(self, count: int) -> list[int]:
        found: list[int] = until(lambda: len(pids := self.actors()) >= count and pids)
        return found

    def replace_second_node(self) -> list[int]:
        """Kill the node that is not the head, with its actors, and add another. Returns the actors it had."""
        pids = [pid for pid in _children(_raylet(self._second)) if b"ShardWorker" in _command(pid)]
        self._cluster.remove_node(self._second, allow_graceful=False)
        for pid in pids:
            kill(pid)
        self._second = self._add_node()
        return pids

    def _add_node(self) -> Any:
        """Ray gives up a node that takes over 30 s to start, which a busy machine may need: its clock stands still."""
        import ray._private.node as starting

        clock = SimpleNamespace(**{**vars(time), "monotonic": lambda: 0.0})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(starting, "time", clock)
            return self._cluster.add_node(num_cpus=CPUS, include_dashboard=False)

    def __enter__(self) -> "TwoNodes":
        return self

    def __exit__(self, *error: object) -> None:
        self._cluster.shutdown()


def _raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children(parent: int) -> list[int]:
    """Of a process of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == parent:
            found.append(int(path.name))
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
