"""Laws of spans: each ends once, whatever happens in whatever order, and a batch is linked to its requests."""

import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanKind, StatusCode, format_span_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tests.support.jobs import RECORDER
from tests.support.references import MODELS
from tta_server.backends.cancel import Abort
from tta_server.errors import BackendFailed
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.graph_executor import ModelExecutor
from tta_server.serving.image import read_source
from tta_server.serving.job import make_job
from tta_server.serving.plan import Options, make_plan
from tta_server.serving.runner import ImageRunner
from tta_server.telemetry.observer import AnswerSent, ErrorSent, ImageAnswered, Observers, ViewsRan
from tta_server.telemetry.span_export import SpanExport
from tta_server.telemetry.timings import StageTimes
from tta_server.telemetry.traces import Traces
from tta_server.telemetry.tracing import RequestTrace, TracedView

KEY = ("m", "1")
STAGES_MS = {"infer": 2.0, "merge": 1.0}


class Recorder:
    """A tracer whose spans stay in memory."""

    def __init__(self) -> None:
        self._memory = InMemorySpanExporter()
        self._export = SpanExport(self._memory)
        self.tracer = Traces(self._export)

    def begin(self, flags: int = 1) -> RequestTrace:
        traceparent = f"00-{os.urandom(15).hex()}01-00f067aa0ba902b7-{flags:02x}"
        trace = self.tracer.begin("POST", {"url.path": "/"}, traceparent)
        assert trace is not None
        assert trace.is_recorded == bool(flags & 1)
        return trace

    def spans(self) -> tuple[ReadableSpan, ...]:
        self._export.provider.force_flush()
        return self._memory.get_finished_spans()

    def clear(self) -> None:
        self.spans()
        self._memory.clear()


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    running = Recorder()
    yield running
    running.tracer.close()


def sent(trace: RequestTrace, views: int = 2, reason: str = "all_views") -> AnswerSent:
    return AnswerSent("id", "m", views, 4, reason, 100.0, 7.0, STAGES_MS, trace)


def failed(trace: RequestTrace, status: int | str = 504) -> ErrorSent:
    return ErrorSent("id", "/", "m", status, "code", "a sentence", trace)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(("end", "event", "stage", "answered", "sent", "failed", "batch", "ran", "lost")),
        st.integers(0, 2),
    ),
    max_size=30,
)


@given(ACTIONS)
def test_each_span_ends_exactly_once(recorder: Recorder, actions: list[tuple[str, int]]) -> None:
    """In any order of events, also of those that come after the end; nothing is logged as misused."""
    recorder.clear()
    misuse = Misuse()
    logging.getLogger("opentelemetry.sdk.trace").addHandler(misuse)
    traces = [recorder.begin() for _ in range(3)]
    batches = []
    for action, index in actions:
        trace = traces[index]
        if action == "batch":
            batches.append(recorder.tracer.begin_batch(KEY, [TracedView(each, "plain") for each in traces[index:]]))
        elif action in ("ran", "lost") and batches:
            batch = batches[index % len(batches)]
            if action == "lost":
                batch.failed(BackendFailed("lost"))
            else:
                recorder.tracer.notify(ViewsRan(KEY, 0.1, 0.2, 0.3, [StageTimes(0.0, trace)], batch))
        else:
            happen(recorder, action, trace)
    for trace in traces:
        trace.end(200)
    for batch in batches:
        batch.failed(BackendFailed("lost"))
    logging.getLogger("opentelemetry.sdk.trace").removeHandler(misuse)
    spans = recorder.spans()
    assert len({span.context.span_id for span in spans}) == len(spans) == len(traces) + len(batches)
    assert not misuse.messages
    for span in spans:
        assert span.start_time is not None
        assert span.end_time is not None
        times = [span.start_time, *(event.timestamp for event in span.events), span.end_time]
        assert span.kind is not SpanKind.SERVER or sorted(times) == times


