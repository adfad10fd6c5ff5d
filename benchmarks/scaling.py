"""What the figures show by which the chart scales, at loads below and beyond the one at which all views fit.

A server with two slots gets random arrivals (open loop, K = 8, 300 ms). Load 1 is the rate at which all views would
keep both slots busy, from the slot seconds of single requests. Demand is the chart's formula on the counters of
/metrics. Exits with 1 if demand does not go on rising where CPU and backlog stand still.
"""

import argparse
import asyncio
import os
import re
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.server import MODELS, Endpoints, served
from loadtest.generator import poisson

SLOTS, BUDGET_MS = 2, 300
PREDICT = f"/v1/models/clothing/predict?budget_ms={BUDGET_MS}"
SAMPLE = (MODELS / "clothing" / "sample.jpg").read_bytes()
METRIC = re.compile(r"^(tta_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Counters:
    """Of the server so far: seconds of its processor, batches and decoding; views wanted and run; answers, refusals."""

    cpu: float
    batches: float
    decoding: float
    wanted: float
    views: float
    answers: float
    refusals: float
    backlog: float

    def since(self, before: "Counters") -> "Counters":
        return Counters(*(getattr(self, name) - getattr(before, name) for name in self.__dataclass_fields__))

    @property
    def slot_seconds(self) -> float:
        """What all wanted views take, as the chart has it."""
        return self.batches * self.wanted / max(self.views, 1) + self.decoding


def read(client: httpx.Client, pid: int) -> Counters:
    sums: dict[str, float] = {}
    for name, labels, value in METRIC.findall(client.get("/metrics").text):
        if name != "tta_stage_seconds_sum" or 'stage="decode"' in labels:
            sums[name] = sums.get(name, 0.0) + float(value)
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        times = file.read().rpartition(")")[2].split()
    names = (
        "tta_batch_seconds_sum", "tta_stage_seconds_sum", "tta_wanted_views_total", "tta_views_sum",
        "tta_views_count", "tta_refusals_total", "tta_backlog_seconds",
    )  # fmt: skip
    return Counters((int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"), *(sums.get(n, 0.0) for n in names))


async def open_loop(url: str, arrivals: list[float], backlogs: list[float]) -> None:
    """Sends each request at its time; samples the backlog twice a second meanwhile."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
        start = time.perf_counter()

        async def send(at: float) -> None:
            await asyncio.sleep(start + at - time.perf_counter())
            await client.post(PREDICT, content=SAMPLE)

        async def sample() -> None:
            while True:
                page = (await client.get("/metrics")).text
                backlogs.append(float({n: v for n, _, v in METRIC.findall(page)}["tta_backlog_seconds"]))
                await asyncio.sleep(0.5)

        sampling = asyncio.create_task(sample())
        await asyncio.gather(*map(send, arrivals))
        sampling.cancel()


@dataclass(frozen=True)
class Row:
    load: float
    demand: float
    cpu: float
    backlog: float
    views: float
    refused: float


def measure(server: Endpoints, client: httpx.Client, load: float, rate: float, seconds: float) -> Row:
    before, begin, backlogs = read(client, server.pid), time.perf_counter(), list[float]()
    asyncio.run(open_loop(server.url, poisson(rate, seconds, Random(1)), backlogs))
    done, took = read(client, server.pid).since(before), time.perf_counter() - begin
    return Row(
        load,
        done.slot_seconds / took / SLOTS,
        done.cpu / took / SLOTS,
        sum(backlogs) / len(backlogs) / SLOTS,
        done.views / max(done.answers, 1),
        done.refusals / max(done.refusals + done.answers, 1),
    )


def run(loads: list[float], seconds: float) -> list[Row]:
    with served("--slots", str(SLOTS)) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        for _ in range(5):
            client.post(PREDICT, content=SAMPLE)
        before = read(client, server.pid)
        for _ in range(20):
            client.post("/v1/models/clothing/predict?budget_ms=9000", content=SAMPLE)
        full = read(client, server.pid).since(before).slot_seconds / 20
        print(f"{1e3 * full:.1f} ms of a slot a request with all views: load 1 is {SLOTS / full:.1f} requests/s")
        return [measure(server, client, load, load * SLOTS / full, seconds) for load in loads]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.6, 1.0, 1.5, 2.0])
    parser.add_argument("--seconds", type=float, default=20, help="of each load")
    options = parser.parse_args()
    rows = run(sorted(options.loads), options.seconds)
    table = Table("load", "demand", "CPU of the slots", "backlog a slot", "views of an answer", "refused")
    for row in rows:
        table.add_row(
            f"{row.load:.1f}", f"{row.demand:.2f}", f"{row.cpu:.0%}", f"{row.backlog:.3f} s", f"{row.views:.2f}",
            f"{row.refused:.1%}",
        )  # fmt: skip
    Console(width=120).print(table)
    rises = all(later.demand > 1.1 * row.demand for row, later in pairwise(rows))
    print(f"demand rises with each load (by a tenth at least): {'yes' if rises else 'missed'}")
    sys.exit(not rises)


if __name__ == "__main__":
    main()
