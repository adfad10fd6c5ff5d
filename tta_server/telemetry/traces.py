"""Traces by OpenTelemetry: one span a request, one a batch of recorded requests. Needs the extra `otel`."""

import threading
import time
from collections.abc import Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

from tta_server.telemetry.observer import AnswerSent, ErrorSent, Event, ImageAnswered, ViewsRan
from tta_server.telemetry.span_export import SpanExport
from tta_server.telemetry.tracing import (
    Attribute,
    ClientTrace,
    Headers,
    RequestTrace,
    TraceContext,
    TracedView,
    read_traceparent,
)

ROOT = Context()
FAILURES = frozenset(("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"))
"""gRPC statuses that the conventions call errors of the server."""


class Traces:
    """A Tracer, and the observer that adds what happened to its spans."""

    is_on = True

    def __init__(self, export: SpanExport) -> None:
        self._export = export
        self._tracer = export.provider.get_tracer("tta_server")

    def begin(
        self, name: str, attributes: Mapping[str, Attribute], traceparent: str, tracestate: str = ""
    ) -> RequestTrace | None:
        parent = read_traceparent(traceparent) if traceparent else None
        context = ROOT if parent is None else _as_context(parent, tracestate)
        span = self._tracer.start_span(name, context, SpanKind.SERVER, attributes)
        if span.get_span_context().trace_flags.sampled:
            return RecordedTrace(span, name)
        return ClientTrace(parent.trace_id) if parent is not None else None

    def begin_batch(self, model: tuple[str, str], views: Sequence[TracedView]) -> "RecordedBatch":
        """A child of the first request's span, so that it is sampled as that is, with a link to every request."""
        traces = list(dict.fromkeys(view.trace for view in views if isinstance(view.trace, RecordedTrace)))
        attributes = {"tta.model": model[0], "tta.model.version": model[1]}
        links = [Link(trace.span.get_span_context()) for trace in traces]
        context = set_span_in_context(traces[0].span, ROOT)
        start = traces[0].time_ns()
        span = self._tracer.start_span("batch", context, attributes=attributes, links=links, start_time=start)
        return RecordedBatch(span, traces[0], views)

    def dropped(self) -> int:
        return self._export.dropped

    def close(self) -> None:
        """Exports what has ended, for at most a few seconds."""
        self._export.close()

    def notify(self, event: Event) -> None:
        match event:
            case ViewsRan(batch=RecordedBatch() as batch):
                batch.ran(event)
            case ImageAnswered(trace=RecordedTrace() as trace):
                trace.add_event("tta.answer", {**_answer(event), **_stages(event.stages_ms)})
            case AnswerSent(trace=RecordedTrace() as trace):
                trace.answered(event)
            case ErrorSent(trace=RecordedTrace() as trace):
                trace.failed(event)


class RecordedTrace:
    """The span of a request."""

    is_recorded = True

    def __init__(self, span: Span, name: str) -> None:
        self.span = span
        self._name = name
        context = span.get_span_context()
        self.trace_id, self.span_id = format_trace_id(context.trace_id), format_span_id(context.span_id)
        self._epoch = -time.monotonic_ns() + time.time_ns()  # in this order: no event precedes the span's start
        self._lock = threading.Lock()
        self._answers: list[AnswerSent] = []
        self._error: ErrorSent | None = None
        self._has_ended = False

    def time_ns(self, at: float | None = None) -> int:
        """Nanoseconds since 1970 of `at`, in seconds of the monotonic clock, so that no two times are out of order."""
        return self._epoch + (time.monotonic_ns() if at is None else round(at * 1e9))

    def add_event(self, name: str, attributes: Mapping[str, Attribute], at: float | None = None) -> None:
        with self._lock:
            if not self._has_ended:
                self.span.add_event(name, attributes, self.time_ns(at))

    def answered(self, event: AnswerSent) -> None:
        """One of the request's images was answered."""
        with self._lock:
            self._answers.append(event)

    def failed(self, event: ErrorSent) -> None:
        """The request got an error."""
        with self._lock:
            self._error = event

    def end(self, status: int | str, route: str = "") -> None:
        with self._lock:
            if self._has_ended:
                return
            self._has_ended = True
        error = self._error
        if error is not None and isinstance(status, str):
            status = error.status  # of gRPC; HTTP's is that of the response
        if route:
            self.span.update_name(f"{self._name} {route}")
            self.span.set_attribute("http.route", route)
        self.span.set_attributes({_status_key(status): status, **_answers(self._answers), **_error(error)})
        if _is_failure(status):
            self.span.set_attribute("error.type", str(status))
            self.span.set_status(StatusCode.ERROR, error.error if error else None)
        self.span.end(self.time_ns())


