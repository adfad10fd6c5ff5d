"""`GET /v1/models/{name}/quote`: estimates of what a request would get now."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import pictures
from tests.support.gated import GatedServer
from tests.support.references import MODELS
from tests.support.serving import DEFAULT_MS, Server, models_folder, until
from tests.support.toys import metric, trap_image, trap_model
from tta_server.simulation.recordings import read_calibration_file

pytestmark = pytest.mark.timing

FIELDS = ["model", "image", "budget_ms", "admitted", "retry_after_ms", "views", "planned", "expected", "ms", "by_views"]
SIZES = [(64, 64), (400, 533), (1200, 900)]


def quote(client: httpx.Client, model: str = "clothing", **query: str) -> dict[str, Any]:
    response = client.get(f"/v1/models/{model}/quote", params=query)
    assert response.status_code == 200, response.text
    payload: dict[str, Any] = response.json()
    return payload


def check_consistent(payload: dict[str, Any], least: int = 1) -> None:
    """Check what holds for every quote at any load."""
    assert list(payload) == FIELDS
    assert [entry["views"] for entry in payload["by_views"]] == list(range(least, payload["planned"] + 1))
    seconds = [entry["ms"] for entry in payload["by_views"]]
    assert all(ms > 0 for ms in seconds)
    assert seconds == sorted(seconds)
    by_views = {entry["views"]: entry["ms"] for entry in payload["by_views"]}
    assert payload["ms"] == by_views.get(payload["views"])
    assert (payload["ms"] is None) == (payload["views"] == 0)
    assert (payload["ms"] or 0) <= payload["budget_ms"]
    assert payload["admitted"] == (payload["retry_after_ms"] == 0)


# ---- idle ----


@pytest.mark.parametrize("size", SIZES)
def test_an_idle_server_quotes_every_view(client: httpx.Client, size: tuple[int, int]) -> None:
    payload = quote(client, width=str(size[0]), height=str(size[1]), budget_ms="5000")
    check_consistent(payload)
    assert payload["model"] == "clothing"
    assert payload["image"] == {"width": size[0], "height": size[1]}
    assert payload["budget_ms"] == 5000
    assert (payload["admitted"], payload["retry_after_ms"]) == (True, 0)
    assert payload["views"] == payload["planned"] == 8
    assert payload["ms"] == payload["by_views"][-1]["ms"]


def disagreements(payload: dict[str, Any]) -> list[float | None]:
    return [entry["disagreement"] for entry in payload["by_views"]]


def test_a_calibrated_model_has_disagreements(client: httpx.Client) -> None:
    known = disagreements(quote(client, budget_ms="5000"))
    assert all(0 <= share < 0.1 for share in known if share is not None)
    assert None not in known
    assert known[-1] == 0
    assert disagreements(quote(client, budget_ms="5000", min_views="3")) == known[2:]
    assert disagreements(quote(client, budget_ms="5000", max_views="3")) == known[:3]


def test_it_has_the_views_that_a_stop_rule_is_expected_to_take(client: httpx.Client) -> None:
    """All of them without a rule; those of the calibration with `epsilon`; unknown with `certain`."""
    known = read_calibration_file(MODELS / "clothing" / "calibration.json").threshold(0.01).mean_views
    assert 1 < known < 5
    assert quote(client, budget_ms="5000")["expected"] == 8
    assert quote(client, budget_ms="5000", max_views="3")["expected"] == 3
    assert quote(client, budget_ms="5000", stop='{"epsilon": 0.01}')["expected"] == known
    assert quote(client, budget_ms="5000", stop='{"epsilon": 0.01}', min_views="5")["expected"] == 5
    assert quote(client, budget_ms="5000", stop="certain")["expected"] is None


@pytest.mark.parametrize(
    ("model", "query"), [("clothing", {"policy": "hflip"}), ("clothing", {"merge": "vote"}), ("nuclei", {})], ids=str
)
def test_disagreement_is_null_without_a_calibration(client: httpx.Client, model: str, query: dict[str, str]) -> None:
    assert set(disagreements(quote(client, model, budget_ms="5000", **query))) == {None}


@pytest.mark.parametrize("size", SIZES)
def test_a_budget_as_quoted_gets_the_views_as_quoted(client: httpx.Client, size: tuple[int, int]) -> None:
    """Estimates are upper bounds, so an idle server keeps them when no other process uses its cores."""
    image = pictures.jpeg(*size)

    def is_kept() -> bool:
        entry = quote(client, width=str(size[0]), height=str(size[1]), budget_ms="5000")["by_views"][3]
        query = {"budget_ms": str(entry["ms"] + 10)}
        answered = client.post("/v1/models/clothing/predict", content=image, params=query)
        return answered.status_code == 200 and len(answered.json()["receipt"]["views"]) >= entry["views"]

    until(is_kept)


def test_a_bigger_image_costs_more(client: httpx.Client) -> None:
    small, big = (quote(client, width=str(side), height=str(side), budget_ms="5000") for side in (64, 2000))
    assert all(s["ms"] < b["ms"] for s, b in zip(small["by_views"], big["by_views"], strict=True))


def test_a_smaller_budget_is_quoted_fewer_views(client: httpx.Client) -> None:
    whole = quote(client, "nuclei", width="512", height="512", budget_ms="60000")
    check_consistent(whole)
    counts = []
    for entry in whole["by_views"]:
        payload = quote(client, "nuclei", width="512", height="512", budget_ms=str(1.2 * entry["ms"] + 20))
        check_consistent(payload)
        counts.append(payload["views"])
    assert counts == sorted(counts)
    assert 1 <= counts[0] < counts[-1] == 8


def test_the_plan_is_that_of_predict(client: httpx.Client) -> None:
    assert quote(client, max_views="3")["planned"] == 3
    assert quote(client, policy="five_crop")["planned"] == 5
    payload = quote(client, min_views="3", budget_ms="5000")
    check_consistent(payload, least=3)
    every = quote(client, min_views="all", budget_ms="5000")
    check_consistent(every, least=8)
    assert every["views"] == 8


def test_without_a_size_or_a_budget_defaults_are_quoted(client: httpx.Client) -> None:
    payload = quote(client)
    assert payload["image"] == {"width": 512, "height": 512}
    assert payload["budget_ms"] == DEFAULT_MS


def test_a_quote_admits_nothing(client: httpx.Client) -> None:
    def metrics() -> list[str]:
        lines = client.get("/metrics").text.splitlines()
        return [x for x in lines if x.startswith(("tta_jobs", "tta_answers_total", "tta_views_count", "tta_backlog"))]

    before = metrics()
    for _ in range(5):
        quote(client)
    assert metrics() == before


# ---- invalid requests ----


def refused(client: httpx.Client, model: str = "clothing", **query: str) -> tuple[int, str, str]:
    response = client.get(f"/v1/models/{model}/quote", params=query)
    body = response.json()
    assert set(body) == {"error", "code"}
    assert response.headers["X-Request-Id"]
    assert "\n" not in body["error"]
    return response.status_code, body["code"], body["error"]


def test_too_small_a_budget_names_the_smallest_possible_one(client: httpx.Client) -> None:
    status, code, payload = refused(client, budget_ms="0.1")
    assert (status, code) == (400, "invalid_input")
    assert "budget is too small: 1 view of clothing" in payload
    assert "ms; give a budget of at least that" in payload


def test_more_mandatory_views_need_more(client: httpx.Client) -> None:
    def least(views: str) -> int:
        """0 if something else was refused."""
        sentence = refused(client, "nuclei", budget_ms="0.1", min_views=views)[2]
        found = re.search(r" about (\d+) ms", sentence)
        return int(found[1]) if found else 0

    # Estimates may change between two requests. Eight views in batches of four, one on each slot, are as soon done as
    # four.
    until(lambda: 0 < least("1") < least("4") <= least("all"))


def test_an_unknown_key_lists_the_known(client: httpx.Client) -> None:
    status, code, payload = refused(client, widht="4")
    assert (status, code) == (400, "invalid_input")
    assert payload.startswith("unknown key 'widht'; known: budget_ms, priority, policy")
    assert payload.endswith("width, height")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"width": "0"}, "width takes"),
        ({"height": "-3"}, "height takes"),
        ({"width": "wide"}, "width takes.*'wide'"),
        ({"width": "1.5"}, "width takes"),
        ({"policy": "nope"}, "unknown policy 'nope'"),
        ({"min_views": "9"}, "only 8 views"),
        ({"stop": "maybe"}, "unknown stop"),
        ({"stop": '{"epsilon":0.0001}'}, "below every calibrated value"),
        ({"merge": "median"}, "unknown merge"),
        ({"include": "everything"}, "unknown include"),
    ],
    ids=str,
)
def test_an_invalid_query_is_refused_with_what_is_allowed(
    client: httpx.Client, query: dict[str, str], expected: str
) -> None:
    status, code, sentence = refused(client, **query)
    assert (status, code) == (400, "invalid_input")

    assert re.search(expected, sentence)


def test_an_unknown_model_names_the_known_ones(client: httpx.Client) -> None:
    status, code, payload = refused(client, "none")
    assert (status, code) == (404, "unknown_model")
    assert "bloodcells, cifar10, clothing, mouse, nuclei, nuclei-count" in payload


@pytest.mark.parametrize(
    ("model", "width", "height"),
    [
        ("clothing", 60_000, 60_000),
        ("clothing", 100_000, 10),
        ("clothing", 10**30, 1),
        ("mouse", 1600, 64),
        ("clothing", 5001, 5000),
    ],
)
def test_an_image_too_large_for_predict_is_not_quoted(
    client: httpx.Client, model: str, width: int, height: int
) -> None:
    status, code, _ = refused(client, model, width=str(width), height=str(height), budget_ms="10000")
    assert (status, code) == (413, "too_large")
    if width < 2**31:
        image = pictures.png_that_says(width, height)
        assert client.post(f"/v1/models/{model}/predict", content=image).status_code == 413


# ---- load ----


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[httpx.Client]:
    """A server with one slot, for which four requests wait."""
    trap_model(tmp_path / "toy")
    image = pictures.encoded(trap_image("slow", "slow"))
    query = {"budget_ms": "9000", "min_views": "all"}

    def predict(client: httpx.Client) -> int:
        return client.post("/v1/models/toy/predict", content=image, params=query).status_code

    with GatedServer(tmp_path, slots=1) as server, server.client() as client, ThreadPoolExecutor(4) as clients:
        assert [predict(client) for _ in range(10)] == [200] * 10  # costs are measured now
        server.close_gate()
        requests = [clients.submit(predict, client) for _ in range(4)]
        until(lambda: metric(client, "tta_jobs") == 4)
        yield client
        server.open_gate()
        assert [each.result() for each in requests] == [200] * 4


@pytest.mark.slow
def test_under_load_fewer_views_or_none_are_quoted(loaded: httpx.Client) -> None:
    waits = quote(loaded, "toy", budget_ms="9000")
    check_consistent(waits)
    assert waits["admitted"]
    assert waits["by_views"][0]["ms"] > 200

    def when_refused() -> dict[str, Any] | None:
        """None while the running batch may still end in time for an urgent job."""
        hasty = quote(loaded, "toy", budget_ms="60")
        check_consistent(hasty)
        return None if hasty["admitted"] else hasty

    hasty = until(when_refused)
    assert hasty["retry_after_ms"] > 0
    assert (hasty["views"], hasty["ms"]) == (0, None)


def test_quotes_are_consistent_under_load_and_after_it(tmp_path: Path) -> None:
    folder = models_folder(tmp_path, "clothing")
    with Server("--port", "0", "--slots", "1", "--models", str(folder)) as server, server.client() as client:
        image, done = pictures.jpeg(), threading.Event()

        def keep_busy() -> None:
            with server.client() as own:
                while not done.is_set():
                    own.post("/v1/models/clothing/predict", content=image, params={"budget_ms": "60"})

        with ThreadPoolExecutor(6) as clients:
            busy = [clients.submit(keep_busy) for _ in range(6)]
            try:
                payload = [quote(client, budget_ms="500") for _ in range(50)]
            finally:
                done.set()
        assert [each.result() for each in busy] == [None] * 6
        for each in payload:
            check_consistent(each)
        until(lambda: quote(client, budget_ms="500")["admitted"])


# ---- OpenAPI ----


def test_openapi_lists_the_quote(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()["paths"]["/v1/models/{name}/quote"]["get"]
    names = [p["name"] for p in document["parameters"] if p["in"] == "query"]
    payload = refused(client, widht="4")[2]
    assert payload.split("known: ")[1].split(", ") == names
    assert {"200", "400", "404", "413", "503"} <= set(document["responses"])
    example = document["responses"]["200"]["content"]["application/json"]["example"]
    real = quote(client)
    assert list(example) == list(real)
    assert list(example["by_views"][0]) == list(real["by_views"][0])
