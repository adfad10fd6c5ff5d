"""A rolling update, and a crash, under open-loop load: two servers behind a load balancer that asks for readiness.

Load is 0.3 of the closed loop's rate (8 connections, all views, both servers), which is measured first. Meanwhile each
of the two servers is replaced: a new one starts and becomes ready, the old one gets SIGTERM and ends after its
`--shutdown-delay-seconds` with its requests answered. Then one of two is killed (-9). Targets: no answer but 200 during
the update, which ends before the load does, and exit status 0 of both; of the crash only requests that were sent to the
killed server fail. Exits with 1 if one is missed.

    .venv/bin/python benchmarks/rolling_update.py                   5,000 requests: about five minutes
    .venv/bin/python benchmarks/rolling_update.py --requests 500    a short run
"""

import argparse
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import uvloop

from benchmarks.server import DATA, MODELS
from loadtest.cases import IMAGES, Case
from loadtest.generator import closed_loop, open_loop, poisson
from loadtest.report import Outcome, outcome, quantile
from tests.support.balancer import Address, Balancer
from tests.support.serving import Server, until

LOAD, BUDGET_MS, VIEWS = 0.3, 500.0, 8
CLOSED_S, PATIENCE_S, DELAY_S = 5.0, 5.0, 2.0
CRASH_SHARE = 0.2
"""Requests of the crash, of those of the update."""


@dataclass
class Fleet:
    """Servers of one slot, each with an entry at the balancer."""

    balancer: Balancer
    stack: ExitStack
    servers: list[Server] = field(default_factory=list)

    def start(self) -> None:
        """Start a server and wait until the balancer finds it ready."""
        flags = ("--port", "0", "--slots", "1", "--shutdown-delay-seconds", f"{DELAY_S:g}", "--models", str(MODELS))
        server = self.stack.enter_context(Server(*flags))
        self.balancer.add(address_of(server))
        until(lambda: self.balancer.is_ready(address_of(server)))
        self.servers.append(server)

    def replace_first(self) -> int:
        """Start a new server, then end the oldest one; return its exit status."""
        self.start()
        oldest = self.servers.pop(0)
        oldest.send_signal(signal.SIGTERM)
        status = oldest.exit_status()
        self.balancer.remove(address_of(oldest))
        return status

    def kill_first(self) -> Address:
        """Kill a server as soon as it has a request; return its address."""
        first = self.servers.pop(0)
        until(lambda: self.balancer.in_flight(address_of(first)))
        first.process.kill()
        return address_of(first)


def address_of(server: Server) -> Address:
    found = urlsplit(server.url)
    return str(found.hostname), found.port or 80


def offer(balancer: Balancer, case: Case, rate: float, count: int) -> list[Outcome]:
    """Send that many requests at random times; return their outcomes."""
    times = poisson(rate, 2 * count / rate, Random(0))[:count]
    patience = case.budget_ms / 1e3 + PATIENCE_S
    shots = uvloop.run(open_loop(balancer.address, case.requests("adaptive"), times, patience))
    return [outcome(shot) for shot in shots]


def beside(load: Callable[[], list[Outcome]], act: Callable[[], None]) -> tuple[list[Outcome], float]:
    """Act while the load runs; return the outcomes, and how many seconds the load went on after the act's end."""
    ended: list[float] = []
    thread = threading.Thread(target=lambda: (act(), ended.append(time.perf_counter())))
    thread.start()
    outcomes = load()
    loaded = time.perf_counter()
    thread.join()
    return outcomes, loaded - ended[0]


def line(name: str, found: object, target: str, met: bool) -> bool:
    print(f"{name:44} {found!s:28} {target:22} {'met' if met else 'MISSED'}")
    return met


def report(outcomes: Sequence[Outcome]) -> str:
    """For information: how good the answers were."""
    answered = [each for each in outcomes if each.status == 200]
    in_budget = sum(each.latency_ms <= BUDGET_MS for each in answered)
    mean = sum(each.views for each in answered) / max(1, len(answered))
    p99 = quantile([each.latency_ms for each in answered], 0.99)
    return f"  {in_budget} of {len(outcomes)} in budget, mean K {mean:.2f}, p99 {p99:.0f} ms"


def update(fleet: Fleet, case: Case, rate: float, count: int) -> bool:
    exits: list[int] = []

    def act() -> None:
        for _ in range(len(fleet.servers)):
            exits.append(fleet.replace_first())

    outcomes, after = beside(lambda: offer(fleet.balancer, case, rate, count), act)
    statuses = Counter(each.status for each in outcomes)
    bad = {status or "reset": n for status, n in statuses.items() if status != 200}
    print(report(outcomes))
    return all(
        [
            line("update: answers other than 200, resets", bad or 0, "0", not bad),
            line("update: exit status of the old servers", exits, "[0, 0]", exits == [0, 0]),
            line("update: load went on after it, s", f"{after:.1f}", "over 0, or more load", after > 0),
        ]
    )


def crash(fleet: Fleet, case: Case, rate: float, count: int) -> bool:
    killed: list[Address] = []
    outcomes, _ = beside(lambda: offer(fleet.balancer, case, rate, count), lambda: killed.append(fleet.kill_first()))
    statuses = Counter(each.status for each in outcomes)
    others = {status: n for status, n in statuses.items() if status not in (0, 200)}
    lost, its_own = statuses[0], fleet.balancer.lost[killed[0]]
    print(report(outcomes))
    return all(
        [
            line("crash: failed, of them on the killed server", f"{lost}, {its_own}", "all of them", lost == its_own),
            line("crash: answers other than 200", others or 0, "0", not others),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5_000, help="during the update (5000)")
    parser.add_argument("--model", default="clothing", choices=list(IMAGES))
    parser.add_argument("--data", type=Path, default=DATA, help="folder of labelled images")
    args = parser.parse_args()
    case = Case(args.model, tuple(IMAGES[args.model](args.data, MODELS)), BUDGET_MS, VIEWS)
    with Balancer() as balancer, ExitStack() as stack:
        fleet = Fleet(balancer, stack)
        for _ in range(2):
            fleet.start()
        closed = len(uvloop.run(closed_loop(balancer.address, case.requests("fixed", 5_000), CLOSED_S))) / CLOSED_S
        rate = LOAD * closed
        print(f"{case.model}: closed loop {closed:.1f}/s; {args.requests} requests at {rate:.1f}/s")
        met = update(fleet, case, rate, args.requests)
        met &= crash(fleet, case, rate, max(50, round(CRASH_SHARE * args.requests)))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
