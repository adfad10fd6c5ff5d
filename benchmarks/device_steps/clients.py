"""Clients in processes of their own, each on a core that the server does not use where there are enough cores."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import uvloop

from benchmarks.device_steps.setting import client_cores
from loadtest.cases import Case
from loadtest.generator import Shot, closed_loop, open_loop, poisson, real_time_priority
from loadtest.report import LATE_MS, Outcome, Point, Row, outcome, row

PATIENCE_S, PAUSE_S, LEAD_S, WARM_S = 1.0, 0.3, 0.2, 0.5
SHOWN = ("offered_per_s", "goodput_per_s", "goodput_share", "slo", "mean_views", "refused_share", "latency_p50_ms",
         "latency_p99_ms", "too_late", "backend_failed", "lost", "send_late_p99_ms")  # fmt: skip
Address = tuple[str, int]


@dataclass(frozen=True)
class Target:
    """A server: its address, and the requests to send in turn.

    `has_receipts`: its answers say how many views they hold; else all have `case.views`.
    """

    address: Address
    case: Case
    requests: Sequence[bytes]
    has_receipts: bool = True

    def outcome(self, shot: Shot) -> Outcome:
        if self.has_receipts or shot.answer[9:12] != b"200":
            return outcome(shot)
        latency, sent_latency = (shot.ended - shot.intended) * 1e3, (shot.ended - shot.sent) * 1e3
        return Outcome(shot.intended, 200, latency, sent_latency, latency - sent_latency, self.case.views)


class Clients:
    """One process for each core of clients, or one that shares the server's cores."""

    def __init__(self, pool: ProcessPoolExecutor, count: int) -> None:
        self._pool, self._count = pool, count

    def closed(self, target: Target, seconds: float, connections: int) -> float:
        """Answers a second where each connection sends its next request when it has the answer to the last.

        A short run before it warms the server. Raises RuntimeError if a request fails.
        """
        each = max(1, connections // self._count)
        runs = [self._gather(_closed, [(target, t, each)] * self._count) for t in (WARM_S, seconds)]
        return rate(runs[-1])

    def offered(self, target: Target, per_s: float, load: float, seconds: float) -> Row:
        """Figures of requests at random times, `load` times `per_s` a second on the average."""
        start = time.perf_counter() + LEAD_S
        rate = per_s * load / self._count
        jobs = [(target, start, poisson(rate, seconds, Random(f"{number} {load:g}"))) for number in range(self._count)]
        found = self._gather(_offered, jobs)
        time.sleep(PAUSE_S)
        return row(Point(target.case, "adaptive", "sweep", None, per_s, load, seconds), found)

    def _gather(self, action: Callable[..., list[Outcome]], jobs: Sequence[tuple[Any, ...]]) -> list[Outcome]:
        running = [self._pool.submit(action, *job) for job in jobs]
        return [found for future in running for found in future.result()]


@contextmanager
def clients() -> Iterator[Clients]:
    """Started before anything is measured."""
    context = multiprocessing.get_context("spawn")
    count = max(1, len(client_cores()))
    cores = context.SimpleQueue()
    for core in client_cores():
        cores.put(core)
    with ProcessPoolExecutor(count, context, _pin, (cores,)) as pool:
        list(pool.map(time.sleep, [LEAD_S] * count))
        yield Clients(pool, count)


def _pin(cores: Any) -> None:
    if not cores.empty():
        os.sched_setaffinity(0, {cores.get()})


def _closed(target: Target, seconds: float, connections: int) -> list[Outcome]:
    shots = uvloop.run(closed_loop(target.address, target.requests, seconds, connections))
    return [target.outcome(shot) for shot in shots]


def _offered(target: Target, start: float, times: Sequence[float]) -> list[Outcome]:
    """Times count from `start`, so that all clients send in the same period."""
    time.sleep(max(0.0, start - time.perf_counter()))
    with real_time_priority():
        patience = target.case.budget_ms / 1e3 + PATIENCE_S
        shots = uvloop.run(open_loop(target.address, target.requests, times, patience))
    return [target.outcome(shot) for shot in shots]


def rate(outcomes: Sequence[Outcome]) -> float:
    """Answers a second of a closed loop, from its first request to its last answer.

    Raises RuntimeError if a request failed.
    """
    if failed := [found.status for found in outcomes if found.status != 200]:
        raise RuntimeError(f"{len(failed)} of {len(outcomes)} requests failed, the first with status {failed[0]}")
    ends = [found.intended + found.latency_ms / 1e3 for found in outcomes]
    return len(outcomes) / (max(ends) - min(found.intended for found in outcomes))


def figures(found: Row) -> dict[str, Any]:
    """Those of a row that are printed; a figure of no requests is left out."""
    shown = {name: float(f"{float(found[name]):.5g}") for name in SHOWN if found[name] == found[name]}
    return shown | {"generator_was_late": float(found["send_late_p99_ms"]) > LATE_MS}
