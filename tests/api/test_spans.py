"""A real server, real clients and a real collector: what is recorded of each kind of request."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from tests.support import pictures
from tests.support.collector import Collector, ReceivedSpan
from tests.support.lagging import LaggingServer
from tests.support.references import MODELS
from tests.support.remote import RemoteServer, remote_folder
from tests.support.serving import PATIENCE, Server, models_folder, until
from tests.support.toys import expect_ended_runs, metric, trap_image, trap_model
from tests.support.triton import Triton, sample

pytestmark = pytest.mark.timing

PARENT = "00f067aa0ba902b7"
CIFAR, TOY, REMOTE = (f"/v1/models/{name}/predict" for name in ("cifar10", "toy", "clothing"))
VIEWS = 6
"""Of cifar10."""
ALL = {"budget_ms": "9000", "stop": "all", "min_views": "all"}
STAGES = ["tta.received", "tta.queue", "tta.decode", "tta.queue"]
REQUEST, BATCH = "SPAN_KIND_SERVER", "SPAN_KIND_INTERNAL"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def remote() -> Iterator[RemoteServer]:
    with RemoteServer({"clothing": MODELS / "clothing" / "1" / "model.onnx"}) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector, remote: RemoteServer) -> Iterator[Server]:
    """A model with traps, one of ours, and one that a Triton server runs; traces go to the collector."""
    folder = models_folder(tmp_path_factory.mktemp("models"), "cifar10")
    trap_model(folder / "toy")
    remote_folder(folder / "clothing", MODELS / "clothing", remote.url, permits=1)
    variables, small = {**collector.variables, "OTEL_SERVICE_NAME": "views"}, ("--max-waiting-mb", "10")
    with Server("--port", "0", "--slots", "1", "--models", str(folder), *small, env=os.environ | variables) as running:
        assert running.url
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http


class Trace:
    """A trace that the client began, and what the collector received of it."""

    def __init__(self, collector: Collector, flags: str = "01") -> None:
        self._collector = collector
        self.id = os.urandom(16).hex()
        self.headers = {"traceparent": f"00-{self.id}-{PARENT}-{flags}"}

    def requests(self, number: int = 1) -> list[ReceivedSpan]:
        """The spans of its requests, of which there are `number`, each with the client's span as its parent."""
        found = self._collector.wait_for(lambda span: (span.trace_id, span.kind) == (self.id, REQUEST), number)
        assert len(found) == number
        assert {span.parent_id for span in found} == {PARENT}
        for span in found:
            assert span.start <= min(times := [event.at for event in span.events] or [span.start])
            assert times == sorted(times)
            assert max(times) <= span.end
        return found

    def request(self) -> ReceivedSpan:
        (span,) = self.requests()
        return span

    def batches(self, number: int) -> list[ReceivedSpan]:
        return self._collector.wait_for(lambda span: (span.trace_id, span.kind) == (self.id, BATCH), number)


@pytest.fixture
def trace(collector: Collector) -> Trace:
    return Trace(collector)


def check_views(trace: Trace, span: ReceivedSpan, number: int) -> None:
    """Each view is one event, and names a batch that is linked to the request."""
    views = span.named("tta.view")
    assert len({view.attributes["tta.view.name"] for view in views}) == len(views) == number
    batches = {batch.span_id: batch for batch in trace.batches(len({v.attributes["tta.batch.span_id"] for v in views}))}
    for view in views:
        batch = batches[view.attributes["tta.batch.span_id"]]
        assert view.attributes["tta.batch.trace_id"] == batch.trace_id
        assert (span.trace_id, span.span_id) in batch.links
        assert [event.name for event in batch.events] == ["tta.prepare", "tta.infer", "tta.merge"]
        assert batch.start <= batch.events[0].at <= batch.events[-1].at <= batch.end
        assert batch.end <= span.end


