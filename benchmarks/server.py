"""A server to measure, in a process of its own."""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
DATA = ROOT.parent / "shared" / "data"
"""Where the labelled images are looked for unless --data says otherwise."""
EXIT_SECONDS = 30


@dataclass(frozen=True)
class Endpoints:
    """Addresses of a running server; `grpc` is empty where it has no gRPC."""

    http: tuple[str, int]
    grpc: str
    pid: int

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.http)


@contextlib.contextmanager
def served(*arguments: str, tree: Path = ROOT, env: Mapping[str, str] | None = None) -> Iterator[Endpoints]:
    """Start a server on free ports, wait until it is ready, interrupt it at the end; its later stderr is passed on.

    `tree` is the checkout whose code and models are served.
    """
    command = [sys.executable, "-m", "tta_server", "serve", "--port", "0", *arguments]
    env = {**os.environ, "PYTHONPATH": str(tree), "TTA_GRPC_PORT": "0", **(env or {})}
    process = subprocess.Popen(command, cwd=tree, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield _endpoints(process.stderr, process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(EXIT_SECONDS)


def _endpoints(stderr: Iterable[str], pid: int) -> Endpoints:
    """Parse the line that says `ready`; a thread copies the rest to this process's stderr."""
    lines = iter(stderr)
    printed: list[str] = []
    for line in lines:
        printed.append(line)
        if line.startswith("ready"):
            break
    found = re.search(r"ready: http://([^:\s]+):(\d+)", printed[-1] if printed else "")
    if found is None:
        raise SystemExit(f"the server did not start: {''.join(printed[-20:])}")
    ready = printed[-1]
    threading.Thread(target=_pass_on, args=(lines,), daemon=True).start()
    host, port = found.groups()
    grpc = re.search(r"gRPC on port (\d+)", ready)
    return Endpoints((host, int(port)), f"{host}:{grpc[1]}" if grpc else "", pid)


def _pass_on(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stderr.write(f"server: {line}")


def cpu_seconds(pid: int) -> float:
    """Seconds of a core that a process has used, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """A process's memory from /proc: `VmRSS` (resident now) or `VmHWM` (its peak)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(f"{field}:"))


def jobs_left(endpoints: Endpoints) -> float:
    """Images admitted and not yet answered, from /metrics."""
    link = http.client.HTTPConnection(*endpoints.http, timeout=60)
    with contextlib.closing(link):
        link.request("GET", "/metrics")
        lines = link.getresponse().read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("tta_jobs "))
