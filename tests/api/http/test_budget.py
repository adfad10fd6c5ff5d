"""Budgets from query and header: the smallest applies, invalid ones are refused; priorities."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import pictures
from tests.support.gated import GatedServer
from tests.support.serving import DEFAULT_MS, PATIENCE, until
from tests.support.toys import metric, trap_image, trap_model

pytestmark = pytest.mark.timing

CLOTHING = "/v1/models/clothing"
HEADER = "X-Request-Timeout-Ms"
IMAGE = pictures.png(64, 64)
ENDPOINTS = ["POST predict", "GET quote"]


def send(client: httpx.Client, endpoint: str, headers: dict[str, str] | None = None, **query: str) -> httpx.Response:
    method, path = endpoint.split()
    body = IMAGE if method == "POST" else None
    return client.request(method, f"{CLOTHING}/{path}", content=body, params=query, headers=headers)


def budget(response: httpx.Response) -> float:
    """The budget that the server applied, in ms."""
    assert response.status_code == 200, response.text
    sentence: dict[str, Any] = response.json()
    return float(sentence.get("receipt", sentence)["budget_ms"])


def refused(response: httpx.Response) -> str:
    assert response.status_code == 400, response.text
    body = response.json()
    assert set(body) == {"error", "code"}
    assert body["code"] == "invalid_input"
    assert "\n" not in body["error"]
    return str(body["error"])


# ---- which one applies ----


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    ("query", "header", "taken"),
    [
        (None, None, DEFAULT_MS),
        ("5000", None, 5000),
        (None, "5000", 5000),
        ("5000", "3000", 3000),
        ("3000", "5000", 3000),
        ("3000", "3000", 3000),
        ("50000", None, 10_000),  # the model's longest
        (None, "50000", 10_000),
        ("50000", "40000", 10_000),
        ("50000", "4000", 4000),
        (None, "1000.5", 1000.5),
    ],
)
def test_the_smallest_of_query_header_and_the_models_longest_counts(
    client: httpx.Client, endpoint: str, query: str | None, header: str | None, taken: float
) -> None:
    headers = {} if header is None else {HEADER: header}
    asked = {} if query is None else {"budget_ms": query}
    assert budget(send(client, endpoint, headers, **asked)) == taken


def test_the_default_is_no_upper_bound(client: httpx.Client) -> None:
    default = client.get(CLOTHING).json()["budget"]["default_ms"]
    assert budget(send(client, "POST predict", {HEADER: str(default * 1.25)})) == default * 1.25


@pytest.mark.parametrize("name", [HEADER, HEADER.lower(), HEADER.upper()])
def test_the_headers_name_has_no_case(client: httpx.Client, name: str) -> None:
    assert budget(send(client, "POST predict", {name: "4321"})) == 4321


def test_the_header_is_kept_as_a_deadline(client: httpx.Client) -> None:
    """Half of the quoted time of eight views of a large image."""
    path, image = "/v1/models/nuclei", pictures.encoded(pictures.nuclei(512, 512))

    def cut_short() -> bool:
        """A busy machine may be too late for any view, or faster than quoted."""
        quoted = client.get(f"{path}/quote", params={"budget_ms": "10000"}).json()
        half = round(quoted["ms"] / 2)
        response = client.post(f"{path}/predict", content=image, headers={HEADER: str(half)})
        if response.status_code != 200:
            assert response.status_code in (400, 429, 504), response.text
            return False
        receipt = response.json()["receipt"]
        assert receipt["budget_ms"] == half
        return receipt["stop_reason"] in ("deadline", "capacity")

    until(cut_short)


# ---- invalid ones ----


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    "header", ["", "soon", "0", "-5", "nan", "-inf", "1e-400", "1,000", "200ms", "0x10", "1 2", "٣٠٠".encode()], ids=str
)
def test_an_invalid_header_is_refused(client: httpx.Client, endpoint: str, header: Any) -> None:
    assert HEADER in refused(send(client, endpoint, {HEADER: header}))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_long_header_is_not_echoed_whole(client: httpx.Client, endpoint: str) -> None:
    assert len(refused(send(client, endpoint, {HEADER: "9x" * 2000}))) < 300


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("query", ["0", "-5", "nan", "-inf"])
@pytest.mark.parametrize("header", [None, "300"])
def test_an_invalid_query_is_refused_with_a_valid_header(
    client: httpx.Client, endpoint: str, query: str, header: str | None
) -> None:
    headers = {} if header is None else {HEADER: header}
    assert "budget_ms takes" in refused(send(client, endpoint, headers, budget_ms=query))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_invalid_header_is_refused_with_a_valid_query(client: httpx.Client, endpoint: str) -> None:
    assert HEADER in refused(send(client, endpoint, {HEADER: "soon"}, budget_ms="300"))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("where", ["query", "header"])
def test_too_small_a_budget_names_the_smallest_possible_one(client: httpx.Client, endpoint: str, where: str) -> None:
    def ask(ms: str) -> httpx.Response:
        return send(client, endpoint, {HEADER: ms}) if where == "header" else send(client, endpoint, budget_ms=ms)

    sentence = refused(ask("0.01"))
    assert "budget is too small" in sentence
    least = int(sentence.split(" about ")[1].split(" ms")[0])
    assert least >= 1
    assert "too small" not in ask(str(2 * least + 5)).text  # a busy machine may still be too late


# ---- priorities ----


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_both_priorities_are_answered_alike_by_an_idle_server(client: httpx.Client, priority: str) -> None:
    answered = send(client, "POST predict", priority=priority, min_views="all", budget_ms="5000")
    assert len(answered.json()["receipt"]["views"]) == 8


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("given", ["", "urgent", "Batch", "1"])
def test_an_unknown_priority_lists_the_known_ones(client: httpx.Client, endpoint: str, given: str) -> None:
    sentence = refused(send(client, endpoint, priority=given))
    assert "'interactive' or 'batch'" in sentence


def test_interactive_comes_before_batch(tmp_path: Path) -> None:
    """Batch requests wait, one of them in the only slot; interactive ones with later deadlines overtake them."""
    trap_model(tmp_path / "toy")
    image = pictures.encoded(trap_image())

    def predict(url: str, priority: str, number: int, budget_ms: str) -> int:
        query = {"priority": priority, "budget_ms": budget_ms, "max_views": "1"}
        headers = {"X-Request-Id": f"{priority}-{number}"}
        return httpx.post(
            f"{url}/v1/models/toy/predict", content=image, params=query, headers=headers, timeout=PATIENCE
        ).status_code

    with (
        GatedServer(tmp_path, slots=1) as server,
        server.client() as client,
        ThreadPoolExecutor(8) as visitors,
    ):
        server.close_gate()
        first = [visitors.submit(predict, server.url, "batch", number, "8000") for number in range(4)]
        until(lambda: metric(client, "tta_jobs") == 4)
        second = [visitors.submit(predict, server.url, "interactive", number, "10000") for number in range(2)]
        until(lambda: metric(client, "tta_jobs") == 6)
        server.open_gate()
        assert [future.result() for future in (*first, *second)] == [200] * 6
        until(lambda: len(server.lines["stdout"]) == 6)
    order = [json.loads(line)["request_id"].partition("-")[0] for line in server.lines["stdout"]]
    assert order[0] == "batch"
    assert order[-2:] == ["batch", "batch"], "the last interactive answer may be made after another batch job's"


# ---- OpenAPI ----


@pytest.fixture
def paths(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()["paths"]
    return found


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_openapi_lists_the_header_and_the_priorities(paths: dict[str, Any], endpoint: str) -> None:
    method, path = endpoint.split()
    parameters = {(p["in"], p["name"]): p for p in paths[f"/v1/models/{{name}}/{path}"][method.lower()]["parameters"]}
    assert parameters["header", HEADER]["schema"] == {"type": "number", "exclusiveMinimum": 0}
    assert parameters["header", HEADER]["required"] is False
    priority = parameters["query", "priority"]["schema"]
    assert priority == {"type": "string", "enum": ["interactive", "batch"], "default": "interactive"}
