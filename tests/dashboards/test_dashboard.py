"""The dashboard is what its code makes, every expression is PromQL, and a real server has every metric in it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from dashboards.panels import ROWS, Panel
from tests.support import pictures
from tests.support.prometheus import PROMTOOL, promtool
from tests.support.remote import free_port
from tests.support.serving import Server
from tests.support.toys import trap_image, trap_model

ROOT = Path(__file__).parents[2]
FOLDER, CHART = ROOT / "dashboards", ROOT / "helm" / "tta-server" / "files"
PANELS = [panel for panels in ROWS.values() for panel in panels]
PREDICT = "/v1/models/toy/predict"
AT_FIRST_EVENT = {"tta_answers_total", "tta_declaration_doubts_total"}
"""Their labels have too many values to show each as 0."""


def dashboard_expressions() -> list[str]:
    found = json.loads((FOLDER / "tta-server.json").read_text())
    return [target["expr"] for panel in found["panels"] for target in panel.get("targets", ())]


def rule_expressions() -> list[str]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\btta_\w+", expression))


@pytest.mark.deploy
def test_the_dashboard_is_what_the_code_makes() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="needs the extra deploy")
    from dashboards.generate import generate

    assert (FOLDER / "tta-server.json").read_text() == generate(), "run make dashboards"


def test_the_file_has_every_panel() -> None:
    """Also without the generator's library."""
    assert dashboard_expressions() == [expression for panel in PANELS for expression, _ in panel.queries]
    titles = [p["title"] for p in json.loads((FOLDER / "tta-server.json").read_text())["panels"] if p["type"] != "row"]
    assert titles == [panel.title for panel in PANELS]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", ["dashboard.json", "alerts.yaml"])
def test_the_chart_has_the_same_files(name: str) -> None:
    source = {"dashboard.json": "tta-server.json"}.get(name, name)
    assert (CHART / name).read_text() == (FOLDER / source).read_text(), "run make dashboards"


@pytest.mark.deploy
def test_expressions_are_promql() -> None:
    promql_parser = pytest.importorskip("promql_parser", reason="needs the extra deploy")
    for expression in [*dashboard_expressions(), *rule_expressions()]:
        promql_parser.parse(re.sub(r"\$(job|instance|model)\b", "x", expression.replace("$__rate_interval", "5m")))


def test_expressions_follow_the_variables() -> None:
    """Every metric of the dashboard is that of the chosen servers, and of the chosen models if it has them."""
    without_model = {"tta_backlog_seconds", "tta_backlog_bytes", "tta_jobs", "tta_slots", "tta_event_loop_lag_seconds"}
    without_model.add("tta_dropped_spans_total")
    for expression in dashboard_expressions():
        for name, labels in re.findall(r"\b(tta_\w+)\{(.*?)\}", expression):
            assert 'job=~"$job",instance=~"$instance"' in labels, name
            assert ('model=~"$model"' in labels) == (name not in without_model), name
        assert len(re.findall(r"\btta_\w+\{", expression)) == len(re.findall(r"\btta_\w+", expression))


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_panel_says_what_it_means(panel: Panel) -> None:
    assert panel.text.count(".") >= 2
    assert panel.unit


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A model with traps; no collector takes its spans."""
    folder = tmp_path_factory.mktemp("models")
    trap_model(folder / "toy")
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_TRACES_SAMPLER": "always_off"}
    with Server("--port", "0", "--traces", "--models", str(folder), env=env) as running, running.client() as client:
        yield client


@pytest.mark.timing
def test_a_server_has_every_metric_from_the_start(server: httpx.Client) -> None:
    """Counters too: `rate` and `increase` miss what a counter had when it first appeared."""
    page = server.get("/metrics").text
    samples = {re.split(r"[{ ]", line)[0] for line in page.splitlines() if not line.startswith("#")}
    named = set().union(*map(metrics_in, [*dashboard_expressions(), *rule_expressions()]))
    assert named - samples == AT_FIRST_EVENT
    assert all(f"# HELP {name}" in page for name in AT_FIRST_EVENT)
    assert 'tta_faults_total{kind="ended",model="toy"} 0.0' in page


@pytest.mark.deploy
@pytest.mark.timing
def test_the_page_is_as_promtool_wants_it(server: httpx.Client) -> None:
    if not PROMTOOL.is_file():
        pytest.skip("needs promtool: make prometheus")
    for plain in (None, "fails", "nan"):
        server.post(PREDICT, content=pictures.encoded(trap_image(plain)), params={"budget_ms": "8000"})
    assert server.post(PREDICT, content=b"no image").status_code == 415
    done = promtool("check", "metrics", stdin=server.get("/metrics").text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
