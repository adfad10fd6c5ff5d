"""Other ways to serve the large net with eight views: the same photos, views, precision and clients.

P1 is a FastAPI app with torch, P2 LitServe. Each gets 0.5, 1 and 2 times the rate of its own closed loop; what counts
are answers within 50 ms.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks.client import request
from benchmarks.device_steps.card import has
from benchmarks.device_steps.clients import Clients, Target, clients, figures
from benchmarks.device_steps.gateway import BUDGET_MS, CLOSED_S, LOAD_S, connections, goodput_file
from benchmarks.device_steps.product import photos
from benchmarks.device_steps.report import Report
from benchmarks.device_steps.setting import VIEWS, Setting, server_cores
from loadtest.cases import Case

PEERS = {
    "P1": ("FastAPI and torch", "peer_torch", ("torch", "fastapi", "uvicorn")),
    "P2": ("LitServe", "peer_litserve", ("torch", "litserve")),
}
"""By name: what it is, its module, and the packages that it needs."""
LOADS = (0.5, 1.0, 2.0)
FACTOR = 2.0
"""Target: goodput at 2x over that of the best peer at 2x of its own rate."""
START_S = 90.0


def run(setting: Setting, report: Report) -> None:
    found: dict[str, dict[float, float]] = {}
    with clients() as them:
        for name, (about, _, packages) in PEERS.items():
            if missing := [package for package in packages if not has(package)]:
                report.skip(f"{name}, {about}", f"not installed: {', '.join(missing)}")
                continue
            report.attempt(f"{name}, {about}", partial(_measure, setting, report, them, name, found))
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
        target = Target(address, case, [request("/predict", path.read_bytes()) for path in case.images], False)
        closed = them.closed(target, setting.seconds(CLOSED_S), connections(setting))
        report.say(what="closed loop", peer=name, is_a=PEERS[name][0], answers_per_s=round(closed, 1))
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
    command = [sys.executable, "-m", f"benchmarks.device_steps.{PEERS[name][1]}", str(port)]
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, server_cores())
    process = subprocess.Popen(command, env=env, stdout=sys.stderr)
    os.sched_setaffinity(0, cores)
    try:
        _wait(process, port, setting)
        yield "127.0.0.1", port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(process: "subprocess.Popen[bytes]", port: int, setting: Setting) -> None:
    """Until it answers a photo. Raises RuntimeError if it ends, or takes longer than START_S."""
    end, photo = time.perf_counter() + START_S, photos(setting)[0].read_bytes()
    while time.perf_counter() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the peer ended with {process.returncode} before it answered")
        if _answers(port, photo):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the peer did not answer within {START_S:.0f} s")


def _answers(port: int, photo: bytes) -> bool:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
    try:
        link.request("POST", "/predict", photo)
        return link.getresponse().status == 200
    except OSError:
        return False
    finally:
        link.close()
