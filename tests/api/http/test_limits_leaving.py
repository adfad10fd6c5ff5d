"""Connections of a server that leaves: each is closed after a response that says so, and no other."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tests.support.serving import PATIENCE, until
from tta_server.api.http.limits import LimitedProtocol, limited_protocol


class Paused:
    """A server whose responses wait twice: at /late before they start, and at /stream after their first piece."""

    def __init__(self) -> None:
        self.entered, self.goes_on = threading.Event(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        protocol = limited_protocol(10, PATIENCE)
        config = uvicorn.Config(
            self._respond,
            http=protocol,  # type: ignore[arg-type]
            interface="asgi3",
            lifespan="off",
            log_config=None,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self._thread.start()
        until(lambda: self._server.started)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await self._wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        if scope["path"] == "/stream":
            await self._wait()
        await send({"type": "http.response.body", "body": b"last"})

    async def _wait(self) -> None:
        self.entered.set()
        await asyncio.to_thread(self.goes_on.wait, PATIENCE)

    def leave(self) -> None:
        """End the keep-alive of all connections, on the event loop's thread."""
        (connection,) = self._server.server_state.connections
        assert isinstance(connection, LimitedProtocol)
        done = threading.Event()
        connection.loop.call_soon_threadsafe(connection.end_keep_alive)
        connection.loop.call_soon_threadsafe(done.set)
        assert done.wait(PATIENCE)

    def client(self) -> HTTPConnection:
        return HTTPConnection(*self._listener.getsockname()[:2], timeout=PATIENCE)

    def close(self) -> None:
        self.goes_on.set()
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


@pytest.fixture
def paused() -> Iterator[Paused]:
    server = Paused()
    yield server
    server.close()


@pytest.mark.parametrize(("path", "announced"), [("/late", "close"), ("/stream", None)])
def test_a_connection_is_closed_only_where_the_response_says_so(
    paused: Paused, path: str, announced: str | None
) -> None:
    """Without `Connection: close` a client sends its next request on the connection, which must be open then."""
    client = paused.client()
    client.request("GET", path)
    assert paused.entered.wait(PATIENCE)
    paused.leave()
    paused.goes_on.set()
    response = client.getresponse()
    assert response.read() == b"first last"
    assert response.headers.get("connection") == announced
    sock = client.sock
    assert (sock is None) == (announced == "close")
    if sock is not None:
        client.auto_open = 0
        client.request("GET", "/")
        assert client.getresponse().read() == b"first last"
    client.close()