class Misuse(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def happen(recorder: Recorder, action: str, trace: RequestTrace) -> None:
    match action:
        case "end":
            trace.end("OK")
        case "event":
            trace.add_event("tta.received", {})
        case "stage":
            StageTimes(0.0, trace).mark_dequeued()
        case "answered":
            recorder.tracer.notify(ImageAnswered("m", "settled", 2, 0.1, STAGES_MS, 2, trace))
        case "sent":
            recorder.tracer.notify(sent(trace))
        case "failed":
            recorder.tracer.notify(failed(trace))


def test_threads_that_end_a_span_at_once_end_it_once(recorder: Recorder) -> None:
    recorder.clear()
    trace, start = recorder.begin(), threading.Barrier(8)

    def end(status: int) -> None:
        start.wait()
        trace.add_event("tta.view", {})
        trace.end(status)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(end, range(200, 208)))
    assert len(recorder.spans()) == 1


def test_a_request_that_is_not_sampled_has_no_span_and_keeps_the_clients_trace(recorder: Recorder) -> None:
    recorder.clear()
    trace = recorder.begin(flags=0)
    trace.end(200)
    assert trace.trace_id
    assert trace.span_id == ""
    assert recorder.spans() == ()


@given(st.text(), st.one_of(st.text(), st.from_regex(r"\A([a-z]{1,4}=[a-z]{1,4},?){1,3}\Z")))
def test_any_headers_begin_a_span(recorder: Recorder, traceparent: str, tracestate: str) -> None:
    recorder.clear()
    parent = "4bf92f3577b34da6a3ce929d0e0e4736"
    for header, expected in ((traceparent, None), (f"00-{parent}-00f067aa0ba902b7-01", parent)):
        trace = recorder.tracer.begin("GET", {}, header, tracestate)
        assert trace is not None
        assert trace.is_recorded
        assert expected is None or trace.trace_id == expected
        trace.end(200)


def test_answers_of_several_images_are_summed(recorder: Recorder) -> None:
    recorder.clear()
    trace = recorder.begin()
    for views, reason in ((2, "settled"), (4, "all_views"), (4, "all_views")):
        recorder.tracer.notify(replace(sent(trace, views, reason), elapsed_ms=10.0 - views))
    trace.end(200, "/v1/{name}")
    (span,) = recorder.spans()
    expected = {
        "tta.images": 3,
        "tta.views": 10,
        "tta.planned": 12,
        "tta.stop_reason": "all_views,settled",
        "tta.elapsed_ms": 8.0,
        "tta.stage.infer_ms": 6.0,
        "http.route": "/v1/{name}",
    }
    assert {key: span.attributes[key] for key in expected} == expected
    assert span.name == "POST /v1/{name}"


def test_an_answer_that_is_made_is_an_event(recorder: Recorder) -> None:
    recorder.clear()
    trace = recorder.begin()
    recorder.tracer.notify(ImageAnswered("m", "settled", 2, 0.1, STAGES_MS, 2, trace))
    trace.end(200)
    ((event,),) = [span.events for span in recorder.spans()]
    stages = {"tta.stage.infer_ms": 2.0, "tta.stage.merge_ms": 1.0}
    assert event.name == "tta.answer"
    assert event.attributes == {"tta.views": 2, "tta.stop_reason": "settled", "tta.duration_ms": 100.0, **stages}


def test_a_span_says_how_many_of_its_images_were_cached(recorder: Recorder) -> None:
    for cached in ((), (True,), (False, True, True), (False,)):
        recorder.clear()
        trace = recorder.begin()
        for is_cached in cached:
            recorder.tracer.notify(replace(sent(trace), cached=is_cached))
        trace.end(200)
        (span,) = recorder.spans()
        assert span.attributes.get("tta.cached", 0) == sum(cached)


