"""What a server without --traces says of the traces that its clients began."""

import json

import httpx
import pytest

from tests.support.serving import Server
from tests.support.triton import Triton, sample

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
VALID = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
PREDICT = "/v1/models/cifar10/predict"


def line(server: Server, name: str) -> dict[str, object]:
    entry: dict[str, object] = json.loads(server.wait_for(f'"request_id": "{name}"', "stdout").string)
    return entry


@pytest.mark.parametrize("content", [sample("cifar10"), b"no image"], ids=["answer", "error"])
def test_the_line_names_the_clients_trace(server: Server, client: httpx.Client, content: bytes) -> None:
    name = f"traced-{len(content)}"
    response = client.post(PREDICT, content=content, headers={**VALID, "X-Request-Id": name})
    assert "traceresponse" not in response.headers
    entry = line(server, name)
    assert entry["trace_id"] == TRACE
    assert "span_id" not in entry


@pytest.mark.parametrize("header", [None, "", "00-0-0-01", f"00-{TRACE}-{'0' * 16}-01"])
def test_without_a_valid_one_the_line_is_as_ever(server: Server, client: httpx.Client, header: str | None) -> None:
    name = f"untraced-{header and len(header)}"
    headers = {} if header is None else {"traceparent": header}
    client.post(PREDICT, content=sample("cifar10"), headers={**headers, "X-Request-Id": name})
    entry = line(server, name)
    assert entry["event"] == "answer"
    assert not {"trace_id", "span_id"} & set(entry)


def test_over_grpc_too(server: Server) -> None:
    form = Triton("grpc", server)
    form.infer("cifar10", form.images(sample("cifar10")), headers={**VALID, "x-request-id": "traced-grpc"})
    assert line(server, "traced-grpc")["trace_id"] == TRACE


def test_the_page_of_metrics_has_no_count_of_spans(client: httpx.Client) -> None:
    assert "spans" not in client.get("/metrics").text
