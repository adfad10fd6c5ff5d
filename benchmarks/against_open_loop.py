"""What a change costs under load: this checkout against another commit in an open loop, in pairs.

Three servers run, of which one at a time gets requests: the other commit, the same commit again, and this checkout. In
each round, for each load, all three get the same Poisson arrivals. Loads are multiples of the rate of a closed loop of
eight connections with all eight views. Ratios of answers within their budget, and of views an answer, are taken within
a round and exceed 1 where this checkout is better; the target is that of `against.py`.

    .venv/bin/python benchmarks/against_open_loop.py COMMIT [--rounds 12] [--loads 0.5,1,2,3.75]
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import NamedTuple

import uvloop
from rich.console import Console

from benchmarks.against import NAMES, checkout, report, serving
from benchmarks.server import DATA, ROOT
from loadtest.cases import BUDGETS_MS, IMAGES, MODELS, Case
from loadtest.generator import closed_loop, open_loop, poisson, real_time_priority
from loadtest.report import outcome

VIEWS = 8
LOADS = (0.5, 1.0, 2.0, 3.75)
PATIENCE_S, PAUSE_S, CLOSED_S = 2.0, 0.5, 4.0
LOCAL = "127.0.0.1"


class Found(NamedTuple):
    """Answers within the budget, and views an answer."""

    in_time: int
    mean_views: float


def offer(port: int, case: Case, times: list[float]) -> Found:
    with real_time_priority():
        requests = case.requests("adaptive")
        shots = uvloop.run(open_loop((LOCAL, port), requests, times, case.budget_ms / 1e3 + PATIENCE_S))
    time.sleep(PAUSE_S)
    answered = [found for found in map(outcome, shots) if found.status == 200]
    views = statistics.fmean(found.views for found in answered) if answered else 0.0
    return Found(sum(found.latency_ms <= case.budget_ms for found in answered), views)


def closed_rate(port: int, case: Case) -> float:
    """Answers a second with all views."""
    requests = case.requests("fixed", budget_ms=5_000)
    return len(uvloop.run(closed_loop((LOCAL, port), requests, CLOSED_S))) / CLOSED_S


def measure(
    case: Case, commit: str, loads: list[float], rounds: int, seconds: float, console: Console
) -> dict[float, dict[str, list[Found]]]:
    """By load and server, a value a round."""
    found: dict[float, dict[str, list[Found]]] = defaultdict(lambda: defaultdict(list))
    with ExitStack() as stack:
        tree = stack.enter_context(checkout(commit))
        trees = {"before": tree, "again": tree, "here": ROOT}
        ports = {name: stack.enter_context(serving(trees[name])).http[1] for name in NAMES}
        rate = max(closed_rate(port, case) for port in ports.values())
        console.print(f"{case.model}: 1x is {rate:.1f} answers/s")
        for number in range(rounds):
            for load in loads:
                times = poisson(load * rate, seconds, Random(f"{number} {load:g}"))
                for k in range(3):  # each comes first equally often
                    name = NAMES[(number + k) % 3]
                    found[load][name].append(offer(ports[name], case, times))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the other commit")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", default="clothing", choices=list(IMAGES))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=4, help="of each load on each server")
    parser.add_argument("--loads", default=",".join(f"{load:g}" for load in LOADS))
    args = parser.parse_args()
    console, met = Console(soft_wrap=True, highlight=False), True
    case = Case(args.model, tuple(IMAGES[args.model](args.data, MODELS)), BUDGETS_MS[args.model], VIEWS)
    loads = [float(load) for load in args.loads.split(",")]
    for load, servers in measure(case, args.commit, loads, args.rounds, args.seconds, console).items():
        for figure in Found._fields:
            values = {name: [float(getattr(one, figure)) for one in servers[name]] for name in NAMES}
            ratios = {
                name: [value / max(before, 1e-9) for before, value in zip(values["before"], values[name], strict=True)]
                for name in ("again", "here")
            }
            about = f"{load:g}x, {figure}, {statistics.median(values['here']):.4g} here"
            met &= report(console, about, ratios["here"], ratios["again"])
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
