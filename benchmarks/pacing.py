"""The real engine over a pacing device, in an open loop over HTTP, against the simulator's forecast of its costs.

The device (benchmarks/pacing_server.py) sleeps as long as a batch takes, so that two cores can drive it as far as HTTP
lets them. Loads are multiples of what the device bears with all views. The simulator gets the costs that the server's
warm-up measured. Exits with 1 where goodput or mean K differ by more than 10 %.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.prediction import simulated
from benchmarks.server import MODELS
from loadtest.cases import Case
from loadtest.generator import open_loop, poisson
from loadtest.openloop import PATIENCE_S
from loadtest.report import Point, Row, outcome, row
from loadtest.target import Target

MODEL, WORKERS = "cifar10", 2
VIEWS = 6
"""Of the model's own policy."""
SLOWER = 40
"""Times an H100, so that two cores can serve what the device bears with one view."""
CURVE = {n: ms * SLOWER for n, ms in ((1, 1.5), (8, 1.7), (16, 2.0), (32, 3.0), (64, 5.2), (128, 9.8))}
"""Milliseconds by batch size, as in docs/scenarios/h100.yaml."""
BUDGET_MS = 50.0 * SLOWER
AIM = 0.1
FIGURES = ("goodput_per_s", "mean_views")


@contextmanager
def served() -> Iterator[dict[str, Any]]:
    """Yields what the server says of itself."""
    script = str(Path(__file__).with_name("pacing_server.py"))
    command = [sys.executable, script, str(WORKERS), str(BUDGET_MS), json.dumps(CURVE)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def scenario(costs: dict[str, Any], per_s: float, seconds: float, seed: int) -> dict[str, object]:
    model = {
        "view_ms": {int(n): ms for n, ms in costs["view_ms"].items()},
        "noise": 0.05,
        "default_budget_ms": BUDGET_MS,
    }
    stages = {key: costs[key] for key in ("decode_ms", "finish_ms")}
    asked = {"model": MODEL, "arrivals": {"poisson": per_s}, "budget_ms": BUDGET_MS, "views": VIEWS}
    return {
        "slots": 1,
        "workers": WORKERS,
        "bounds": {"max_waiting": 4096},
        "models": {MODEL: model | stages},
        "traffic": [asked],
        "duration_s": seconds,
        "seed": seed,
    }


def real(port: int, point: Point, seed: int) -> Row:
    times = poisson(point.per_s, point.seconds, Random(f"{seed} {point.load:g}"))
    patience = point.case.budget_ms / 1e3 + PATIENCE_S
    requests = point.case.requests(point.mode)
    shots = uvloop.run(open_loop(Target(f"http://127.0.0.1:{port}").address, requests, times, patience))
    return row(point, [outcome(shot) for shot in shots])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loads", default="0.5,1,2,4")
    parser.add_argument("--seconds", type=float, default=40, help="of each point")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    console = Console()
    case = Case(MODEL, tuple((MODELS / MODEL).glob("sample.*")), BUDGET_MS, VIEWS)
    table = Table("load", "offered/s", "figure", "real", "forecast", "difference")
    worst = 0.0
    with served() as server:
        best = min(server["view_ms"].values(), key=lambda ms: ms)
        n, ms = max(((int(n), ms) for n, ms in server["view_ms"].items()), key=lambda pair: pair[0] / pair[1])
        capacity = n / ms * 1e3 / VIEWS
        console.print(f"a batch of {n} takes {ms:.1f} ms, one view {best:.1f}: {capacity:.0f} requests/s of all views")
        for load in map(float, args.loads.split(",")):
            point = Point(case, "adaptive", "sweep", None, capacity, load, args.seconds)
            found = real(server["port"], point, args.seed)
            offered = float(found["offered_per_s"])
            expected = simulated(scenario(server, offered, args.seconds, args.seed), slots=1)
            for name in FIGURES:
                a, b = float(found[name]), float(expected[name])
                difference = b / a - 1 if a else float("inf")
                worst = max(worst, abs(difference))
                table.add_row(f"{load:g}x", f"{offered:.0f}", name, f"{a:.2f}", f"{b:.2f}", f"{difference:+.1%}")
    console.print(table)
    console.print(f"largest difference {worst:.1%}; target {AIM:.0%}: {'met' if worst <= AIM else 'MISSED'}")
    return 0 if worst <= AIM else 1


if __name__ == "__main__":
    sys.exit(main())
