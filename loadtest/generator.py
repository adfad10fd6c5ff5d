"""Sends requests over a pool of connections: at times fixed beforehand (open loop), or each after an answer (closed).

An open loop never waits for answers, and its latencies count from the intended send time, so that a server that stalls
is charged for all requests that were due meanwhile. Answers are parsed after the run.
"""

import asyncio
import math
import os
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random
from typing import cast

MAX_CONNECTIONS = 512
STALE_SECONDS = 3.0
"""A connection that was idle for longer is not used again: servers close idle connections (uvicorn after 5 s)."""

CLOSED_PATIENCE_SECONDS = 60.0
"""The longest wait for an answer in a closed loop."""


@dataclass(slots=True, eq=False)
class Shot:
    """One request: times in seconds of `time.perf_counter`, nan if not sent or not answered; the answer's bytes."""

    intended: float
    sent: float = math.nan
    ended: float = math.nan
    answer: bytes = b""


@dataclass(slots=True, eq=False)
class Pending:
    """A shot that waits for its answer; `done` is cancelled when it is given up."""

    shot: Shot
    request: bytes
    done: asyncio.Future[None]


@contextmanager
def real_time_priority() -> Iterator[bool]:
    """Give this thread, and those it starts, real-time priority; yields False if the system does not allow that.

    With both cores busy serving, sends were 0.3 ms late at p99 instead of 4.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except (AttributeError, PermissionError):
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def poisson(rate: float, seconds: float, random: Random) -> list[float]:
    """Random arrival times in [0, seconds) of a Poisson process with `rate` arrivals per second."""
    times, at = [], random.expovariate(rate)
    while at < seconds:
        times.append(at)
        at += random.expovariate(rate)
    return times


class Connection(asyncio.Protocol):
    """Carries one request at a time, and returns to its pool after each."""

    def __init__(self, pool: "Pool") -> None:
        self.idle_since = 0.0
        self._pool = pool
        self._pending: Pending | None = None
        self._got = bytearray()
        self._expected = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are, without being subclasses
        self._pool.add(self)

    def ask(self, pending: Pending) -> None:
        self._pending = pending
        pending.done.add_done_callback(self._abort_if_cancelled)
        pending.shot.sent = time.perf_counter()
        self._transport.write(pending.request)

    def abort(self) -> None:
        self._transport.abort()

    def _abort_if_cancelled(self, done: asyncio.Future[None]) -> None:
        if done.cancelled():
            self.abort()

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._expected and (head := self._got.find(b"\r\n\r\n")) >= 0:
            start = self._got.lower().index(b"content-length:") + 15
            self._expected = head + 4 + int(self._got[start : self._got.index(b"\r", start)])
        if self._expected and len(self._got) >= self._expected:
            self._answered()

    def _answered(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None or pending.done.done():
            return
        pending.shot.ended, pending.shot.answer = time.perf_counter(), bytes(self._got)
        closes = b"\r\nconnection: close\r\n" in self._got.partition(b"\r\n\r\n")[0].lower() + b"\r\n"
        self._got, self._expected = bytearray(), 0
        pending.done.set_result(None)
        if closes:
            self._transport.close()
        else:
            self._pool.release(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._pending:
            self._pending.done.cancel()
        self._pool.discard(self)


class Pool:
    """Keep-alive connections to one address, opened as needed up to `limit`; beyond it requests are queued."""

    def __init__(
        self, address: tuple[str, int], limit: int = MAX_CONNECTIONS, tls: ssl.SSLContext | None = None
    ) -> None:
        self._address, self._limit, self._tls = address, limit, tls
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._queue: deque[Pending] = deque()
        self._opening: set[asyncio.Task[None]] = set()

    def send(self, pending: Pending) -> None:
        if connection := self._take_idle():
            connection.ask(pending)
            return
        self._queue.append(pending)
        if len(self._open) + len(self._opening) < self._limit:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        """If connecting fails, the request stays queued and counts as lost when its patience is over."""
        with suppress(OSError):
            await asyncio.get_running_loop().create_connection(lambda: Connection(self), *self._address, ssl=self._tls)

    def add(self, connection: Connection) -> None:
        self._open.add(connection)
        self.release(connection)

    def _take_idle(self) -> Connection | None:
        """The idle connection used last, so that few are in use; connections idle for too long are closed."""
        while self._idle:
            connection = self._idle.pop()
            if time.perf_counter() - connection.idle_since < STALE_SECONDS:
                return connection
            connection.abort()
        return None

    def release(self, connection: Connection) -> None:
        while self._queue:
            pending = self._queue.popleft()
            if not pending.done.done():
                connection.ask(pending)
                return
        connection.idle_since = time.perf_counter()
        self._idle.append(connection)

    def discard(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        for connection in list(self._open):
            connection.abort()


def _pending(intended: float, request: bytes) -> Pending:
    return Pending(Shot(intended), request, asyncio.get_running_loop().create_future())


async def open_loop(
    address: tuple[str, int],
    requests: Sequence[bytes],
    times: Sequence[float],
    patience: float,
    tls: ssl.SSLContext | None = None,
) -> list[Shot]:
    """Send one request at each of `times` (seconds from now), whether or not earlier ones are answered.

    A request without an answer `patience` seconds after its intended time is lost, and its connection closed.
    """
    pool, start, stop = Pool(address, tls=tls), time.perf_counter() + 0.1, threading.Event()
    queue = [_pending(start + at, requests[i % len(requests)]) for i, at in enumerate(times)]
    loop = asyncio.get_running_loop()
    threading.Thread(target=_send_on_time, args=(queue, pool, loop, stop), daemon=True).start()
    try:
        for pending in queue:
            await _settled(pending, patience)
    finally:
        stop.set()
        pool.close()
    return [pending.shot for pending in queue]


def _send_on_time(queue: Sequence[Pending], pool: Pool, loop: asyncio.AbstractEventLoop, stop: threading.Event) -> None:
    """Send each request when it is due. Runs in a thread: the event loop's timers were 0.7 ms late at p50."""
    for pending in queue:
        if stop.wait(max(0, pending.shot.intended - time.perf_counter())):
            return
        loop.call_soon_threadsafe(pool.send, pending)


async def _settled(pending: Pending, patience: float) -> None:
    if not pending.done.done():
        left = pending.shot.intended + patience - time.perf_counter()
        await asyncio.wait({pending.done}, timeout=max(0, left))
    pending.done.cancel()


async def closed_loop(
    address: tuple[str, int],
    requests: Sequence[bytes],
    seconds: float,
    connections: int = 8,
    tls: ssl.SSLContext | None = None,
) -> list[Shot]:
    """Each connection sends its next request when it has the answer to the last, for `seconds`."""
    pool, end = Pool(address, connections, tls), time.perf_counter() + seconds
    chains = [_chain(pool, requests, number * 7, end) for number in range(connections)]
    shots = await asyncio.gather(*chains)
    pool.close()
    return [shot for chain in shots for shot in chain]


async def _chain(pool: Pool, requests: Sequence[bytes], offset: int, end: float) -> list[Shot]:
    shots: list[Shot] = []
    while (now := time.perf_counter()) < end:
        pending = _pending(now, requests[(offset + len(shots)) % len(requests)])
        pool.send(pending)
        await _settled(pending, CLOSED_PATIENCE_SECONDS)
        shots.append(pending.shot)
    return shots
