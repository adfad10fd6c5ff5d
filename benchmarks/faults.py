"""A model that hangs, fails, slows down or gives NaN under load, while a third of the clients leave mid-request.

For each fault a real server of its own, whose model runs through a faulty backend, and clients that each send one
image after the other. Says who was answered how, whether anybody waited past his deadline (plus ALLOWANCE, for the
clients share the cores with the server), what memory did, and after a slow spell how soon all views are back.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

import numpy as np
from rich.console import Console
from rich.table import Table

from tta_server.application import Application, configure_libraries
from tta_server.backends import Backend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.cli.server import Server
from tta_server.errors import BackendFailed
from tta_server.repository.loader import load_model
from tta_server.settings import Settings

MODELS = Path(__file__).parents[1] / "models"
ALLOWANCE = 0.1
"""Seconds that a client may be late itself, before an answer counts as late."""
PATIENCE = 15.0
"""Seconds past its deadline after which a request counts as never answered."""
HANGS_EVERY, STUBBORN_EVERY, STUBBORN_SECONDS = 200, 1000, 3.0
SLOWER = 10


# ---- the faulty backend ----


class Faulty:
    """Around a real backend; sound until `on` is set, as while the server warms up."""

    def __init__(self, real: Backend, trouble: "Trouble") -> None:
        self.signature = real.signature
        self._real = real
        self._trouble = trouble
        self._lock = threading.Lock()
        self._count = 0
        self.on = False

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        if not self.on:
            return self._real.infer(batch, abort)
        with self._lock:
            self._count += 1
            number = self._count
        return self._trouble(self._real, batch, abort, number)

    def close(self) -> None:
        self._real.close()


Trouble = Callable[[Backend, Tensor, Abort | None, int], Outputs]
"""What becomes of a batch with that number, from 1 on."""


def sound(real: Backend, batch: Tensor, abort: Abort | None, number: int) -> Outputs:
    return real.infer(batch, abort)


def hangs(real: Backend, batch: Tensor, abort: Abort | None, number: int) -> Outputs:
    """Until it is ended."""
    if number % HANGS_EVERY:
        return real.infer(batch, abort)
    end = threading.Event()
    assert abort is not None
    abort.ends_by(end.set)
    end.wait()
    raise BackendFailed("the model failed on this image") from RuntimeError("ended")


def stubborn(real: Backend, batch: Tensor, abort: Abort | None, number: int) -> Outputs:
    """Hangs for a while, whoever wants to end it."""
    if number % STUBBORN_EVERY == 0:
        time.sleep(STUBBORN_SECONDS)
    return real.infer(batch, abort)


def third(real: Backend, batch: Tensor, abort: Abort | None, number: int) -> Outputs:
    if number % 3 == 0:
        raise BackendFailed("the model failed on this image") from RuntimeError("every third batch")
    return real.infer(batch, abort)


def slow(real: Backend, batch: Tensor, abort: Abort | None, number: int) -> Outputs:
    start = time.perf_counter()
    outputs = real.infer(batch, abort)
    time.sleep((SLOWER - 1) * (time.perf_counter() - start))
    return outputs


def nan(real: Backend, batch: Tensor, abort: Abort | None, number: int) -> Outputs:
    outputs = real.infer(batch, abort)
    return outputs if number % 3 else {name: np.full_like(value, np.nan) for name, value in outputs.items()}


TROUBLES: dict[str, Trouble] = {
    "sound": sound,
    "hangs": hangs,
    "stubborn": stubborn,
    "third": third,
    "slow": slow,
    "nan": nan,
}


def serve(name: str, trouble: str) -> None:
    """In a process of its own: prints its port, and switches its trouble on and off at SIGUSR1."""
    logging.basicConfig(level=logging.WARNING)
    model = load_model(MODELS / name)
    backend = Faulty(model.backend, TROUBLES[trouble])

    def switch(number: int, frame: FrameType | None) -> None:
        backend.on = not backend.on

    signal.signal(signal.SIGUSR1, switch)
    configure_libraries()
    application = Application(Settings(models=MODELS), [replace(model, backend=backend)])
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        print(listener.getsockname()[1], flush=True)
        server = Server(application, listener)
        server.run(sockets=[listener])
    if server.failure:
        raise server.failure


# ---- its clients ----


@dataclass(frozen=True)
class Load:
    """`leaving` of the requests are left, half of these before all of their image is sent."""

    requests: int = 10_000
    clients: int = 24
    budget_ms: float = 200.0
    leaving: float = 1 / 3
    think: float = 0.02
    seed: int = 0


@dataclass
class Tally:
    started: int = 0
    left: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    views: list[int] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    """Seconds from a deadline to its answer, negative for most."""
    unanswered: int = 0

    def late(self) -> int:
        return self.unanswered + sum(seconds > ALLOWANCE for seconds in self.lateness)


@dataclass(frozen=True)
class Served:
    """A server of ours: where it is, and its process."""

    port: int
    process: subprocess.Popen[str]
    model: str

    def switch(self) -> None:
        self.process.send_signal(signal.SIGUSR1)

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024


class Line:
    """One connection; after a client has left, the next one opens its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, data: bytes) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        _, writer = self._streams
        writer.write(data)
        await writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        assert self._streams is not None
        reader, _ = self._streams
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        start = head.index(b"content-length:") + 15
        body = await reader.readexactly(int(head[start : head.index(b"\r", start)]))
        return int(head.split(b" ", 2)[1]), body

    async def close(self) -> None:
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def request(served: Served, path: str, image: bytes = b"") -> bytes:
    """Its bytes; with an image it asks for a prediction."""
    method = "POST" if image else "GET"
    lines = (f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{served.port}", f"Content-Length: {len(image)}", "", "")
    return "\r\n".join(lines).encode() + image


async def get(served: Served, path: str) -> tuple[int, str]:
    line = Line(served.port)
    try:
        await line.send(request(served, path))
        status, body = await line.answer()
    finally:
        await line.close()
    return status, body.decode()


async def client(served: Served, image: bytes, load: Load, tally: Tally, source: random.Random) -> None:
    """Sends until all together have sent enough."""
    line = Line(served.port)
    path = f"/v1/models/{served.model}/predict?stop=all&budget_ms={load.budget_ms:g}"
    data = request(served, path, image)
    while tally.started < load.requests:
        tally.started += 1
        if source.random() < load.leaving:
            await leave(line, data, tally, source)
        else:
            await ask(line, data, load, tally)
        await asyncio.sleep(source.expovariate(1 / load.think))
    await line.close()


async def leave(line: Line, data: bytes, tally: Tally, source: random.Random) -> None:
    whole = source.random() < 0.5
    await line.send(data if whole else data[: len(data) // 2])
    await asyncio.sleep(source.uniform(0, 0.03))
    await line.close()
    tally.left += 1


async def ask(line: Line, data: bytes, load: Load, tally: Tally) -> None:
    budget = load.budget_ms / 1e3
    await line.send(data)
    sent = time.perf_counter()
    try:
        status, body = await asyncio.wait_for(line.answer(), budget + PATIENCE)
    except (TimeoutError, OSError, EOFError):
        tally.unanswered += 1
        await line.close()
        return
    tally.lateness.append(time.perf_counter() - sent - budget)
    tally.statuses[status] += 1
    told = json.loads(body)
    if status == 200:
        tally.views.append(len(told["receipt"]["views"]))
    elif status == 429:
        await asyncio.sleep(min(told["retry_after_ms"] / 1e3, budget))


# ---- one fault ----


@dataclass(frozen=True)
class Result:
    """Of one fault. Memory in MB: when the load starts, after a tenth of its requests, and at the end."""

    trouble: str
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
async def running(model: str, trouble: str) -> AsyncIterator[Served]:
    """Ready and sound; interrupted at the end, when it has to exit with 0."""
    with tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, str(Path(__file__)), "--model", model, "--serve", trouble]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            assert process.stdout is not None
            with process.stdout as pipe:
                served = Served(int(await asyncio.to_thread(pipe.readline)), process, model)
            while (await get(served, "/readyz"))[0] != 200:
                await asyncio.sleep(0.05)
            yield served
        finally:
            process.send_signal(signal.SIGTERM)
            status = await asyncio.to_thread(process.wait, 30)
            if status:
                said.seek(0)
                print(f"{trouble}: the server exited with {status}", *said.readlines()[-20:], sep="\n", file=sys.stderr)


async def measure(trouble: str, load: Load, model: str = "clothing") -> Result:
    (sample,) = (MODELS / model).glob("sample.*")
    async with running(model, trouble) as served:
        image = sample.read_bytes()
        await crowd(served, image, replace(load, requests=max(50, load.requests // 100)), Tally())
        served.switch()
        memory, tally = [served.resident_mb()], Tally()
        start = time.perf_counter()
        visit = asyncio.create_task(crowd(served, image, load, tally))
        while tally.started < load.requests // 10:
            await asyncio.sleep(0.01)
        memory.append(served.resident_mb())
        await visit
        seconds = time.perf_counter() - start
        served.switch()
        recovery = await recovered(served, image) if trouble == "slow" else None
        jobs = await settled(served)
        memory.append(served.resident_mb())
    first, tenth, last = memory
    return Result(trouble, seconds, tally, (first, tenth, last), jobs, recovery)


async def crowd(served: Served, image: bytes, load: Load, tally: Tally) -> None:
    sources = [random.Random(load.seed * 1000 + number) for number in range(load.clients)]
    await asyncio.gather(*(client(served, image, load, tally, source) for source in sources))


async def recovered(served: Served, image: bytes) -> float:
    """Seconds until three answers in a row hold all views again, within the model's default budget."""
    start, row = time.perf_counter(), 0
    line = Line(served.port)
    while row < 3 and time.perf_counter() - start < 60:
        await line.send(request(served, f"/v1/models/{served.model}/predict?stop=all", image))
        status, body = await line.answer()
        receipt = json.loads(body).get("receipt")
        row = row + 1 if status == 200 and len(receipt["views"]) == receipt["planned"] else 0
        await asyncio.sleep(0.05)
    await line.close()
    return time.perf_counter() - start


async def settled(served: Served) -> float:
    """How many jobs /metrics still counts; they get as long as a hanging run may take."""
    end = time.perf_counter() + PATIENCE
    while True:
        _, text = await get(served, "/metrics")
        (line,) = (line for line in text.splitlines() if line.startswith("tta_jobs "))
        if (jobs := float(line.split()[1])) == 0 or time.perf_counter() > end:
            return jobs
        await asyncio.sleep(0.05)


# ---- what is told ----

COLUMNS = ("fault", "s", "requests", "left", "200", "429", "502", "503", "504", "other", "late", "p99 late ms",
           "max late ms", "views", "MB start", "MB 10 %", "MB end", "jobs", "recovery s")  # fmt: skip


def row(result: Result) -> list[str]:
    tally = result.tally
    shown = (200, 429, 502, 503, 504)
    others = sum(count for status, count in tally.statuses.items() if status not in shown)
    return [
        result.trouble,
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
    parser.add_argument("--only", action="append", choices=list(TROUBLES))
    parser.add_argument("--serve", choices=list(TROUBLES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.model, args.serve)
        return
    load = Load(args.requests, args.clients, args.budget_ms)
    console = Console(width=max(180, Console().width))
    table = Table(
        *COLUMNS, title=f"{args.model}, {load.clients} clients, budget {load.budget_ms:g} ms, {os.cpu_count()} cores"
    )
    for trouble in args.only or TROUBLES:
        result = asyncio.run(measure(trouble, load, args.model))
        table.add_row(*row(result))
        print(dict(zip(COLUMNS, row(result), strict=True)), file=sys.stderr)
    console.print(table)


if __name__ == "__main__":
    main()
