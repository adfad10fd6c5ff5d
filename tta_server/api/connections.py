"""HTTP connections, limited as uvicorn does not: how many, how soon a request has arrived, how long its head is."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tta_server.api.errors import plain_body

MAX_HEAD = 65_536
"""Bytes of a request's line and headers."""


def limited(connections: int, receive_seconds: float) -> Callable[..., asyncio.Protocol]:
    """What uvicorn makes for each connection: at most so many at once, each request whole within so many seconds of
    the connection's opening or, later, of its own first byte."""

    def make(*args: Any, **options: Any) -> asyncio.Protocol:
        return LimitedProtocol(connections, receive_seconds, *args, **options)

    return make


class LimitedProtocol(HttpToolsProtocol):
    def __init__(self, most: int, receive_seconds: float, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._most = most
        self._receive_seconds = receive_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._head = 0
        self._heads = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most:
            self._refuse(
                503, f"{self._most} connections are open, the most taken; come back later", b"retry-after: 1\r\n"
            )
        else:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        in_head, heads = self._in_head, self._heads
        super().data_received(data)
        if in_head and heads == self._heads:  # nothing but head, so far
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._refuse(431, f"the request's line and headers have over {MAX_HEAD} bytes, the most taken")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head = 0
        self._heads += 1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arrived()
        self._in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not an HTTP request that can be understood")

    def _expect(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._receive_seconds, self._give_up)

    def _arrived(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        self._refuse(408, f"the request did not arrive whole within {self._receive_seconds:g} s")

    def _refuse(self, status: int, sentence: str, more: bytes = b"") -> None:
        """Says so where nothing was said yet, and hangs up."""
        self._arrived()
        if self.transport.is_closing():
            return
        if self._may_speak():
            body = json.dumps(plain_body(status, sentence)).encode()
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + more + b"\r\n" + body)
        self.transport.close()

    def _may_speak(self) -> bool:
        """Whether the next bytes that the client expects answer the request that is arriving."""
        if self._in_head:
            return self.cycle is None or self.cycle.response_complete
        return not self.cycle.response_started
