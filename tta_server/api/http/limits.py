"""Limits that uvicorn does not have: open connections, seconds to receive a request, bytes of its head, lag.

LimitedProtocol overrides private members of uvicorn's httptools protocol; `tests/api/http/test_limits_uvicorn.py` fails
on a version of uvicorn that it was not written for.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tta_server.api.errors import status_body

MAX_HEAD_BYTES = 65_536
"""Of the request line and headers, and of trailers."""
FRAMING = frozenset({b"content-length", b"transfer-encoding"})


Refusal = Callable[[bytes, bytes, list[tuple[bytes, bytes]]], bytes | None]
"""From a head (method, target, headers) to the response if the request is refused."""


class _RefusedCycle:
    """In the place of uvicorn's cycle of a request that was refused by its head: uvicorn drops the body."""

    response_started = True
    response_complete = True

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.message_event = asyncio.Event()


def limited_protocol(
    connections: int, receive_seconds: float, refusal: Refusal = lambda *head: None
) -> Callable[..., asyncio.Protocol]:
    """The protocol factory for uvicorn.

    Each request has to be received within `receive_seconds` of the opening of the connection or, for later requests, of
    its own first byte.
    """

    def make(*args: Any, **options: Any) -> asyncio.Protocol:
        return LimitedProtocol(connections, receive_seconds, refusal, *args, **options)

    return make


class LimitedProtocol(HttpToolsProtocol):
    """One connection: uvicorn's protocol with timers for receiving and sending, and a bound on heads."""

    def __init__(
        self, max_connections: int, receive_seconds: float, refusal: Refusal, *args: Any, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._refusal = refusal
        self._max_connections = max_connections
        self._receive_seconds = receive_seconds
        self._receive_timer: asyncio.TimerHandle | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._bytes_since_mark = 0
        self._marks = 0
        self._field_bytes = 0
        self._data = b""
        self._replaying = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            sentence = f"the limit of {self._max_connections} open connections is reached; retry later"
            self._refuse(503, sentence, b"retry-after: 1\r\n")
        else:
            self._start_receive_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_receive_timer()
        self._stop_abort_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            self._start_receive_timer()  # also for empty lines, which begin no request
            if self._bytes_since_mark + len(data) - len(data.lstrip(b"\r\n")) > MAX_HEAD_BYTES:
                self._refuse_head()  # empty lines and a request that came as one piece
                return
        marks, self._data = self._marks, data
        super().data_received(data)
        if marks == self._marks:  # only head or trailers so far
            self._bytes_since_mark += len(data)
            if self._bytes_since_mark > MAX_HEAD_BYTES:
                self._refuse_head()

    def on_message_begin(self) -> None:
        if self._replaying:
            return
        super().on_message_begin()
        self._field_bytes = 0
        self._start_receive_timer()

    def on_url(self, url: bytes) -> None:
        if self._replaying:
            return
        self._count_field(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._replaying:
            return
        self._count_field(len(name) + len(value) + len(": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._replaying:
            return
        if not self._refuse_by_head():
            super().on_headers_complete()  # raises for an invalid URL, while still in the head
        self._in_head = False
        self._mark()

    def on_body(self, body: bytes) -> None:
        self._mark()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # called for the head: the body follows
        self._stop_receive_timer()
        self._in_head = True
        self._mark()
        super().on_message_complete()
        if isinstance(self.cycle, _RefusedCycle):
            self._end_refused(self.cycle)

    def _unsupported_upgrade_warning(self) -> None:
        """Ignore a request for another protocol (h2c: Java's clients, `curl --http2`): the request's body follows.

        httptools has stopped parsing, so a new parser replaces it, which is fed the framing headers first.
        """
        end_of_head = sys.exception().args[0]  # type: ignore[union-attr]
        body = self._data[end_of_head:]
        framing = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] in FRAMING)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._replaying = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
        self._replaying = False
        if body:
            self.data_received(body)

    def pause_writing(self) -> None:
        """The client does not read: abort the connection unless it resumes in time."""
        super().pause_writing()
        self._start_abort_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_abort_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():  # the client still has to read the buffered response
            self._start_abort_timer()

    def end_keep_alive(self) -> None:
        """Close the connection after the response under way, if that can still say so: the client may send another."""
        if self.cycle and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "the request is not valid HTTP/1.1")

    def _start_abort_timer(self) -> None:
        if self._abort_timer is None:
            self._abort_timer = self.loop.call_later(self._receive_seconds, self.transport.abort)

    def _stop_abort_timer(self) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
            self._abort_timer = None

    def _start_receive_timer(self) -> None:
        if self._receive_timer is None:
            self._receive_timer = self.loop.call_later(self._receive_seconds, self._receive_timed_out)

    def _stop_receive_timer(self) -> None:
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None

    def _receive_timed_out(self) -> None:
        self._receive_timer = None
        if self._earlier_response_pending():
            self._start_receive_timer()
            return
        self._refuse(408, f"the request was not received within {self._receive_seconds:g} s (--receive-seconds)")

    def _mark(self) -> None:
        """The end of a head or a piece of body was parsed: restart the count of head bytes."""
        self._marks += 1
        self._bytes_since_mark = 0

    def _count_field(self, size: int) -> None:
        """Raises ValueError, which stops the parser, for a head that is too large."""
        self._field_bytes += size
        if self._field_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
            raise ValueError("the head is too large")

    def _refuse_by_head(self) -> bool:
        """Send the response to a request that is refused; its body will be dropped."""
        if self._earlier_response_pending():
            return False
        response = self._refusal(self.parser.get_method(), self.url, self.headers)
        if response is None:
            return False
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self.cycle = _RefusedCycle(keep_alive)  # type: ignore[assignment]
        self.transport.write(response)
        return True

    def _end_refused(self, cycle: _RefusedCycle) -> None:
        """The body has arrived: the next request may follow."""
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _refuse_head(self) -> None:
        self._refuse(431, f"the request line and headers exceed the limit of {MAX_HEAD_BYTES} bytes")

    def _refuse(self, status: int, sentence: str, headers: bytes = b"") -> None:
        """Send an error response if none has started, then close the connection."""
        self._stop_receive_timer()
        if self.transport.is_closing():
            return
        if self._can_respond():
            body = json.dumps(status_body(status, sentence)).encode()
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + headers + b"\r\n" + body)
        self.transport.close()
        self._start_abort_timer()

    def _can_respond(self) -> bool:
        """True if the client takes the next bytes for the response to the request being received."""
        if self._earlier_response_pending():
            return False
        return self._in_head or not self.cycle.response_started

    def _earlier_response_pending(self) -> bool:
        """True if an earlier request has no response yet; uvicorn may then have stopped reading."""
        if self._in_head:
            return self.cycle is not None and not self.cycle.response_complete
        return bool(self.pipeline)
