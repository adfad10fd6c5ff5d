"""A real OTLP/HTTP collector: decodes the spans that it receives, waits for them, and fails on request."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATIENCE = 120
"""Seconds after which a wait for spans fails."""


@dataclass(frozen=True)
class SpanEvent:
    name: str
    at: int
    attributes: dict[str, Any]


@dataclass(frozen=True)
class ReceivedSpan:
    """Ids in hexadecimal digits, times in nanoseconds since 1970; `links` are pairs of trace and span id."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: dict[str, Any]
    events: Sequence[SpanEvent]
    links: Sequence[tuple[str, str]]
    status: str
    message: str
    resource: dict[str, Any]

    def named(self, event: str) -> list[SpanEvent]:
        return [each for each in self.events if each.name == event]


class Collector:
    """Listens on a free port. While `gate` is closed requests wait for it; with `refuses` they get 400."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.refuses = False
        self._has_ended = False
        self._spans: list[ReceivedSpan] = []
        self._bodies: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def variables(self) -> dict[str, str]:
        """What sends a server's traces here at once."""
        return {"TTA_TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    @property
    def spans(self) -> list[ReceivedSpan]:
        with self._changed:
            return self._decode()

    def wait_for(self, condition: Callable[[ReceivedSpan], bool], number: int = 1) -> list[ReceivedSpan]:
        """The spans that meet a condition, once there are `number` of them."""

        def found() -> list[ReceivedSpan]:
            return [span for span in self._decode() if condition(span)]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= number, PATIENCE), self._spans
            return found()

    def _take(self, body: bytes) -> None:
        with self._changed:
            self._bodies.append(body)
            self._changed.notify_all()

    def _decode(self) -> list[ReceivedSpan]:
        """All spans: a body is decoded once it is asked for, not while a server is measured. Under the lock."""
        while self._bodies:
            self._spans += _decoded(ExportTraceServiceRequest.FromString(self._bodies.popleft()))
        return list(self._spans)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.entered.set()
                collector.gate.wait()
                if not collector.refuses:
                    collector._take(body)
                self.send_response(400 if collector.refuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                self.close_connection = collector._has_ended

            def log_message(self, *_: Any) -> None: ...

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended = True
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _decoded(request: ExportTraceServiceRequest) -> Any:
    for group in request.resource_spans:
        resource = _values(group.resource.attributes)
        for span in (span for scope in group.scope_spans for span in scope.spans):
            yield ReceivedSpan(
                span.name,
                type(span).SpanKind.Name(span.kind),
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                _values(span.attributes),
                [SpanEvent(each.name, each.time_unix_nano, _values(each.attributes)) for each in span.events],
                [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                type(span.status).StatusCode.Name(span.status.code),
                span.status.message,
                resource,
            )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
