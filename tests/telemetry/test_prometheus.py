"""What /metrics counts, each against what a client of a real server has just seen."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support import pictures
from tests.support.serving import Server, until
from tests.support.toys import expect_ended_runs, metric, serving, switchable, trap_image, trap_model
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.telemetry.observer import AnswerSent
from tta_server.telemetry.prometheus import Metrics

pytestmark = pytest.mark.timing

TOY = "/v1/models/toy/predict"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model with traps, alone on one slot."""
    folder = tmp_path_factory.mktemp("models")
    trap_model(folder / "toy")
    with Server("--port", "0", "--slots", "1", "--models", str(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(trap_model(tmp_path_factory.mktemp("models") / "toy"))


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as http:
        yield http


def post(client: httpx.Client, plain: str | None = None, mirrored: str | None = None, **query: str) -> httpx.Response:
    image = pictures.encoded(trap_image(plain, mirrored))
    return client.post(TOY, content=image, params={"budget_ms": "8000", **query})


class Counts:
    """What has been added to counters since."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        families = text_string_to_metric_families(self._client.get("/metrics").text)
        return {
            " ".join([s.name, *s.labels.values()]): s.value
            for family in families
            for s in family.samples
            if s.name.endswith(("_total", "_count")) and "le" not in s.labels
        }

    def added(self) -> dict[str, float]:
        now = self._now()
        return {
            name: value - self._before.get(name, 0) for name, value in now.items() if value != self._before.get(name)
        }


# ---- each kind of end ----


def test_an_answer_is_counted_with_its_views_and_batches(client: httpx.Client) -> None:
    counts = Counts(client)
    assert post(client).status_code == 200
    added = counts.added()
    assert added["tta_answers_total toy all_views"] == 1
    assert added["tta_wanted_views_total toy"] == 2
    assert metric(client, 'tta_late_answers_total{model="toy"}') == 0
    assert added["tta_views_count toy"] == added["tta_answer_seconds_count toy"] == 1
    assert (
        added["tta_batch_seconds_count toy"] == added["tta_cost_ratio_count toy"] == added["tta_batch_size_count toy"]
    )
    assert added["tta_batch_seconds_count toy"] == 2  # this model takes one view at a time
    assert not [name for name in added if name.startswith(("tta_errors", "tta_refusals", "tta_faults", "tta_expired"))]


@pytest.mark.parametrize(
    ("plain", "mirrored", "status", "expected"),
    [
        ("fails", None, 502, {"tta_faults_total failed toy": 1, "tta_errors_total backend_failed toy": 1}),
        (None, "fails", 200, {"tta_faults_total failed toy": 1, "tta_answers_total toy backend_failed": 1}),
        ("nan", None, 502, {"tta_dropped_views_total toy": 1, "tta_errors_total backend_failed toy": 1}),
        (None, "nan", 200, {"tta_dropped_views_total toy": 1, "tta_answers_total toy all_views": 1}),
    ],
)
def test_what_goes_wrong_is_counted_by_kind(
    client: httpx.Client, plain: str | None, mirrored: str | None, status: int, expected: dict[str, float]
) -> None:
    counts = Counts(client)
    assert post(client, plain, mirrored).status_code == status
    added = {" ".join([name.split()[0], *sorted(name.split()[1:])]): value for name, value in counts.added().items()}
    wanted = {" ".join([name.split()[0], *sorted(name.split()[1:])]): value for name, value in expected.items()}
    kinds = ("tta_faults", "tta_errors", "tta_dropped", "tta_answers_total", "tta_expired", "tta_refusals", "tta_left")
    assert {name: value for name, value in added.items() if name.startswith(kinds)} == wanted
    until(lambda: post(client).status_code == 200)


def test_a_job_that_is_not_answered_in_time_has_expired(client: httpx.Client) -> None:
    expired = 'tta_expired_total{model="toy"}'
    before = metric(client, expired)
    with expect_ended_runs(client, "toy", 1):
        assert post(client, "endless", budget_ms="200", max_views="1").status_code == 504
        assert metric(client, expired) == before + 1
    assert metric(client, 'tta_errors_total{code="deadline_exceeded",model="toy"}') >= 1


def test_views_that_time_did_not_allow_were_wanted(client: httpx.Client) -> None:
    counts = Counts(client)
    with expect_ended_runs(client, "toy", 1):
        assert post(client, None, "endless", budget_ms="300").json()["receipt"]["stop_reason"] == "deadline"
    added = counts.added()
    assert (added["tta_views_count toy"], added["tta_wanted_views_total toy"]) == (1, 2)
    assert metric(client, 'tta_views_sum{model="toy"}') < metric(client, 'tta_wanted_views_total{model="toy"}')


def test_a_cancelled_job_is_counted_once(client: httpx.Client) -> None:
    left, cancelled = 'tta_left_total{model="toy"}', 'tta_errors_total{code="cancelled",model="toy"}'
    before = metric(client, left), metric(client, cancelled)
    image = pictures.encoded(trap_image("endless"))
    with expect_ended_runs(client, "toy", 0):  # an abort after the last client has left is no fault
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                client.base_url.join(TOY),
                content=image,
                params={"budget_ms": "9000"},
                timeout=httpx.Timeout(60, read=0.2),
            )
        until(lambda: metric(client, "tta_jobs") == 0)
    assert (metric(client, left), metric(client, cancelled)) == (before[0] + 1, before[1] + 1)


def test_an_answer_after_its_budget_is_late() -> None:
    metrics = Metrics()
    for elapsed in (99.9, 100.0, 100.1, 250.0):
        metrics.notify(AnswerSent("id", "m", 1, 1, "all_views", 100.0, elapsed, {}))
    assert b'tta_late_answers_total{model="m"} 2.0' in metrics.text()


# ---- refusals ----


def refused(response: httpx.Response) -> None:
    assert response.status_code == 429, response.text
    assert response.json()["retry_after_ms"] > 0


def test_refusals_are_counted_by_what_was_short(model: Model) -> None:
    """One image holds the only slot: a hasty one has no time, a large one no memory, and a fifth no place."""
    toy, switch = switchable(model)
    small, large = pictures.encoded(trap_image()), pictures.true_png(3000, 3000)
    with serving(toy, slots=1, max_waiting=4, max_waiting_mb=40) as client, ThreadPoolExecutor(4) as clients:

        def visit(image: bytes, budget_ms: str = "9000") -> httpx.Response:
            return client.post(TOY, content=image, params={"budget_ms": budget_ms, "max_views": "1"})

        def short(reason: str) -> float:
            return metric(client, f'tta_refusals_total{{model="toy",reason="{reason}"}}')

        switch.mode = "stuck"
        waiting = [clients.submit(visit, small)]
        until(switch.entered.is_set)
        until(lambda: visit(small, "20").status_code == 429)  # as soon as the image is known to be late
        assert (short("time"), short("bytes"), short("jobs")) == (1, 0, 0)
        waiting.append(clients.submit(visit, large))
        until(lambda: metric(client, "tta_jobs") == 2)
        assert metric(client, "tta_backlog_bytes") > 3 * 3000 * 3000
        refused(visit(large))
        assert (short("time"), short("bytes"), short("jobs")) == (1, 1, 0)
        waiting += [clients.submit(visit, small) for _ in range(2)]
        until(lambda: metric(client, "tta_jobs") == 4)
        assert metric(client, "tta_backlog_seconds") > 0
        refused(visit(small))
        assert (short("time"), short("bytes"), short("jobs")) == (1, 1, 1)
        switch.mode = "works"
        switch.release.set()
        assert [future.result().status_code for future in waiting] == [502, 200, 200, 200]
        assert [metric(client, name) for name in ("tta_jobs", "tta_backlog_bytes", "tta_backlog_seconds")] == [0, 0, 0]


# ---- gauges and the page itself ----


def test_a_model_is_ready_when_it_is(client: httpx.Client) -> None:
    assert metric(client, 'tta_model_ready{model="toy"}') == 1


def test_slots_are_counted_by_device(client: httpx.Client) -> None:
    assert metric(client, 'tta_slots{device="cpu"}') == 1


def test_the_metrics_page_parses_and_names_every_metric_once(client: httpx.Client) -> None:
    post(client)
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert {
        "tta_answers", "tta_errors", "tta_refusals", "tta_expired", "tta_left", "tta_faults", "tta_risks",
        "tta_dropped_views", "tta_answer_seconds", "tta_stage_seconds", "tta_views", "tta_batch_size",
        "tta_batch_seconds", "tta_cost_ratio",
        "tta_cache_hits", "tta_cache_misses", "tta_cache_evictions", "tta_cache_bytes",
        "tta_jobs", "tta_backlog_seconds", "tta_backlog_bytes", "tta_model_ready", "tta_slots",
        "tta_wanted_views",
    } <= set(names)  # fmt: skip
    assert all(family.documentation for family in families)


def test_the_ratio_of_costs_tells_slow_batches(model: Model) -> None:
    """A view of a tenth of a second, where milliseconds at most were measured."""
    toy, _ = switchable(model)
    with serving(toy, slots=1) as client:
        up_to_two = 'tta_cost_ratio_bucket{le="2.0",model="toy"}'
        assert post(client, "slow", max_views="1").status_code == 200
        assert metric(client, 'tta_cost_ratio_count{model="toy"}') == 1
        assert metric(client, up_to_two) == 0
        assert metric(client, 'tta_cost_ratio_sum{model="toy"}') > 2


def test_counters_add_up_under_load(model: Model) -> None:
    """Answers, errors and refusals together are as many as the requests, over all clients."""
    with serving(model) as client:
        seen: list[int] = []
        lock = threading.Lock()
        traps = [None, "fails", "nan", None]

        def visit(number: int) -> None:
            for k in range(25):
                response = post(client, traps[(number + k) % 4], traps[k % 4], budget_ms="1000")
                with lock:
                    seen.append(response.status_code)

        with ThreadPoolExecutor(6) as clients:
            list(clients.map(visit, range(6)))
        samples = [s for f in text_string_to_metric_families(client.get("/metrics").text) for s in f.samples]
        answers = sum(s.value for s in samples if s.name == "tta_answers_total")
        errors = {s.labels["code"]: s.value for s in samples if s.name == "tta_errors_total"}
        refusals = sum(s.value for s in samples if s.name == "tta_refusals_total")
        assert answers == seen.count(200)
        assert sum(errors.values()) == len(seen) - seen.count(200)
        assert errors.get("backend_failed", 0) == seen.count(502)
        assert errors.get("overloaded", 0) == refusals == seen.count(429)
        assert metric(client, "tta_jobs") == 0


def test_two_models_are_counted_apart(tmp_path: Path) -> None:
    models = [load_model(trap_model(tmp_path / name)) for name in ("one", "two")]
    with serving(*models) as client:
        client.post("/v1/models/one/predict", content=pictures.encoded(trap_image()))
        assert metric(client, 'tta_views_count{model="one"}') == 1
        assert metric(client, 'tta_views_count{model="two"}') == 0
        assert metric(client, 'tta_model_ready{model="two"}') == 1


@pytest.mark.parametrize("accept", [None, "*/*", "text/plain", "text/plain;version=1.0.0;q=0.5, */*", "text/html"])
def test_the_page_is_text_unless_openmetrics_is_named(client: httpx.Client, accept: str | None) -> None:
    page = client.get("/metrics", headers={} if accept is None else {"Accept": accept})
    assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# EOF" not in page.text


PROMETHEUS = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.5"
"""What Prometheus 3 sends, shortened."""


@pytest.mark.parametrize("accept", [PROMETHEUS, "application/openmetrics-text"])
def test_openmetrics_has_the_same_samples(client: httpx.Client, accept: str) -> None:
    page = client.get("/metrics", headers={"Accept": accept})
    assert page.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    open_names = {s.name for f in openmetrics.text_string_to_metric_families(page.text) for s in f.samples}
    names = {s.name for f in text_string_to_metric_families(client.get("/metrics").text) for s in f.samples}
    assert open_names == names
