"""Clients that send one image after the other over a connection each, and leave a share of their requests."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field

ALLOWANCE = 0.1
"""Seconds that the client itself may be late before an answer counts as late."""
PATIENCE = 15.0
"""Seconds past its deadline after which a request counts as unanswered."""


@dataclass(frozen=True)
class Load:
    """Clients leave the share `leaving` of their requests, half of these before the whole image is sent."""

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


class Connection:
    """A connection that is opened when needed, also after it was closed."""

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


def request(port: int, path: str, image: bytes = b"") -> bytes:
    """The bytes of a request; with an image it is a POST."""
    method = "POST" if image else "GET"
    lines = (f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(image)}", "", "")
    return "\r\n".join(lines).encode() + image


async def get(port: int, path: str) -> tuple[int, str]:
    connection = Connection(port)
    try:
        await connection.send(request(port, path))
        status, body = await connection.answer()
    finally:
        await connection.close()
    return status, body.decode()


async def client(port: int, path: str, image: bytes, load: Load, tally: Tally, source: random.Random) -> None:
    """Send until all clients together have started `load.requests`."""
    connection = Connection(port)
    data = request(port, path, image)
    while tally.started < load.requests:
        tally.started += 1
        if source.random() < load.leaving:
            await leave(connection, data, tally, source)
        else:
            await ask(connection, data, load, tally)
        await asyncio.sleep(source.expovariate(1 / load.think))
    await connection.close()


async def leave(connection: Connection, data: bytes, tally: Tally, source: random.Random) -> None:
    whole = source.random() < 0.5
    await connection.send(data if whole else data[: len(data) // 2])
    await asyncio.sleep(source.uniform(0, 0.03))
    await connection.close()
    tally.left += 1


async def ask(connection: Connection, data: bytes, load: Load, tally: Tally) -> None:
    budget = load.budget_ms / 1e3
    await connection.send(data)
    sent = time.perf_counter()
    try:
        status, body = await asyncio.wait_for(connection.answer(), budget + PATIENCE)
    except (TimeoutError, OSError, EOFError):
        tally.unanswered += 1
        await connection.close()
        return
    tally.lateness.append(time.perf_counter() - sent - budget)
    tally.statuses[status] += 1
    answer = json.loads(body)
    if status == 200:
        tally.views.append(len(answer["receipt"]["views"]))
    elif status == 429:
        await asyncio.sleep(min(answer["retry_after_ms"] / 1e3, budget))


async def run_clients(port: int, model: str, image: bytes, load: Load, tally: Tally) -> None:
    path = f"/v1/models/{model}/predict?stop=all&budget_ms={load.budget_ms:g}"
    sources = [random.Random(load.seed * 1000 + number) for number in range(load.clients)]
    await asyncio.gather(*(client(port, path, image, load, tally, source) for source in sources))
