"""How a response names the span of its request."""

from tta_server.telemetry.tracing import RequestTrace

TRACERESPONSE = "traceresponse"
"""The header, or key of gRPC's trailing metadata, by which OpenTelemetry's own instrumentations do so."""


def traceresponse(trace: RequestTrace) -> str:
    """As a `traceparent` of a recorded span."""
    return f"00-{trace.trace_id}-{trace.span_id}-01"
