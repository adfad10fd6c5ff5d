"""A real server whose event loop is what is full: predictions are refused by their heads, control requests answered."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.support.connection import GET, IMAGE, chunked, connected, post
from tests.support.lagging import PASS_SECONDS, LaggingServer
from tests.support.serving import PATIENCE, models_folder, until
from tests.support.toys import metric
from tests.support.wording import check_sentence

pytestmark = pytest.mark.timing

PREDICT = "/v1/models/cifar10/predict"
SMALL, LARGE = "budget_ms=500", "budget_ms=60000"
INFER = "/v2/models/cifar10/infer"
SMALL_HEADER = "X-Request-Timeout-Ms: 500"
REFUSALS = 'tta_refusals_total{model="cifar10",reason="api"}'


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models_folder(tmp_path_factory.mktemp("models"), "cifar10")


@pytest.fixture(scope="module")
def lagging(models: Path) -> Iterator[LaggingServer]:
    with LaggingServer(models) as server:
        assert server.url
        yield server
        assert "Traceback" not in "".join(server.lines["stderr"])


@pytest.fixture
def slow(lagging: LaggingServer) -> Iterator[LaggingServer]:
    """A server whose event loop is slow until the end of the test."""
    lagging.slow_down()
    try:
        yield lagging
    finally:
        lagging.speed_up()


@pytest.fixture
def client(slow: LaggingServer) -> Iterator[httpx.Client]:
    with slow.client() as http:
        yield http


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """Check a refusal, and return its body."""
    assert answer.status_code == 429, answer.text
    payload: dict[str, Any] = answer.json()
    assert set(payload) == {"error", "code", "retry_after_ms"}
    assert payload["code"] == "overloaded"
    assert "event loop" in check_sentence(payload["error"])
    assert payload["retry_after_ms"] > 100
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/json"
    return payload


# ---- HTTP ----


@pytest.mark.parametrize("path", [f"{PREDICT}?{SMALL}", INFER])
@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_prediction_that_would_be_late_is_refused(client: httpx.Client, path: str, accept: str) -> None:
    headers = {"Accept": accept, "X-Request-Timeout-Ms": "500", "X-Request-Id": "mine"}
    before = metric(client, REFUSALS)
    answer = client.post(path, content=IMAGE, headers=headers)
    error_of(answer)
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert metric(client, REFUSALS) == before + 1
    assert metric(client, 'tta_errors_total{code="overloaded",model="cifar10"}') == before + 1


def test_control_requests_are_answered(client: httpx.Client) -> None:
    for path in ("/readyz", "/livez", "/metrics", "/v1/models", "/v1/models/cifar10", "/v2/health/ready"):
        assert client.get(path).status_code == 200
    quote = client.get("/v1/models/cifar10/quote", params=SMALL)
    assert quote.status_code == 200


def test_a_budget_that_the_lag_leaves_time_for_is_kept(client: httpx.Client) -> None:
    assert client.post(f"{PREDICT}?{LARGE}", content=IMAGE).status_code == 200


def test_the_lag_is_taken_off_the_budget(client: httpx.Client) -> None:
    """The receipt counts it."""
    answer = client.post(f"{PREDICT}?{LARGE}", content=IMAGE)
    assert answer.json()["receipt"]["elapsed_ms"] > 1e3 * PASS_SECONDS / 2


def test_other_errors_stay_what_they_are(client: httpx.Client) -> None:
    assert client.post(f"/v1/models/nothing/predict?{SMALL}", content=IMAGE).status_code == 404
    assert client.get(f"{PREDICT}?{SMALL}").status_code == 405


def test_the_refusal_is_one_line_of_the_log(slow: LaggingServer, client: httpx.Client) -> None:
    error_of(client.post(f"{PREDICT}?{SMALL}", content=IMAGE, headers={"X-Request-Id": "logged"}))
    line = json.loads(slow.wait_for('"request_id": "logged"', "stdout").string)
    assert (line["event"], line["status"], line["code"], line["path"]) == ("error", 429, "overloaded", PREDICT)


# ---- connections ----


def test_the_refusal_precedes_the_body(slow: LaggingServer) -> None:
    """No byte of it has been sent; the connection is kept for the next request once it is."""
    body = bytes(200_000)
    with connected(slow) as connection:
        connection.send(post(f"{PREDICT}?{SMALL}", body)[: -len(body)])
        assert connection.reply().status == 429
        connection.send(body, GET)
        assert connection.reply().status == 200


@pytest.mark.parametrize("framed", [post, chunked], ids=["length", "chunks"])
def test_the_next_request_of_the_connection_is_answered(slow: LaggingServer, framed: Any) -> None:
    path, body = f"{PREDICT}?{SMALL}", IMAGE if framed is post else [IMAGE[:9], IMAGE[9:]]
    with connected(slow) as connection:
        for _ in range(2):
            connection.send(framed(path, body))
            assert connection.reply().status == 429
        connection.send(GET)
        assert connection.reply().status == 200


def test_a_connection_that_the_client_wants_closed_is_closed(slow: LaggingServer) -> None:
    with connected(slow) as connection:
        connection.send(post(f"{PREDICT}?{SMALL}", IMAGE, "Connection: close"))
        assert connection.reply().status == 429
        assert connection.is_closed()


def test_a_request_behind_another_of_the_same_connection_gets_its_response_in_order(slow: LaggingServer) -> None:
    with connected(slow) as connection:
        connection.send(GET + post(f"{PREDICT}?{SMALL}", IMAGE) + GET)
        statuses = [connection.reply().status for _ in range(3)]
    assert (statuses[0], statuses[2]) == (200, 200)


def test_a_request_to_switch_to_http_2_is_refused_as_any(slow: LaggingServer) -> None:
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    with connected(slow) as connection:
        connection.send(post(f"{PREDICT}?{SMALL}", IMAGE, *upgrade))
        assert connection.reply().status == 429
        connection.send(GET)
        assert connection.reply().status == 200


# ---- gRPC ----


@pytest.mark.parametrize("seconds", [0.9, None], ids=["deadline", "default budget"])
def test_a_grpc_call_that_would_be_late_is_refused(slow: LaggingServer, seconds: float | None) -> None:
    """The deadline is long enough for the refusal to arrive: its first pass is the one that refuses."""
    request = pb.ModelInferRequest(model_name="cifar10")
    with grpc.insecure_channel(slow.grpc) as channel:
        grpc.channel_ready_future(channel).result(PATIENCE)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(request, timeout=seconds)
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
    error: Any = caught.value
    if seconds is None or error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "event loop" in check_sentence(error.details())
        assert int(dict(error.trailing_metadata())["retry-after-ms"]) > 100


# ---- before, after, and without ----


def test_after_a_slow_spell_predictions_are_answered_again(lagging: LaggingServer) -> None:
    with lagging.client() as client:
        lagging.slow_down()
        error_of(client.post(f"{PREDICT}?{SMALL}", content=IMAGE))
        lagging.speed_up()
        until(lambda: client.post(f"{PREDICT}?{SMALL}", content=IMAGE).status_code == 200)


def test_a_request_without_a_valid_key_gets_401_also_under_load(tmp_path: Path) -> None:
    keys, key = tmp_path / "keys", "alice-0123456789abcdef"
    keys.write_text(f"{key}\n")
    (tmp_path / "models").mkdir()
    allowed = {"Authorization": f"Bearer {key}"}
    with LaggingServer(models_folder(tmp_path / "models", "cifar10"), keys=str(keys)) as server:
        server.slow_down(headers=allowed)
        with server.client() as client:
            assert client.post(f"{PREDICT}?{SMALL}", content=IMAGE).status_code == 401
            error_of(client.post(f"{PREDICT}?{SMALL}", content=IMAGE, headers=allowed))


def test_with_no_api_bound_nothing_is_refused_by_its_head(tmp_path: Path) -> None:
    with LaggingServer(models_folder(tmp_path, "cifar10"), api_bound=False) as server, server.client() as client:
        server.slow_down()
        assert client.post(f"{PREDICT}?{LARGE}", content=IMAGE).status_code == 200
        client.post(f"{PREDICT}?{SMALL}", content=IMAGE)
        assert metric(client, REFUSALS) == 0
