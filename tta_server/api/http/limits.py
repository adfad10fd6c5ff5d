"""HTTP connections, limited as uvicorn does not: how many, how soon a request has arrived, how long its head is."""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tta_server.api.errors import plain_body

MAX_HEAD = 65_536
"""Bytes of a request's line and headers, trailers with them."""
FRAMING = frozenset({b"content-length", b"transfer-encoding"})


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
        self._cut: asyncio.TimerHandle | None = None
        self._in_head = True
        self._unmarked = 0
        self._marks = 0
        self._listed = 0
        self._data = b""
        self._replaying = False

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
        self._uncut()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            self._expect()  # also for empty lines, which begin no request
        marks, self._data = self._marks, data
        super().data_received(data)
        if marks == self._marks:  # nothing but head or trailers, so far
            self._unmarked += len(data)
            if self._unmarked > MAX_HEAD:
                self._refuse_head()

    def on_message_begin(self) -> None:
        if self._replaying:
            return
        super().on_message_begin()
        self._listed = 0
        self._expect()

    def on_url(self, url: bytes) -> None:
        if self._replaying:
            return
        self._list(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._replaying:
            return
        self._list(len(name) + len(value) + len(": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._replaying:
            return
        super().on_headers_complete()  # raises where the URL can't be read: still in the head then
        self._in_head = False
        self._mark()

    def on_body(self, body: bytes) -> None:
        self._mark()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # said of the head: the body is yet to come
        self._arrived()
        self._in_head = True
        self._mark()
        super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """A wish for another protocol (h2c: Java's clients, curl --http2) is not granted, so what follows is this
        request's body; the parser, which has given up, is replaced by one that has seen as much of the head."""
        at = sys.exception().args[0]  # type: ignore[union-attr]
        rest = self._data[at:]
        framing = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] in FRAMING)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._replaying = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
        self._replaying = False
        if rest:
            self.data_received(rest)

    def pause_writing(self) -> None:
        """The client does not read: it is cut off if it goes on like that."""
        super().pause_writing()
        self._cut_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._uncut()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():  # what is written still has to be read
            self._cut_later()

    def _cut_later(self) -> None:
        if self._cut is None:
            self._cut = self.loop.call_later(self._receive_seconds, self.transport.abort)

    def _uncut(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None

    def _mark(self) -> None:
        """What came is more than head."""
        self._marks += 1
        self._unmarked = 0

    def _list(self, size: int) -> None:
        self._listed += size
        if self._listed > MAX_HEAD:
            self._refuse_head()
            raise ValueError("the parser stops here")

    def _refuse_head(self) -> None:
        self._refuse(431, f"the request's line and headers have over {MAX_HEAD} bytes, the most taken")

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
        if self._before_it():
            self._expect()
            return
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
        self._cut_later()

    def _may_speak(self) -> bool:
        """Whether the next bytes that the client expects answer the request that is arriving."""
        if self._before_it():
            return False
        return self._in_head or not self.cycle.response_started

    def _before_it(self) -> bool:
        """Whether an earlier request is still to be answered; what comes after it may not be read so long."""
        if self._in_head:
            return self.cycle is not None and not self.cycle.response_complete
        return bool(self.pipeline)
