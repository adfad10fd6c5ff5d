"""Which `traceparent` headers are valid, by W3C Trace Context and by OpenTelemetry's own reader."""

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tta_server.errors import ConfigError
from tta_server.telemetry.tracing import NO_TRACER, TraceContext, client_trace, open_tracer, read_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEX = "0123456789abcdef"
IDS = st.text(HEX, min_size=32, max_size=32), st.text(HEX, min_size=16, max_size=16)


def test_the_example_of_the_specification() -> None:
    assert read_traceparent(f"00-{TRACE}-{SPAN}-01") == TraceContext(TRACE, SPAN, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f"01-{TRACE}-{SPAN}-01more",
    ],
)
def test_malformed_headers_are_ignored(text: str) -> None:
    assert read_traceparent(text) is None
    assert client_trace(text) is None
    assert NO_TRACER.begin("GET", {}, text) is None


def test_later_versions_may_add_fields() -> None:
    assert read_traceparent(f"01-{TRACE}-{SPAN}-03-more") == TraceContext(TRACE, SPAN, 3)


@given(st.tuples(*IDS, st.integers(0, 255)))
def test_what_is_written_is_read(parts: tuple[str, str, int]) -> None:
    trace, span, flags = parts
    found = read_traceparent(f"00-{trace}-{span}-{flags:02x}")
    is_valid = int(trace, 16) > 0 and int(span, 16) > 0
    assert found == (TraceContext(trace, span, flags) if is_valid else None)


@given(
    st.one_of(
        st.text(),
        st.text(HEX + "-", max_size=60),
        st.from_regex(r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[a-z]*)?\Z"),
    )
)
@example(f"cc-{TRACE}-{SPAN}-01-")
def test_opentelemetry_reads_the_same(text: str) -> None:
    """But that it forgives spaces around the header, which HTTP and gRPC take off before."""
    if text != text.strip():
        return
    theirs = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": text})).get_span_context()
    ours = read_traceparent(text)
    assert (ours is not None) == theirs.is_valid
    if ours is not None:
        assert (int(ours.trace_id, 16), int(ours.span_id, 16)) == (theirs.trace_id, theirs.span_id)
        assert ours.flags & 1 == theirs.trace_flags & 1


def test_off_it_names_the_clients_trace() -> None:
    trace = NO_TRACER.begin("GET", {}, f"00-{TRACE}-{SPAN}-01")
    assert trace is not None
    assert (trace.trace_id, trace.span_id, trace.is_recorded) == (TRACE, "", False)
    trace.add_event("nothing", {})
    trace.end(200)
    assert NO_TRACER.dropped() == 0


def test_off_by_the_setting_or_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_tracer(False) is NO_TRACER
    for name, value in (("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert open_tracer(True) is NO_TRACER


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER takes otlp, console or none, not 'zipkin'"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "takes http/protobuf, not 'grpc'"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc", "takes http/protobuf, not 'grpc'"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "OTEL_BSP_MAX_QUEUE_SIZE takes a number of spans over 0, not '0'"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE takes a number of spans over 0"),
    ],
)
def test_what_the_variables_cannot_ask_for(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        open_tracer(True)
    assert sentence in str(caught.value)


def test_without_the_extra_it_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed: its modules can't be imported."""
    for name in [name for name in sys.modules if name.startswith("opentelemetry.sdk")]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("span_export", "traces"):
        monkeypatch.delitem(sys.modules, f"tta_server.telemetry.{name}", raising=False)
    assert open_tracer(False) is NO_TRACER
    with pytest.raises(ConfigError) as caught:
        open_tracer(True)
    assert str(caught.value) == "--traces needs OpenTelemetry: pip install 'tta-server[otel]'"