def check_answer(span: ReceivedSpan, model: str, views: int, images: int = 1) -> None:
    assert sorted(each.name for each in span.events if each.name in STAGES) == sorted(STAGES[:1] + STAGES[1:] * images)
    assert len(span.named("tta.answer")) == images
    assert span.status == "STATUS_CODE_UNSET"
    expected = {"tta.model": model, "tta.images": images, "tta.views": views, "tta.planned": views}
    assert {key: span.attributes[key] for key in expected} == expected
    assert span.attributes["tta.stop_reason"] == "all_views"
    assert span.attributes["tta.stage.infer_ms"] > 0
    assert span.resource["service.name"] == "views"


# ---- answers ----


def test_an_answer_over_http(client: httpx.Client, trace: Trace) -> None:
    headers = {**trace.headers, "X-Request-Id": "mine"}
    response = client.post(CIFAR, content=sample("cifar10"), params=ALL, headers=headers)
    assert response.status_code == 200
    span = trace.request()
    receipt = response.json()["receipt"]
    check_answer(span, "cifar10", receipt["planned"])
    check_views(trace, span, receipt["planned"])
    assert {v.attributes["tta.view.name"] for v in span.named("tta.view")} == {v["name"] for v in receipt["views"]}
    assert span.name == "POST /v1/models/{name}/predict"
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/models/{name}/predict",
        "http.response.status_code": 200,
        "url.path": CIFAR,
        "tta.request_id": "mine",
        "tta.budget_ms": 9000.0,
        "tta.elapsed_ms": receipt["elapsed_ms"],
    }
    assert {key: span.attributes[key] for key in expected} == expected
    assert response.headers["traceresponse"] == f"00-{trace.id}-{span.span_id}-01"


def test_a_stream_of_events_is_one_span(client: httpx.Client, trace: Trace) -> None:
    headers = {**trace.headers, "Accept": "text/event-stream"}
    response = client.post(CIFAR, content=sample("cifar10"), params=ALL, headers=headers)
    assert response.text.count("event: answer") == 1
    check_answer(trace.request(), "cifar10", VIEWS)


def test_an_answer_over_v2_with_several_images(server: Server, client: httpx.Client, trace: Trace) -> None:
    form = Triton("http", server)
    images = form.images(*[sample("cifar10")] * 3)
    form.infer("cifar10", images, headers=trace.headers)
    span = trace.request()
    check_answer(span, "cifar10", 3 * VIEWS, images=3)
    assert len(span.named("tta.view")) == 3 * VIEWS
    assert span.name == "POST /v2/models/{name}/infer"


def test_an_answer_over_grpc(server: Server, trace: Trace) -> None:
    form = Triton("grpc", server)
    form.infer("cifar10", form.images(sample("cifar10")), headers=trace.headers)
    span = trace.request()
    check_answer(span, "cifar10", VIEWS)
    check_views(trace, span, VIEWS)
    assert span.name == "inference.GRPCInferenceService/ModelInfer"
    expected = {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
    }
    assert {key: span.attributes[key] for key in expected} == expected
    assert not [key for key in span.attributes if key.startswith(("http.", "url."))]


def test_each_request_of_a_grpc_stream_is_one_span(server: Server, trace: Trace) -> None:
    form, answers = Triton("grpc", server), []
    with triton_grpc.InferenceServerClient(server.grpc) as stream:
        stream.start_stream(lambda result, error: answers.append((result, error)), headers=trace.headers)
        for number in range(3):
            model = "cifar10" if number else "nothing"
            stream.async_stream_infer(model, [form.images(sample("cifar10"))], parameters={"tta_stop": "all"})
        stream.stop_stream()
    assert answers
    spans = trace.requests(3)
    statuses = sorted(span.attributes["rpc.response.status_code"] for span in spans)
    assert statuses == ["NOT_FOUND", "OK", "OK"]