class RecordedBatch:
    """The span of a batch; its times are by the clock of its parent's."""

    def __init__(self, span: Span, parent: RecordedTrace, views: Sequence[TracedView]) -> None:
        self._span = span
        self._views = views
        self._time_ns = parent.time_ns

    @property
    def headers(self) -> Headers:
        context = self._span.get_span_context()
        ids = f"{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"
        state = [("tracestate", context.trace_state.to_header())] if context.trace_state else []
        return [("traceparent", f"00-{ids}-{context.trace_flags:02x}"), *state]

    def ran(self, event: ViewsRan) -> None:
        """Adds the batch's stages, and to each request's span its views; ends the span."""
        if not self._span.is_recording():
            return
        end = time.monotonic()
        self._span.set_attribute("tta.batch.size", len(event.images))
        at = end - event.prepare - event.infer - event.merge
        for stage in ("prepare", "infer", "merge"):
            at += (seconds := getattr(event, stage))
            self._span.add_event(f"tta.{stage}", {"tta.duration_ms": round(seconds * 1e3, 3)}, self._time_ns(at))
        for view in self._views:
            view.trace.add_event("tta.view", {**self._view(view), "tta.batch.size": len(event.images)}, end)
        self._span.end(self._time_ns(end))

    def _view(self, view: TracedView) -> dict[str, Attribute]:
        context = self._span.get_span_context()
        tile: dict[str, Attribute] = {} if view.tile is None else {"tta.view.tile": view.tile}
        batch = {
            "tta.batch.trace_id": format_trace_id(context.trace_id),
            "tta.batch.span_id": format_span_id(context.span_id),
        }
        return {"tta.view.name": view.name, **tile, **batch}

    def failed(self, error: BaseException) -> None:
        if not self._span.is_recording():
            return
        self._span.set_attribute("error.type", type(error).__name__)
        self._span.set_status(StatusCode.ERROR, str(error))
        self._span.end(self._time_ns())


def _as_context(parent: TraceContext, tracestate: str) -> Context:
    state = TraceState.from_header([tracestate]) if tracestate else None
    context = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, TraceFlags(parent.flags), state)
    return set_span_in_context(NonRecordingSpan(context), ROOT)


def _status_key(status: int | str) -> str:
    return "rpc.response.status_code" if isinstance(status, str) else "http.response.status_code"


def _is_failure(status: int | str) -> bool:
    return status in FAILURES if isinstance(status, str) else status >= 500


def _answer(event: ImageAnswered) -> dict[str, Attribute]:
    return {"tta.views": event.views, "tta.stop_reason": event.reason, "tta.duration_ms": round(event.seconds * 1e3, 3)}


def _stages(stages_ms: Mapping[str, float]) -> dict[str, Attribute]:
    return {f"tta.stage.{stage}_ms": spent for stage, spent in stages_ms.items()}


def _answers(answers: Sequence[AnswerSent]) -> dict[str, Attribute]:
    """What the answers of a request's images are together: sums, and the reasons that occur."""
    if not answers:
        return {}
    first, cached = answers[0], sum(each.cached for each in answers)
    stages = {stage: sum(each.stages_ms.get(stage, 0.0) for each in answers) for stage in first.stages_ms}
    return {
        "tta.request_id": first.request_id,
        "tta.model": first.model,
        "tta.images": len(answers),
        "tta.views": sum(each.views for each in answers),
        "tta.planned": sum(each.planned for each in answers),
        "tta.stop_reason": ",".join(sorted({str(each.stop_reason) for each in answers})),
        "tta.budget_ms": first.budget_ms,
        "tta.elapsed_ms": max(each.elapsed_ms for each in answers),
        **({"tta.cached": cached} if cached else {}),
        **_stages(stages),
    }


def _error(error: ErrorSent | None) -> dict[str, Attribute]:
    if error is None:
        return {}
    model = {"tta.model": error.model} if error.model else {}
    return {"tta.request_id": error.request_id, **model, "tta.error.code": error.code, "tta.error": error.error}
