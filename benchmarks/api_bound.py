"""Goodput where the event loop of the API is full, with its bound (--api-bound) and without.

Requests are v2 JSON with the pixels of one image as numbers, which the event loop parses; the device
(benchmarks/pacing_server.py) takes almost no time. 1x is the rate of a closed loop of 8 connections, measured first;
then each load is an open loop over HTTP. Exits with 1 where goodput with the bound at 2x is under 0.8 of that at 1x.
"""

import argparse
import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import uvloop
from rich.console import Console
from rich.table import Table

from loadtest.generator import Shot, closed_loop, open_loop, poisson, real_time_priority
from loadtest.openloop import PATIENCE_S
from loadtest.report import quantile

Address = tuple[str, int]
MODEL, CURVE = "cifar10", {1: 0.05, 128: 0.1}
SIDE = 80
"""Of an image; its JSON has about 88,000 bytes. From 100,000 on a thread parses it."""
CONNECTIONS, CLOSED_S = 8, 4.0
AIM = 0.8
COLUMNS = ("offered/s", "goodput/s", "refused api", "refused time", "late or lost", "p99 ms", "sent late p99 ms")


@contextmanager
def served(budget_ms: float, bound: bool) -> Iterator[Address]:
    script = str(Path(__file__).with_name("pacing_server.py"))
    settings = json.dumps({"api_bound": bound, "grpc": False})
    command = [sys.executable, script, "0", str(budget_ms), json.dumps(CURVE), settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield "127.0.0.1", json.loads(process.stdout.readline())["port"]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def request(budget_ms: float) -> bytes:
    numbers = Random(0).choices(range(256), k=SIDE * SIDE * 3)
    tensor = {"name": "PIXELS", "datatype": "UINT8", "shape": [SIDE, SIDE, 3], "data": numbers}
    body = json.dumps({"inputs": [tensor], "parameters": {"max_views": 1}}).encode()
    lines = (
        f"POST /v2/models/{MODEL}/infer HTTP/1.1",
        "Host: benchmark",
        f"X-Request-Timeout-Ms: {budget_ms:g}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*lines, "", "")).encode() + body


def status(shot: Shot) -> int:
    return int(shot.answer[9:12] or 0)


def capacity(address: Address) -> float:
    """Answers/s of a closed loop; a short one before it warms up."""
    for seconds in (1.0, CLOSED_S):
        shots = uvloop.run(closed_loop(address, [request(5000)], seconds, CONNECTIONS))
    wrong = [shot.answer for shot in shots if status(shot) != 200]
    if wrong:
        raise SystemExit(f"the closed loop got an error: {wrong[0].decode(errors='replace')}")
    return len(shots) / CLOSED_S


def refusals(address: Address) -> dict[str, float]:
    """By reason, since the start of the server."""
    with closing(http.client.HTTPConnection(*address, timeout=60)) as link:
        link.request("GET", "/metrics")
        text = link.getresponse().read().decode()
    found = re.findall(r'^tta_refusals_total.*reason="(\w+)"} (\S+)', text, re.MULTILINE)
    return dict.fromkeys(("api", "time"), 0.0) | {reason: float(count) for reason, count in found}


def point(address: Address, per_s: float, seconds: float, budget: float) -> tuple[float, ...]:
    """The values of COLUMNS."""
    before = refusals(address)
    times = poisson(per_s, seconds, Random(f"{per_s:g}"))
    with real_time_priority():
        shots = uvloop.run(open_loop(address, [request(budget)], times, budget / 1e3 + PATIENCE_S))
    after = refusals(address)
    good = [shot for shot in shots if status(shot) == 200 and shot.ended - shot.intended <= budget / 1e3]
    refused = sum(status(shot) == 429 for shot in shots)
    return (
        len(shots) / seconds,
        len(good) / seconds,
        after["api"] - before["api"],
        after["time"] - before["time"],
        len(shots) - len(good) - refused,
        _p99_ms([shot.ended - shot.intended for shot in shots if status(shot) == 200]),
        _p99_ms([shot.sent - shot.intended for shot in shots if shot.sent == shot.sent]),
    )


def _p99_ms(seconds: Sequence[float]) -> float:
    return 1e3 * quantile(seconds, 0.99)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loads", default="0.5,1,2,3")
    parser.add_argument("--seconds", type=float, default=5, help="of each point")
    parser.add_argument("--budget", type=float, default=200, help="of each request, in ms")
    args = parser.parse_args()
    table, console = Table("bound", "load", *COLUMNS), Console(width=120)
    per_s, goodput = 0.0, dict[float, float]()
    for bound in (True, False):
        with served(args.budget, bound) as address:
            per_s = per_s or capacity(address)
            for load in map(float, args.loads.split(",")):
                found = point(address, load * per_s, args.seconds, args.budget)
                table.add_row("on" if bound else "off", f"{load:g}x", *(f"{value:.0f}" for value in found))
                if bound:
                    goodput[load] = found[1]
    console.print(f"1x: {per_s:.0f} answers/s of a closed loop with {CONNECTIONS} connections")
    console.print(table)
    if not {1.0, 2.0} <= set(goodput):
        return 0
    share = goodput[2.0] / goodput[1.0]
    console.print(f"goodput at 2x over 1x: {share:.2f}; target {AIM}: {'met' if share >= AIM else 'MISSED'}")
    return 0 if share >= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