def test_a_call_of_a_triton_server_carries_the_batch(client: httpx.Client, remote: RemoteServer, trace: Trace) -> None:
    before = len(remote.headers)
    assert client.post(REMOTE, content=sample("clothing"), params=ALL, headers=trace.headers).status_code == 200
    span = trace.request()
    names = {view.attributes["tta.batch.span_id"] for view in span.named("tta.view")}
    sent = {headers.get("traceparent") for headers in remote.headers[before:]}
    assert sent == {f"00-{trace.id}-{name}-01" for name in names}


def test_calls_of_requests_without_a_span_carry_nothing(
    client: httpx.Client, collector: Collector, remote: RemoteServer
) -> None:
    before = len(remote.headers)
    unsampled = Trace(collector, flags="00")
    response = client.post(REMOTE, content=sample("clothing"), params=ALL, headers=unsampled.headers)
    assert response.status_code == 200
    assert "traceresponse" not in response.headers
    assert not [headers for headers in remote.headers[before:] if "traceparent" in headers]


def test_a_cached_answer_is_a_span_without_views(tmp_path: Path, trace: Trace, collector: Collector) -> None:
    folder = models_folder(tmp_path, "cifar10")
    flags = ("--port", "0", "--slots", "1", "--models", str(folder), "--cache-mb", "5")
    with Server(*flags, env=os.environ | collector.variables) as caching, caching.client() as http:
        for _ in range(2):
            assert http.post(CIFAR, content=sample("cifar10"), params=ALL, headers=trace.headers).status_code == 200
        run, hit = sorted(trace.requests(2), key=lambda span: span.start)
    check_views(trace, run, VIEWS)
    assert [event.name for event in hit.events] == ["tta.received", "tta.answer"]
    assert (run.attributes.get("tta.cached"), hit.attributes["tta.cached"]) == (None, 1)
    assert hit.attributes["tta.views"] == run.attributes["tta.views"] == VIEWS


# ---- errors ----


def post_toy(client: httpx.Client, trace: Trace, plain: str | None = None, **query: str) -> httpx.Response:
    image = pictures.encoded(trap_image(plain))
    return client.post(TOY, content=image, params={"budget_ms": "9000", **query}, headers=trace.headers)


def check_error(span: ReceivedSpan, status: int, code: str) -> None:
    assert span.attributes["http.response.status_code"] == status
    assert span.attributes["tta.error.code"] == code
    assert span.attributes["tta.error"]
    assert span.status == ("STATUS_CODE_ERROR" if status >= 500 else "STATUS_CODE_UNSET")
    assert span.attributes.get("error.type") == (str(status) if status >= 500 else None)
    assert span.message == (span.attributes["tta.error"] if status >= 500 else "")


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "route"),
    [
        (CIFAR, b"no image", 415, "unsupported_media", "POST /v1/models/{name}/predict"),
        (f"{CIFAR}?budget_ms=-1", b"no image", 400, "invalid_input", "POST /v1/models/{name}/predict"),
        (CIFAR, bytes(11_000_000), 429, "overloaded", "POST /v1/models/{name}/predict"),
        ("/v1/models/none/predict", b"", 404, "unknown_model", "POST /v1/models/{name}/predict"),
        (
            "/v2/models/cifar10/versions/9/infer",
            b"",
            404,
            "unknown_model",
            "POST /v2/models/{name}/versions/{version}/infer",
        ),
        ("/nowhere", b"", 404, "refused", "POST"),
        ("/v1/models", b"", 405, "refused", "POST /v1/models"),
    ],
)
def test_an_error_is_a_span(
    client: httpx.Client, trace: Trace, path: str, body: bytes, status: int, code: str, route: str
) -> None:
    response = client.post(path, content=body, headers=trace.headers)
    assert response.status_code == status, response.text
    span = trace.request()
    check_error(span, status, code)
    assert span.name == route
    assert span.attributes["tta.error"] == response.json()["error"]


