"""How the server answers while its model hangs, fails, slows down or returns NaN, and a third of the clients leave.

Each fault gets a server of its own and clients that each send one image after the other. Reports the answers by status,
those that came after the deadline (plus ALLOWANCE: the clients share the cores with the server), the server's memory,
and how soon after a slow period answers have all views again.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.faulty_server import FAULTS
from benchmarks.leaving_clients import PATIENCE, Connection, Load, Tally, get, request, run_clients
from benchmarks.server import MODELS


@dataclass(frozen=True)
class Served:
    """A running server with a fault."""

    port: int
    process: subprocess.Popen[str]
    model: str

    def toggle_fault(self) -> None:
        self.process.send_signal(signal.SIGUSR1)

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024


@dataclass(frozen=True)
class Result:
    """One fault's figures. Memory in MB: when the load starts, after a tenth of the requests, and at the end."""

    fault: str
    seconds: float
    tally: Tally
    memory: tuple[float, float, float]
    jobs: float
    recovery: float | None = None

    @property
    def lateness_ms(self) -> float:
        """99th percentile."""
        return 1e3 * float(np.percentile(self.tally.lateness, 99)) if self.tally.lateness else math.nan

    @property
    def mean_views(self) -> float:
        return float(np.mean(self.tally.views)) if self.tally.views else 0.0


@contextlib.asynccontextmanager
async def running(model: str, fault: str) -> AsyncIterator[Served]:
    """Start the server and wait until it is ready; terminate it at the end, and report an exit status other than 0."""
    with tempfile.TemporaryFile("w+") as stderr:
        command = [sys.executable, str(Path(__file__).with_name("faulty_server.py")), model, fault]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            assert process.stdout is not None
            with process.stdout as pipe:
                served = Served(int(await asyncio.to_thread(pipe.readline)), process, model)
            while (await get(served.port, "/readyz"))[0] != 200:
                await asyncio.sleep(0.05)
            yield served
        finally:
            process.send_signal(signal.SIGTERM)
            status = await asyncio.to_thread(process.wait, 30)
            if status:
                stderr.seek(0)
                print(f"{fault}: the server exited with {status}", *stderr.readlines()[-20:], sep="\n", file=sys.stderr)


async def measure(fault: str, load: Load, model: str = "clothing") -> Result:
    (sample,) = (MODELS / model).glob("sample.*")
    async with running(model, fault) as served:
        image = sample.read_bytes()
        await run_clients(served.port, model, image, replace(load, requests=max(50, load.requests // 100)), Tally())
        served.toggle_fault()
        memory, tally = [served.resident_mb()], Tally()
        start = time.perf_counter()
        running_clients = asyncio.create_task(run_clients(served.port, model, image, load, tally))
        while tally.started < load.requests // 10:
            await asyncio.sleep(0.01)
        memory.append(served.resident_mb())
        await running_clients
        seconds = time.perf_counter() - start
        served.toggle_fault()
        recovery = await recovered(served, image) if fault == "slow" else None
        jobs = await settled(served)
        memory.append(served.resident_mb())
    first, tenth, last = memory
    return Result(fault, seconds, tally, (first, tenth, last), jobs, recovery)


async def recovered(served: Served, image: bytes) -> float:
    """Seconds until three answers in a row hold all views again, within the model's default budget."""
    start, row = time.perf_counter(), 0
    connection = Connection(served.port)
    while row < 3 and time.perf_counter() - start < 60:
        await connection.send(request(served.port, f"/v1/models/{served.model}/predict?stop=all", image))
        status, body = await connection.answer()
        receipt = json.loads(body).get("receipt")
        row = row + 1 if status == 200 and len(receipt["views"]) == receipt["planned"] else 0
        await asyncio.sleep(0.05)
    await connection.close()
    return time.perf_counter() - start


async def settled(served: Served) -> float:
    """The jobs that /metrics still counts; waits up to PATIENCE for none, as a hanging run takes its time."""
    end = time.perf_counter() + PATIENCE
    while True:
        _, text = await get(served.port, "/metrics")
        (line,) = (line for line in text.splitlines() if line.startswith("tta_jobs "))
        if (jobs := float(line.split()[1])) == 0 or time.perf_counter() > end:
            return jobs
        await asyncio.sleep(0.05)


COLUMNS = ("fault", "s", "requests", "left", "200", "429", "502", "503", "504", "other", "late", "p99 late ms",
           "max late ms", "views", "MB start", "MB 10 %", "MB end", "jobs", "recovery s")  # fmt: skip


def row(result: Result) -> list[str]:
    tally = result.tally
    shown = (200, 429, 502, 503, 504)
    others = sum(count for status, count in tally.statuses.items() if status not in shown)
    return [
        result.fault,
        f"{result.seconds:.0f}",
        str(tally.started),
        str(tally.left),
        *(str(tally.statuses[status]) for status in shown),
        str(others),
        str(tally.late()),
        f"{result.lateness_ms:.0f}",
        f"{1e3 * max(tally.lateness, default=math.nan):.0f}",
        f"{result.mean_views:.1f}",
        *(f"{mb:.0f}" for mb in result.memory),
        f"{result.jobs:.0f}",
        "" if result.recovery is None else f"{result.recovery:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="clothing")
    parser.add_argument("--requests", type=int, default=Load.requests)
    parser.add_argument("--clients", type=int, default=Load.clients)
    parser.add_argument("--budget-ms", type=float, default=Load.budget_ms)
    parser.add_argument("--only", action="append", choices=list(FAULTS))
    args = parser.parse_args()
    load = Load(args.requests, args.clients, args.budget_ms)
    console = Console(width=max(180, Console().width))
    table = Table(
        *COLUMNS, title=f"{args.model}, {load.clients} clients, budget {load.budget_ms:g} ms, {os.cpu_count()} cores"
    )
    for fault in args.only or FAULTS:
        result = asyncio.run(measure(fault, load, args.model))
        table.add_row(*row(result))
        print(dict(zip(COLUMNS, row(result), strict=True)), file=sys.stderr)
    console.print(table)


if __name__ == "__main__":
    main()
