"""Every ended span is exported or counted as dropped, whatever the collector does."""

import threading
from collections.abc import Sequence

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tests.support.collector import Collector
from tests.support.serving import PATIENCE
from tta_server.telemetry import span_export
from tta_server.telemetry.span_export import SpanExport, open_export


class Exporter(SpanExporter):
    """Counts spans; while `gate` is closed an export waits for it."""

    def __init__(self, result: SpanExportResult = SpanExportResult.SUCCESS) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.result = result
        self.spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        self.gate.wait()
        self.spans += len(spans)
        return self.result


class Broken(Exporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise OSError("no collector")


def end_spans(export: SpanExport, number: int) -> None:
    tracer = export.provider.get_tracer("test")
    for _ in range(number):
        tracer.start_span("one").end()


def test_a_queue_that_is_full_drops_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    exporter = Exporter()
    export = SpanExport(exporter, max_queue=4)
    end_spans(export, 2)
    assert exporter.entered.wait(PATIENCE)  # two are with the exporter, which hangs
    end_spans(export, 14)
    assert export.dropped == 10
    exporter.gate.set()
    export.close()
    assert exporter.spans + export.dropped == 16


@pytest.mark.parametrize("exporter", [Exporter(SpanExportResult.FAILURE), Broken()], ids=["refuses", "raises"])
def test_what_the_collector_does_not_take_is_counted(exporter: Exporter) -> None:
    exporter.gate.set()
    export = SpanExport(exporter)
    end_spans(export, 7)
    export.close()
    assert export.dropped == 7


def test_a_collector_that_takes_nothing_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """With the library's reason, not for each batch; and again when it takes spans."""
    with Collector() as collector:
        export = SpanExport(OTLPSpanExporter(endpoint=f"{collector.url}/v1/traces"))
        for refuses in (True, True, True, False, False, True):
            collector.refuses = refuses
            end_spans(export, 1)
            export.provider.force_flush()
        export.close()
    assert export.dropped == 4
    assert [message.partition(":")[0].partition(";")[0] for message in caplog.messages] == [
        "Failed to export spans batch code",
        "the collector takes no spans",
        "the collector takes spans again",
        "Failed to export spans batch code",
        "the collector takes no spans",
    ]


def test_closing_does_not_wait_for_a_collector_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It returns while the export still waits."""
    monkeypatch.setattr(span_export, "CLOSE_SECONDS", 0.05)
    exporter = Exporter()
    export = SpanExport(exporter)
    end_spans(export, 1)
    export.close()
    assert exporter.entered.wait(PATIENCE)
    assert exporter.spans == 0
    exporter.gate.set()


def test_the_variables_of_opentelemetry_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    for service, expected in (("", "tta-server"), ("views", "views")):
        monkeypatch.setenv("OTEL_SERVICE_NAME", service)
        export = open_export()
        assert export is not None
        assert export.provider.resource.attributes["service.name"] == expected
        assert not export.provider.get_tracer("test").start_span("one").is_recording()
        export.close()
