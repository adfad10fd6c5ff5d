"""Writes dashboards/tta-server.json, and the chart's copies of it and of the alert rules: `make dashboards`."""

import itertools
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, heatmap, prometheus, timeseries
from grafana_foundation_sdk.builders.common import GraphThresholdsStyleConfig
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import GraphTresholdsStyleMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.panels import ROWS, Panel

HERE = Path(__file__).parent
CHART = HERE.parent / "helm" / "tta-server" / "files"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, HEIGHT = 8, 8
"""Of a panel; the dashboard has 24 columns."""
COLORS = ("green", "orange", "red")
VARIABLES = {
    "job": "label_values(tta_model_ready, job)",
    "instance": 'label_values(tta_model_ready{job=~"$job"}, instance)',
    "model": 'label_values(tta_model_ready{job=~"$job",instance=~"$instance"}, model)',
}


def queries(panel: Panel) -> list[prometheus.Dataquery]:
    found = []
    for number, (expression, legend) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id("ABCDEFGH"[number]).range()
        if panel.is_heatmap:
            query.format(PromQueryFormat.HEATMAP)
        found.append(query.exemplar(panel.has_exemplars))
    return found


def thresholds(limits: tuple[float, float]) -> dashboard.ThresholdsConfig:
    orange, red = limits
    colors = COLORS if orange < red else COLORS[::-1]
    # A value at a step has its color: of falling limits the better one.
    steps = [Threshold(value=at, color=color) for at, color in zip((None, *sorted(limits)), colors, strict=True)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def curves(panel: Panel) -> timeseries.Panel:
    built = timeseries.Panel().min(0).unit(panel.unit)
    if panel.limits is not None:
        style = GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
        built.thresholds(thresholds(panel.limits)).thresholds_style(style)
    return built


def cells(panel: Panel) -> heatmap.Panel:
    return heatmap.Panel().y_axis(heatmap.YAxisConfig().unit(panel.unit)).show_tooltip()


def panel(of: Panel, number: int) -> timeseries.Panel | heatmap.Panel:
    built = cells(of) if of.is_heatmap else curves(of)
    built.id(number).title(of.title).description(of.text).datasource(SOURCE).span(WIDTH).height(HEIGHT)
    return built.targets(list(queries(of)))


def variable(name: str, query: str) -> dashboard.QueryVariable:
    """A choice of several values, at first of all."""
    built = dashboard.QueryVariable(name).label(name).query(query).datasource(SOURCE)
    built.multi(True).include_all(True).all_value(".*").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    return built.current(VariableOption(selected=True, text="All", value="$__all"))


def generate() -> str:
    """The dashboard as JSON."""
    built = dashboard.Dashboard("tta-server").uid("tta-server").tags(["tta-server"])
    built.description("Answers in time, load, time and errors of tta-server. What to do: docs/slow.md.")
    built.time("now-1h", "now").refresh("30s").tooltip(DashboardCursorSync.CROSSHAIR)
    built.with_variable(dashboard.DatasourceVariable("datasource").label("datasource").type("prometheus"))
    for name, query in VARIABLES.items():
        built.with_variable(variable(name, query))
    numbers = itertools.count(1)
    for title, panels in ROWS.items():
        built.with_row(dashboard.Row(title).id(next(numbers)))
        for each in panels:
            built.with_panel(panel(each, next(numbers)))
    text: str = JSONEncoder(sort_keys=True, indent=2).encode(built.build())
    return text + "\n"


def main() -> None:
    text = generate()
    (HERE / "tta-server.json").write_text(text)
    (CHART / "dashboard.json").write_text(text)
    (CHART / "alerts.yaml").write_text((HERE / "alerts.yaml").read_text())


if __name__ == "__main__":
    main()