def test_a_request_that_is_not_answered_in_time(client: httpx.Client, trace: Trace) -> None:
    with expect_ended_runs(client, "toy", 1):
        assert post_toy(client, trace, "endless", budget_ms="300", max_views="1").status_code == 504
    check_error(trace.request(), 504, "deadline_exceeded")
    (batch,) = trace.batches(1)
    assert batch.status == "STATUS_CODE_ERROR"


def test_a_failed_batch_is_a_span_with_its_error(client: httpx.Client, trace: Trace) -> None:
    assert post_toy(client, trace, "fails").status_code == 502
    check_error(trace.request(), 502, "backend_failed")
    assert any(batch.status == "STATUS_CODE_ERROR" for batch in trace.batches(1))


def test_a_client_that_leaves_ends_its_span(client: httpx.Client, trace: Trace) -> None:
    with expect_ended_runs(client, "toy", 0), pytest.raises(httpx.ReadTimeout):
        httpx.post(
            client.base_url.join(TOY),
            content=pictures.encoded(trap_image("endless")),
            params={"budget_ms": "9000"},
            headers=trace.headers,
            timeout=httpx.Timeout(PATIENCE, read=0.2),
        )
    check_error(trace.request(), 499, "cancelled")


@pytest.mark.parametrize(
    ("model", "budget", "status", "code"),
    [
        ("nothing", 9, "NOT_FOUND", "unknown_model"),
        ("cifar10", 0.0001, "INVALID_ARGUMENT", "invalid_input"),
    ],
)
def test_an_error_over_grpc_is_a_span(
    server: Server, trace: Trace, model: str, budget: float, status: str, code: str
) -> None:
    form = Triton("grpc", server)
    with pytest.raises(InferenceServerException) as caught:
        form.infer(model, form.images(sample("cifar10")), timeout=round(budget * 1e6), headers=trace.headers)
    span = trace.request()
    assert caught.value.status() == f"StatusCode.{status}"
    assert span.attributes["rpc.response.status_code"] == status
    assert span.attributes["tta.error.code"] == code
    assert span.status == "STATUS_CODE_UNSET"  # the client's error by the conventions


def test_a_stream_of_what_is_no_message_is_a_span(server: Server, trace: Trace) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        metadata = tuple(trace.headers.items())
        with pytest.raises(grpc.RpcError):
            list(call(iter([b"no message"]), metadata=metadata, timeout=PATIENCE))
    span = trace.request()
    assert span.name == "inference.GRPCInferenceService/ModelStreamInfer"
    assert span.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"


def test_the_trailing_metadata_name_the_span(server: Server, trace: Trace) -> None:
    method = "/inference.GRPCInferenceService/"
    with grpc.insecure_channel(server.grpc) as channel:
        for name, metadata in (("ServerMetadata", ()), ("ServerLive", None)):
            call = channel.unary_unary(method + name)
            _, done = call.with_call(b"", metadata=tuple(trace.headers.items()), timeout=PATIENCE)
            found = dict(done.trailing_metadata()).get("traceresponse")
            assert (found is None) == (metadata is None), name
            if metadata is not None:
                assert found == f"00-{trace.id}-{trace.request().span_id}-01"


def test_a_refusal_by_its_head_is_a_span(tmp_path: Path, trace: Trace, collector: Collector) -> None:
    folder = models_folder(tmp_path, "cifar10")
    variables = os.environ | collector.variables
    with LaggingServer(folder, env=variables, slots=1, traces=True) as slow:
        slow.slow_down()
        with slow.client() as client:
            response = client.post(f"{CIFAR}?budget_ms=20", content=sample("cifar10"), headers=trace.headers)
        assert response.status_code == 429, response.text
        slow.speed_up()
        span = trace.request()
    check_error(span, 429, "overloaded")
    assert span.name == "POST /v1/models/{name}/predict"
    assert response.headers["traceresponse"].split("-")[2] == span.span_id


# ---- sampling, logs, exemplars ----


