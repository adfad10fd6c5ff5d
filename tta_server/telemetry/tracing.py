"""The trace of a request, and the interface of what records spans; `traces` implements it with OpenTelemetry."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tta_server.errors import ConfigError

if TYPE_CHECKING:
    from tta_server.telemetry.observer import Event

Attribute = str | int | float
Headers = Sequence[tuple[str, str]]

TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
"""Version, trace id, span id, flags; versions after 00 may add fields."""


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span of another process: `trace_id` has 32 and `span_id` 16 hexadecimal digits, `flags` are W3C's."""

    trace_id: str
    span_id: str
    flags: int


def read_traceparent(text: str) -> TraceContext | None:
    """The context that a `traceparent` header states; None if W3C Trace Context calls it invalid."""
    found = TRACEPARENT.fullmatch(text)
    if found is None or (found[1] == "00" and found[5]):
        return None
    return TraceContext(found[2], found[3], int(found[4], 16))


class RequestTrace(Protocol):
    """The trace of one request, and its span if one is recorded. Thread-safe; nothing is added to an ended span."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits; empty without a span."""

    @property
    def is_recorded(self) -> bool:
        """True if a span is recorded."""

    def add_event(self, name: str, attributes: Mapping[str, Attribute], at: float | None = None) -> None:
        """Adds an event at `at`, in seconds of the monotonic clock, by default now."""

    def end(self, status: int | str, route: str = "") -> None:
        """Ends the span once; `status` is HTTP's or the name of gRPC's, `route` the HTTP path with its parameters."""


@dataclass(frozen=True, slots=True)
class ClientTrace:
    """The client's trace where no span is recorded: the log names it."""

    trace_id: str
    span_id: str = ""
    is_recorded: bool = False

    def add_event(self, name: str, attributes: Mapping[str, Attribute], at: float | None = None) -> None:
        """Does nothing."""

    def end(self, status: int | str, route: str = "") -> None:
        """Does nothing."""


@dataclass(frozen=True, slots=True)
class TracedView:
    """A view of a batch, and the trace of its request; `tile` is None for an image that is not cut into tiles."""

    trace: RequestTrace
    name: str
    tile: int | None = None


class BatchTrace(Protocol):
    """The span of one batch; `headers` carry its context to another server."""

    @property
    def headers(self) -> Headers: ...

    def failed(self, error: BaseException) -> None:
        """Ends the span of a batch that ended with an error; of one that ran, ViewsRan ends it."""


class Tracer(Protocol):
    """Begins spans, and adds events to them as an observer. Thread-safe."""

    @property
    def is_on(self) -> bool:
        """False if it never records a span."""

    def begin(
        self, name: str, attributes: Mapping[str, Attribute], traceparent: str, tracestate: str = ""
    ) -> RequestTrace | None:
        """The trace of a request with these headers, empty if it has none; end it. None if there is nothing to name."""

    def begin_batch(self, model: tuple[str, str], views: Sequence[TracedView]) -> BatchTrace:
        """A span for a batch with these views of recorded requests, at least one."""

    def notify(self, event: "Event") -> None:
        """Adds to the spans of a request what happened to it."""

    def dropped(self) -> int:
        """Ended spans that were not exported."""

    def close(self) -> None:
        """Exports what has ended, for at most a few seconds."""


class NoTracer:
    """A Tracer that records nothing and names the client's traces."""

    is_on = False

    def begin(
        self, name: str, attributes: Mapping[str, Attribute], traceparent: str, tracestate: str = ""
    ) -> RequestTrace | None:
        return client_trace(traceparent)

    def begin_batch(self, model: tuple[str, str], views: Sequence[TracedView]) -> BatchTrace:
        raise AssertionError("no request is recorded")

    def notify(self, event: "Event") -> None:
        """Does nothing."""

    def dropped(self) -> int:
        return 0

    def close(self) -> None:
        """Does nothing."""


NO_TRACER = NoTracer()


def open_tracer(is_on: bool) -> Tracer:
    """A tracer as the OTEL_* variables say, or NO_TRACER. Raises ConfigError, also without the extra `otel`."""
    if not is_on:
        return NO_TRACER
    try:
        from tta_server.telemetry.span_export import open_export
        from tta_server.telemetry.traces import Traces
    except ModuleNotFoundError:
        raise ConfigError("--traces needs OpenTelemetry: pip install 'tta-server[otel]'") from None
    export = open_export()
    return NO_TRACER if export is None else Traces(export)


def client_trace(traceparent: str) -> ClientTrace | None:
    """The client's trace; None if the header is missing, which is empty, or invalid."""
    found = read_traceparent(traceparent) if traceparent else None
    return ClientTrace(found.trace_id) if found else None
