"""Where spans go: set by OpenTelemetry's own variables, in batches on a thread of their own, with a bounded queue."""

import logging
import os
import threading
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter, SpanExportResult

from tta_server.errors import ConfigError, shown

CLOSE_SECONDS = 3.0
"""The longest that a shutdown waits for the collector."""
MAX_QUEUE = 2048
"""OpenTelemetry's default of OTEL_BSP_MAX_QUEUE_SIZE."""
LIBRARY_LOGGER = logging.getLogger(OTLPSpanExporter.__module__)
EXPORTERS = {"otlp": OTLPSpanExporter, "console": ConsoleSpanExporter}

logger = logging.getLogger(__name__)


class SpanExport:
    """The provider of a process, whose ended spans wait in a bounded queue for their export; close it."""

    def __init__(self, exporter: SpanExporter, max_queue: int = MAX_QUEUE) -> None:
        self._lock = threading.Lock()
        self._dropped = 0
        self._is_failing = False
        self._reasons = (
            _FirstRecord()
        )  # the library logs each attempt: four lines every ten seconds without a collector
        LIBRARY_LOGGER.addFilter(self._reasons)
        # Not ended by the interpreter's exit, which would wait up to 30 s for a collector that hangs.
        self.provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self.provider.add_span_processor(_BoundedProcessor(_CountingExporter(exporter, self), max_queue))

    @property
    def dropped(self) -> int:
        """Spans that the queue had no room for, or that the collector did not take."""
        return self._dropped

    def drop(self, number: int) -> None:
        """Counts spans that are lost."""
        with self._lock:
            self._dropped += number

    def note(self, is_taken: bool) -> None:
        """Logs when the collector begins to refuse spans, and when it takes them again."""
        if is_taken:
            self._reasons.reset()
            if self._is_failing:
                logger.warning("the collector takes spans again; tta_dropped_spans_total counts those lost")
        elif not self._is_failing:
            logger.warning("the collector takes no spans: they are dropped until it does, requests go on")
        self._is_failing = not is_taken

    def close(self) -> None:
        """Exports what waits, for at most CLOSE_SECONDS."""
        closing = threading.Thread(target=self.provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        LIBRARY_LOGGER.removeFilter(self._reasons)


class _FirstRecord(logging.Filter):
    """Passes one record, then none until `reset`."""

    def __init__(self) -> None:
        super().__init__()
        self._is_spent = False

    def filter(self, record: logging.LogRecord) -> bool:
        """The record is passed."""
        is_spent, self._is_spent = self._is_spent, True
        return not is_spent

    def reset(self) -> None:
        """Passes the next one."""
        self._is_spent = False


class _CountingExporter(SpanExporter):
    """Counts the spans that wait for its exporter, and those that this one could not deliver."""

    def __init__(self, exporter: SpanExporter, export: SpanExport) -> None:
        self._exporter = exporter
        self._export = export
        self._lock = threading.Lock()
        self._waiting = 0

    def reserve(self, limit: int) -> bool:
        """Counts a span that waits; False, and it is dropped, if `limit` spans wait already."""
        with self._lock:
            if has_room := self._waiting < limit:
                self._waiting += 1
        if not has_room:
            self._export.drop(1)
        return has_room

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            self._waiting -= len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            is_taken = result is SpanExportResult.SUCCESS
            self._export.note(is_taken)
            if not is_taken:
                self._export.drop(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _BoundedProcessor(BatchSpanProcessor):
    """Drops and counts spans that find the queue full: OpenTelemetry's own drops older ones and does not say so."""

    def __init__(self, exporter: _CountingExporter, max_queue: int) -> None:
        batch = min(_number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512), max_queue)
        super().__init__(exporter, max_queue_size=max_queue, max_export_batch_size=batch)
        self._counted = exporter
        self._max_queue = max_queue

    def on_end(self, span: ReadableSpan) -> None:
        if self._counted.reserve(self._max_queue):
            super().on_end(span)


def open_export() -> SpanExport | None:
    """As the OTEL_* variables say; None if they turn traces off. Raises ConfigError."""
    name = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if name == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if name not in EXPORTERS:
        raise ConfigError(f"OTEL_TRACES_EXPORTER takes otlp, console or none, not {shown(name)}")
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if name == "otlp" and protocol and protocol != "http/protobuf":
        raise ConfigError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL takes http/protobuf, not {shown(protocol)}; collectors take it on port 4318"
        )
    return SpanExport(EXPORTERS[name](), _number("OTEL_BSP_MAX_QUEUE_SIZE", MAX_QUEUE))


def _number(variable: str, default: int) -> int:
    """Raises ConfigError."""
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or not int(text):
        raise ConfigError(f"{variable} takes a number of spans over 0, not {shown(text)}")
    return int(text)


def _resource() -> Resource:
    """With OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES; the service is tta-server if they do not name it."""
    found = Resource.create()
    is_named = not str(found.attributes[SERVICE_NAME]).startswith("unknown_service")
    return found if is_named else found.merge(Resource({SERVICE_NAME: "tta-server"}))
