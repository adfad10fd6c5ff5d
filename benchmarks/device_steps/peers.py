"""Other ways to serve the large net with eight views: the same photos, views, precision and clients.

P1 is a FastAPI app with torch, P2 LitServe. Each gets 0.5, 1 and 2 times the rate of its own closed loop; what counts
are answers within 50 ms.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks.client import request
from benchmarks.device_steps.card import has
from benchmarks.device_steps.clients import Clients, Target, clients, figures
from benchmarks.device_steps.gateway import BUDGET_MS, CLOSED_S, LOAD_S, connections, goodput_file
from benchmarks.device_steps.product import photos
from benchmarks.device_steps.report import Report
from benchmarks.device_steps.setting import VIEWS, Setting, server_cores
from loadtest.cases import Case


@dataclass(frozen=True)
class Peer:
    """`packages` are those that it needs; `form` is the field of a form that it takes photos in, or empty."""

    about: str
    module: str
    packages: tuple[str, ...]
    form: str = ""

    def request(self, photo: bytes) -> bytes:
        return request("/predict", photo, self.form)


PEERS = {
    "P1": Peer("FastAPI and torch", "peer_torch", ("torch", "fastapi", "uvicorn")),
    "P2": Peer("LitServe", "peer_litserve", ("torch", "litserve"), form="image"),
}
LOADS = (0.5, 1.0, 2.0)
FACTOR = 2.0
"""Target: goodput at 2x over that of the best peer at 2x of its own rate."""
START_S = 110.0


def run(setting: Setting, report: Report) -> None:
    found: dict[str, dict[float, float]] = {}
    with clients() as them:
        for name, peer in PEERS.items():
            if missing := [package for package in peer.packages if not has(package)]:
                report.skip(f"{name}, {peer.about}", f"not installed: {', '.join(missing)}")
                continue
            report.attempt(f"{name}, {peer.about}", partial(_measure, setting, report, them, name, found))
    if not found:
        report.skip("comparison", "no peer could be measured")
        return
    ours = json.loads(goodput_file(setting).read_text())["goodput_per_s"]
    report.say(what="goodput/s in 50 ms by load, of peers", ours_at_2x=ours, peers=found)
    best = max(loads[2.0] for loads in found.values())
    report.check(14, "goodput at 2x over the best peer's at 2x", ours / max(best, 1.0), (">=", FACTOR))
    most = max(max(loads.values()) for loads in found.values())
    report.check(14, "the same over the best peer's at the load that it bears best", ours / max(most, 1.0), None)


def _measure(setting: Setting, report: Report, them: Clients, name: str, found: dict[str, dict[float, float]]) -> None:
    """Add the peer's goodput a second, by load, to `found`."""
    case = Case(name, tuple(photos(setting)), BUDGET_MS, VIEWS)
    with serving(setting, name) as address:
        target = Target(address, case, [PEERS[name].request(path.read_bytes()) for path in case.images], False)
        closed = them.closed(target, setting.seconds(CLOSED_S), connections(setting))
        report.say(what="closed loop", peer=name, is_a=PEERS[name].about, answers_per_s=round(closed, 1))
        rows = {load: them.offered(target, closed, load, setting.seconds(LOAD_S)) for load in LOADS}
    for load, row in rows.items():
        report.say(what="open loop", peer=name, load=load, budget_ms=BUDGET_MS, **figures(row))
    found[name] = {load: float(row["goodput_per_s"]) for load, row in rows.items()}


@contextmanager
def serving(setting: Setting, name: str) -> Iterator[tuple[str, int]]:
    """A peer on the server's cores, once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {**os.environ, "PEER_NET": setting.nets[0], "PEER_DEVICE": setting.device}
    command = [sys.executable, "-m", f"benchmarks.device_steps.{PEERS[name].module}", str(port)]
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, server_cores())
    process = subprocess.Popen(command, env=env, stdout=sys.stderr)
    os.sched_setaffinity(0, cores)
    try:
        _wait(process, port, PEERS[name].request(photos(setting)[0].read_bytes()))
        yield "127.0.0.1", port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(process: "subprocess.Popen[bytes]", port: int, photo: bytes) -> None:
    """Until it answers this request. Raises RuntimeError if it fails, ends, or takes longer than START_S."""
    end = time.perf_counter() + START_S
    while time.perf_counter() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the peer ended with {process.returncode} before it answered")
        if _answers(port, photo):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the peer did not answer within {START_S:.0f} s")


def _answers(port: int, photo: bytes) -> bool:
    """False while nothing listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), START_S) as link:
            link.sendall(photo)
            head = link.recv(12)
    except OSError:
        return False
    if head and not head.endswith(b"200"):
        raise RuntimeError(f"the peer answered its first request with {head.decode(errors='replace')}")
    return bool(head)