def test_no_span_where_the_client_did_not_sample(collector: Collector, client: httpx.Client) -> None:
    unsampled, sampled = Trace(collector, flags="00"), Trace(collector)
    for trace in (unsampled, sampled):  # spans are exported in order
        assert client.post(CIFAR, content=sample("cifar10"), headers=trace.headers, params=ALL).status_code == 200
    sampled.request()
    assert not [span for span in collector.spans if span.trace_id == unsampled.id]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/v2/health/live"])
def test_health_checks_and_scrapes_are_not_recorded(client: httpx.Client, collector: Collector, path: str) -> None:
    untraced, traced = Trace(collector), Trace(collector)
    assert client.get(path, headers=untraced.headers).status_code == 200
    client.get("/v1/models", headers=traced.headers)
    traced.request()
    assert not [span for span in collector.spans if span.trace_id == untraced.id]


def test_the_log_names_trace_and_span(server: Server, client: httpx.Client, trace: Trace) -> None:
    for name, content in (("logged-answer", sample("cifar10")), ("logged-error", b"")):
        headers = {**trace.headers, "X-Request-Id": name}
        response = client.post(CIFAR, content=content, headers=headers, params=ALL)
        line = json.loads(server.wait_for(f'"request_id": "{name}"', "stdout").string)
        assert [line["trace_id"], line["span_id"]] == response.headers["traceresponse"].split("-")[1:3]


def test_an_exemplar_leads_to_the_span(client: httpx.Client, trace: Trace) -> None:
    assert client.post(CIFAR, content=sample("cifar10"), params=ALL, headers=trace.headers).status_code == 200
    page = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert page.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert page.text.endswith("# EOF\n")
    for name in ("tta_answer_seconds_bucket", "tta_stage_seconds_bucket"):
        lines = [line for line in page.text.splitlines() if line.startswith(name) and trace.id in line]
        assert re.search(r'model="cifar10".*# \{trace_id="[0-9a-f]{32}"\}', lines[0])
    assert trace.request().attributes["tta.model"] == "cifar10"


def test_the_last_spans_are_sent_at_shutdown(tmp_path: Path, collector: Collector, trace: Trace) -> None:
    """They would have waited for a minute."""
    variables = os.environ | collector.variables | {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
    folder = models_folder(tmp_path, "cifar10")
    with Server("--port", "0", "--slots", "1", "--models", str(folder), env=variables) as server:
        with server.client() as client:
            response = client.post(CIFAR, content=sample("cifar10"), params=ALL, headers=trace.headers)
        assert response.status_code == 200
        assert not [span for span in collector.spans if span.trace_id == trace.id]
        server.process.terminate()
        assert server.exit_status() == 0
    assert trace.request().attributes["tta.model"] == "cifar10"


# ---- without a collector ----


def test_a_collector_that_hangs_or_is_down_costs_no_answer(tmp_path: Path) -> None:
    """Its queue holds four spans: the others are dropped and counted, and the server still ends."""
    folder = models_folder(tmp_path, "cifar10")
    small = {"OTEL_BSP_MAX_QUEUE_SIZE": "4", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(Collector())
        variables = os.environ | collector.variables | small
        with Server("--port", "0", "--slots", "1", "--models", str(folder), env=variables) as server:
            with server.client() as client:
                collector.gate.clear()
                assert client.get("/v1/models").status_code == 200
                assert collector.entered.wait(PATIENCE)
                spans = answered(client, 12)
                dropped = metric(client, "tta_dropped_spans_total")
                assert dropped >= spans - 2 * 4  # four wait, and four may be on their way
                stack.close()
                answered(client, 12)
                until(lambda: metric(client, "tta_dropped_spans_total") > dropped)
            server.process.terminate()
            assert server.exit_status() == 0


def answered(client: httpx.Client, number: int) -> int:
    """Sends requests; the least number of their spans."""
    for _ in range(number):
        assert client.post(CIFAR, content=sample("cifar10"), params=ALL).status_code == 200
    return 2 * number
