"""`tta-server simulate`: a scenario's figures in virtual time."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count, groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tta_server.cli.console import err, out
from tta_server.cli.options import ModelsOption
from tta_server.cli.plots import check_plots, draw_load_curves
from tta_server.cli.sources import read_settings
from tta_server.errors import ConfigError, InvalidInput
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.cores import available_cores
from tta_server.simulation.figures import Row, write_csv
from tta_server.simulation.forecast import MOST_SLOTS, Forecast, meets_target
from tta_server.simulation.profiles import profile_model
from tta_server.simulation.scenario import Scenario, read_scenario

MOST_LOAD = 1e6
EVERY = 200
"""Arrivals between two updates of the progress bar."""

ScenarioOption = Annotated[
    Path,
    typer.Option(
        "--scenario",
        "-s",
        exists=True,
        dir_okay=False,
        help="A YAML file; docs/scenarios has examples, and a README that explains every key.",
    ),
]
LoadsOption = Annotated[
    str | None,
    typer.Option(help="Loads, as multiples of the scenario's rates: 0.5,1,2. Default: those of the scenario."),
]
SlotsOption = Annotated[
    str | None,
    typer.Option(help="Numbers of slots: 1,2,4. Default: that of the scenario, or one for each core."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=MOST_SLOTS,
        help="Threads that decode and answer beside slots of a device. Default: those of the scenario; 0: slots do it.",
    ),
]
FindSlotsOption = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Find the fewest slots that answer this share of all requests within their budget."
    ),
]
MeanViewsOption = Annotated[
    float, typer.Option(min=0, help="With --find-slots: the number of views that answers must have on average.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
CsvOption = Annotated[Path | None, typer.Option("--csv", help="Also write all figures to this CSV file.")]
PlotOption = Annotated[
    Path | None,
    typer.Option(
        help="Also draw goodput, SLO attainment, mean K and refusals against load into this picture (needs matplotlib)."
    ),
]


def simulate(
    scenario: ScenarioOption,
    loads: LoadsOption = None,
    slots: SlotsOption = None,
    workers: WorkersOption = None,
    find_slots: FindSlotsOption = None,
    mean_views: MeanViewsOption = 0.0,
    as_json: JsonOption = False,
    to_csv: CsvOption = None,
    plot: PlotOption = None,
    models: ModelsOption = None,
) -> None:
    """Simulate a worker pool under a traffic scenario; report views, refusals and latency at each load.

    The server's own scheduler decides, in virtual time; costs are stated in the scenario or measured on this machine.

    Examples: tta-server simulate --scenario docs/scenarios/clothing.yaml --loads 0.5,1,2,4 --plot curves.png

    tta-server simulate --scenario docs/scenarios/clothing.yaml --find-slots 0.99 --mean-views 6
    """
    if plot:
        check_plots()
    found = read_scenario(scenario)
    if workers is not None:
        found = found.model_copy(update={"workers": workers})
    all_loads = found.loads if loads is None else _read_loads(loads)
    all_slots = [found.slots or available_cores()] if slots is None else _read_slots(slots)
    forecast = _prepare(found, read_settings(models=models).models)
    if find_slots is None:
        rows = _sweep(forecast, all_loads, all_slots)
    else:
        with err.status("looking for the fewest slots ..."):
            rows = [row for load in all_loads for row in forecast.fewest_slots(load, find_slots, mean_views)]
    _write(rows, to_csv, plot)
    if as_json:
        typer.echo(json.dumps([_without_nan(row) for row in rows], indent=2))
        return
    out.print(_figure_table(rows, scenario.name))
    if find_slots is not None:
        _print_slots(rows, find_slots, mean_views)


def _read_loads(text: str) -> list[float]:
    """Raises InvalidInput."""
    with suppress(ValueError):
        loads = [float(part) for part in text.split(",")]
        if all(0 < load <= MOST_LOAD for load in loads):
            return loads
    raise InvalidInput(f"--loads takes numbers over 0 and up to {MOST_LOAD:g} with commas between them, not {text!r}")


def _read_slots(text: str) -> list[int]:
    """Raises InvalidInput."""
    with suppress(ValueError):
        slots = [int(part) for part in text.split(",")]
        if all(0 < number <= MOST_SLOTS for number in slots):
            return slots
    raise InvalidInput(f"--slots takes whole numbers from 1 to {MOST_SLOTS} with commas between them, not {text!r}")


def _prepare(scenario: Scenario, bundled: Path) -> Forecast:
    with err.status("reading the scenario and measuring models ..."):
        cores = available_cores()
        return Forecast(scenario, {n: profile_model(n, model, bundled, cores) for n, model in scenario.models.items()})


def _sweep(forecast: Forecast, loads: Sequence[float], slots: Sequence[int]) -> list[Row]:
    """Figures at every load, for every number of slots."""
    points = [(load, number) for number in slots for load in loads]
    rows: list[Row] = []
    with _progress(len(points)) as advance:
        for done, (load, number) in enumerate(points):
            rows += forecast.rows(load, number, _on_arrival(forecast, load, done, advance))
            advance(done + 1)
    return rows


@contextmanager
def _progress(points: int) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, if that is a terminal; yields the function that takes the number of points done."""
    columns = (TextColumn("simulating"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=points)
        yield lambda done: bar.update(task, completed=done)


def _on_arrival(
    forecast: Forecast, load: float, done: int, advance: Callable[[float], None]
) -> Callable[[float], None]:
    """Updates the bar during the simulation of a point, every few arrivals."""
    seconds, requests, arrived = forecast.seconds(load), forecast.scenario.requests or math.inf, count(1)

    def on_arrival(now: float) -> None:
        if (number := next(arrived)) % EVERY == 0:
            advance(done + min(1.0, max(now / seconds, number / requests)))

    return on_arrival


def _write(rows: list[Row], to_csv: Path | None, plot: Path | None) -> None:
    """Raises ConfigError."""
    for path, write in ((to_csv, write_csv), (plot, draw_load_curves)):
        try:
            if path:
                write(path, rows)
        except (OSError, ValueError) as error:  # matplotlib raises ValueError for an unknown suffix
            raise ConfigError(f"{path} can't be written: {error}") from None


SHOWN = {
    "slots": ("slots", "{}"),
    "load": ("load", "{:g}x"),
    "model": ("traffic", "{}"),
    "offered_per_s": ("offered\n/s", "{:.1f}"),
    "slo": ("SLO", "{:.1%}"),
    "goodput_per_s": ("goodput\n/s", "{:.1f}"),
    "mean_views": ("mean\nK", "{:.2f}"),
    "refused_share": ("refused", "{:.1%}"),
    "latency_p50_ms": ("p50\nms", "{:.0f}"),
    "latency_p99_ms": ("p99\nms", "{:.0f}"),
}
"""Columns of the table: heading and format."""


def _figure_table(rows: list[Row], title: str) -> Table:
    varying = [name for name in ("slots", "model") if len({row[name] for row in rows}) > 1]
    shown = {name: column for name, column in SHOWN.items() if name not in ("slots", "model") or name in varying}
    if "slots" not in varying:
        title += f", {rows[0]['slots']} slot{'s' * (rows[0]['slots'] != 1)}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, (heading, _) in shown.items():
        table.add_column(heading, justify="left" if name == "model" else "right", no_wrap=True, min_width=4)
    table.add_column("stopped by")
    for row in rows:
        figures = [form.format(row[name]).replace("nan%", "-").replace("nan", "-") for name, (_, form) in shown.items()]
        table.add_row(*figures, _stop_reasons(row), end_section="model" in varying and row["model"] == "all")
    return table


def _stop_reasons(row: Row) -> str:
    """Those of at least 1 % of all answers, the most frequent first."""
    counts = {str(reason): float(row[f"stop_{reason}"]) for reason in StopReason}
    answered = sum(counts.values())
    frequent = sorted((-n / answered, name) for name, n in counts.items() if n >= 0.01 * answered > 0)
    return ", ".join(f"{name} {-share:.0%}" for share, name in frequent) or "-"


def _print_slots(rows: list[Row], share: float, mean_views: float) -> None:
    """One sentence for each load."""
    target = f"{share:.4g} of all requests in time" + (f", with {mean_views:g} views on average" if mean_views else "")
    for load, group in groupby(rows, key=lambda row: row["load"]):
        found = list(group)
        slots = found[0]["slots"]
        if all(meets_target(row, share, mean_views) for row in found):
            out.print(f"{load:g}x: {slots} slot{'s' * (slots != 1)} answer {target}.")
        else:
            out.print(f"{load:g}x: not even {slots} slots answer {target}.")


def _without_nan(row: Row) -> dict[str, str | float | None]:
    """JSON has no nan."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