@pytest.mark.parametrize(
    ("status", "is_error"),
    [
        *((status, False) for status in (200, 404, 499, "NOT_FOUND", "CANCELLED")),
        *((status, True) for status in (500, 504, "INTERNAL", "DEADLINE_EXCEEDED")),
    ],
)
def test_only_the_servers_failures_are_errors(recorder: Recorder, status: int | str, is_error: bool) -> None:
    recorder.clear()
    trace = recorder.begin()
    recorder.tracer.notify(failed(trace, status))
    trace.end(status if isinstance(status, int) else "OK")
    (span,) = recorder.spans()
    assert span.status.status_code is (StatusCode.ERROR if is_error else StatusCode.UNSET)
    assert span.status.description == ("a sentence" if is_error else None)
    assert span.attributes.get("error.type") == (str(status) if is_error else None)
    assert status in span.attributes.values()


def test_an_error_in_a_stream_leaves_the_status_of_its_response(recorder: Recorder) -> None:
    recorder.clear()
    trace = recorder.begin()
    recorder.tracer.notify(failed(trace, 504))
    trace.end(200)
    (span,) = recorder.spans()
    assert (span.attributes["http.response.status_code"], span.attributes["tta.error.code"]) == (200, "code")


def test_a_batch_is_linked_to_each_recorded_request_of_it(recorder: Recorder) -> None:
    """Two views of one request, one of another, of one that is not sampled, and of one without a trace."""
    recorder.clear()
    model = load_model(MODELS / "cifar10")
    traces = [recorder.begin(), recorder.begin(), recorder.begin(flags=0), None]
    observers = Observers(recorder.tracer)
    plan = make_plan(model, Options(max_views=2))
    image = next((MODELS / "cifar10").glob("sample.*")).read_bytes()
    jobs = [
        make_job(plan, read_source(image, Limits()), Deadline.after(60_000), Caller("one", trace=trace), observers)
        for trace in traces
    ]
    for job in jobs:
        job.payload.decode()
    abort = Abort()
    items = [(jobs[0], 0), (jobs[0], 1), (jobs[1], 1), (jobs[2], 0), (jobs[3], 0)]
    ImageRunner(ModelExecutor(), observers, recorder.tracer).run(items, RECORDER, abort)
    for trace in traces[:2]:
        trace.end(200)
    first, second, batch = sorted(recorder.spans(), key=lambda span: (span.name == "batch", span.start_time))
    assert [link.context.span_id for link in batch.links] == [first.context.span_id, second.context.span_id]
    assert batch.parent.span_id == first.context.span_id
    assert batch.attributes["tta.batch.size"] == 5
    views = [[e.attributes["tta.view.name"] for e in s.events if e.name == "tta.view"] for s in (first, second)]
    assert views == [["plain", "hflip"], ["hflip"]]
    assert dict(abort.headers)["traceparent"].split("-")[2] == format_span_id(batch.context.span_id)
    ImageRunner(ModelExecutor(), observers, recorder.tracer).run([(jobs[2], 1)], RECORDER, abort)
    assert not abort.headers
    model.retire()


@pytest.mark.parametrize("state", ["", "vendor=1,other=2"])
def test_the_context_of_a_batch_is_as_opentelemetry_writes_it(recorder: Recorder, state: str) -> None:
    recorder.clear()
    trace = recorder.tracer.begin("POST", {}, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", state)
    assert trace is not None
    batch = recorder.tracer.begin_batch(KEY, [TracedView(trace, "plain", tile=3)])
    recorder.tracer.notify(ViewsRan(KEY, 0.1, 0.2, 0.3, [StageTimes(0.0, trace)], batch))
    trace.end(200)
    request, ended = sorted(recorder.spans(), key=lambda span: span.name)
    expected: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(expected, set_span_in_context(NonRecordingSpan(ended.context)))
    assert dict(batch.headers) == expected
    assert ("tracestate" in expected) == bool(state)
    assert ended.end_time is not None
    before_end = [(event.name, round((ended.end_time - event.timestamp) / 1e9, 3)) for event in ended.events]
    assert before_end == [("tta.prepare", 0.5), ("tta.infer", 0.3), ("tta.merge", 0.0)]
    assert [event.attributes["tta.view.tile"] for event in request.events if event.name == "tta.view"] == [3]
