"""A small load balancer for HTTP/1.1: each request goes to the next ready server, over keep-alive connections.

As others do, it asks each server for its readiness every so often, stops sending to one that is not ready, obeys
`Connection: close`, and goes on to the next server only where nothing of a request was sent.
"""

import asyncio
import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

Address = tuple[str, int]
POLL_SECONDS = 0.05
STALE_SECONDS = 3.0
"""A connection that was idle for longer is not used again: servers close theirs after 5 s."""
READY = b"GET /readyz HTTP/1.1\r\nHost: balancer\r\nConnection: close\r\n\r\n"
CLOSE = re.compile(rb"\r\nconnection: close(?=\r\n)", re.IGNORECASE)
T = TypeVar("T")


@dataclass(eq=False)
class Connection:
    """To a server or a client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    idle_since: float = 0.0

    async def receive(self) -> tuple[bytes, bytes]:
        """The head and body of a message. Raises OSError and IncompleteReadError."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        return head, await self.reader.readexactly(int(length[1]) if length else 0)

    @property
    def is_usable(self) -> bool:
        return not self.reader.at_eof() and time.monotonic() - self.idle_since < STALE_SECONDS


@dataclass(eq=False)
class Backend:
    """A server: whether it was ready when last asked, how many requests wait for its answer."""

    address: Address
    ready: bool = False
    in_flight: int = 0
    idle: list[Connection] = field(default_factory=list)

    async def connect(self) -> Connection:
        """Raises OSError."""
        while self.idle:
            connection = self.idle.pop()
            if connection.is_usable:
                return connection
            connection.writer.close()
        return Connection(*await asyncio.open_connection(*self.address))

    async def poll(self) -> None:
        while True:
            self.ready = await self._ask()
            await asyncio.sleep(POLL_SECONDS)

    async def _ask(self) -> bool:
        try:
            connection = Connection(*await asyncio.open_connection(*self.address))
        except OSError:
            return False
        try:
            connection.writer.write(READY)
            return (await connection.receive())[0].startswith(b"HTTP/1.1 200")
        except (OSError, asyncio.IncompleteReadError):
            return False
        finally:
            connection.writer.close()


class Balancer:
    """Listens on a free port of 127.0.0.1 in a thread of its own; a context manager.

    `answered` and `lost` count requests by their server's address; lost are those sent to a server that then closed the
    connection, whose clients get no answer.
    """

    def __init__(self) -> None:
        self.answered: Counter[Address] = Counter()
        self.lost: Counter[Address] = Counter()
        self._backends: dict[Address, Backend] = {}
        self._polls: dict[Address, asyncio.Task[None]] = {}
        self._turns = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="balancer", daemon=True)

    def add(self, address: Address) -> None:
        self._run(self._add(address))

    def remove(self, address: Address) -> None:
        self._run(self._remove(address))

    def is_ready(self, address: Address) -> bool:
        return self._backends[address].ready

    def in_flight(self, address: Address) -> int:
        return self._backends[address].in_flight

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.address: Address = self._server.sockets[0].getsockname()[:2]
        self.url = "http://{}:{}".format(*self.address)
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _add(self, address: Address) -> None:
        backend = self._backends[address] = Backend(address)
        self._polls[address] = asyncio.create_task(backend.poll())

    async def _remove(self, address: Address) -> None:
        self._polls.pop(address).cancel()
        for connection in self._backends.pop(address).idle:
            connection.writer.close()

    async def _close(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for address in list(self._backends):
            await self._remove(address)
        await asyncio.sleep(0)  # connections are closed in the next turn of the loop

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Connection(reader, writer)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    writer.write(await self._forward(b"".join(await client.receive())))
        finally:
            writer.close()

    async def _forward(self, request: bytes) -> bytes:
        """The response. Raises OSError and IncompleteReadError if its server has closed the connection."""
        backend, connection = await self._connect()
        backend.in_flight += 1
        try:
            connection.writer.write(request)
            head, body = await connection.receive()
        except BaseException as error:
            self.lost[backend.address] += not isinstance(error, asyncio.CancelledError)
            connection.writer.close()
            raise
        finally:
            backend.in_flight -= 1
        self.answered[backend.address] += 1
        if CLOSE.search(head):
            connection.writer.close()
        else:
            connection.idle_since = time.monotonic()
            backend.idle.append(connection)
        return CLOSE.sub(b"", head) + body

    async def _connect(self) -> tuple[Backend, Connection]:
        """The next ready server that takes a connection; waits while there is none."""
        while True:
            ready = [backend for backend in self._backends.values() if backend.ready]
            for _ in ready:
                backend = ready[next(self._turns) % len(ready)]
                try:
                    return backend, await backend.connect()
                except OSError:
                    backend.ready = False
            await asyncio.sleep(POLL_SECONDS)
