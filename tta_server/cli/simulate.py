"""`tta-server simulate`: what a pool would make of some traffic, in virtual time."""

import json
import math
from collections.abc import Callable, Iterator
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
from tta_server.simulation.forecast import MOST_SLOTS, Forecast, is_enough, priced
from tta_server.simulation.scenario import Scenario, read_scenario

MOST_LOAD = 1e6
EVERY = 200
"""Arrivals between two moves of the progress bar."""


def simulate(
    scenario: Annotated[
        Path,
        typer.Option(
            "--scenario",
            "-s",
            exists=True,
            dir_okay=False,
            help="A YAML file, such as those in docs/scenarios, whose README tells all keys.",
        ),
    ],
    loads: Annotated[
        str | None, typer.Option(help="Multiples of the scenario's own rates, as 0.5,1,2; default: the scenario's.")
    ] = None,
    slots: Annotated[
        str | None, typer.Option(help="Slots of the pool, as 1,2,4; default: the scenario's, or one for each core.")
    ] = None,
    find_slots: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Find the fewest slots that answer this share of all requests within their budget."
        ),
    ] = None,
    mean_views: Annotated[
        float, typer.Option(min=0, help="With --find-slots: and that give them so many views on average.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    to_csv: Annotated[Path | None, typer.Option("--csv", help="Write all figures to this CSV file, too.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw goodput, SLO attainment, mean K and refusals against load (needs matplotlib)."),
    ] = None,
    models: ModelsOption = None,
) -> None:
    """Ask what a pool would make of some traffic: views, refusals and latencies at each load, in seconds, not hours.

    The server's own scheduler decides, in virtual time; costs are stated in the scenario, or measured here.

    Examples: tta-server simulate --scenario docs/scenarios/clothing.yaml --loads 0.5,1,2,4 --plot curves.png

    tta-server simulate --scenario docs/scenarios/clothing.yaml --find-slots 0.99 --mean-views 6
    """
    if plot:
        check_plots()
    found = read_scenario(scenario)
    asked_loads = list(found.loads) if loads is None else _loads(loads)
    asked_slots = [found.slots or available_cores()] if slots is None else _slots(slots)
    forecast = _forecast(found, read_settings(models=models).models)
    if find_slots is not None:
        rows = _found(forecast, asked_loads, find_slots, mean_views)
    else:
        rows = _swept(forecast, asked_loads, asked_slots)
    _write(rows, to_csv, plot)
    if as_json:
        typer.echo(json.dumps([_plain(row) for row in rows], indent=2))
        return
    out.print(_table(rows, scenario.name))
    if find_slots is not None:
        _say_found(rows, find_slots, mean_views)


def _loads(text: str) -> list[float]:
    """Raises InvalidInput."""
    with suppress(ValueError):
        loads = [float(part) for part in text.split(",")]
        if all(0 < load <= MOST_LOAD for load in loads):
            return loads
    raise InvalidInput(f"--loads takes numbers over 0 and up to {MOST_LOAD:g} with commas between them, not {text!r}")


def _slots(text: str) -> list[int]:
    """Raises InvalidInput."""
    with suppress(ValueError):
        slots = [int(part) for part in text.split(",")]
        if all(0 < number <= MOST_SLOTS for number in slots):
            return slots
    raise InvalidInput(f"--slots takes whole numbers from 1 to {MOST_SLOTS} with commas between them, not {text!r}")


def _forecast(scenario: Scenario, bundled: Path) -> Forecast:
    with err.status("reading and measuring ..."):
        models = {name: priced(name, model, bundled, available_cores()) for name, model in scenario.models.items()}
    return Forecast(scenario, models)


def _swept(forecast: Forecast, loads: list[float], slots: list[int]) -> list[Row]:
    points = [(load, number) for number in slots for load in loads]
    rows: list[Row] = []
    with _progress(len(points)) as advance:
        for done, (load, number) in enumerate(points):
            rows += forecast.rows(load, number, _watch(forecast, load, done, advance))
            advance(done + 1)
    return rows


def _found(forecast: Forecast, loads: list[float], share: float, mean_views: float) -> list[Row]:
    with err.status("looking for the fewest slots ..."):
        return [row for load in loads for row in forecast.fewest_slots(load, share, mean_views)]


@contextmanager
def _progress(runs: int) -> Iterator[Callable[[float], None]]:
    """A bar on stderr while it is a terminal; yields what tells it how many runs are done."""
    columns = (TextColumn("simulating"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=runs)
        yield lambda done: bar.update(task, completed=done)


def _watch(forecast: Forecast, load: float, runs: int, advance: Callable[[float], None]) -> Callable[[float], None]:
    """Moves the bar now and then while a run goes on."""
    seconds, requests, arrived = forecast.seconds(load), forecast.scenario.requests or math.inf, count(1)

    def watch(now: float) -> None:
        if (number := next(arrived)) % EVERY == 0:
            advance(runs + min(1.0, max(now / seconds, number / requests)))

    return watch


def _write(rows: list[Row], to_csv: Path | None, plot: Path | None) -> None:
    for path, write in ((to_csv, write_csv), (plot, draw_load_curves)):
        try:
            if path:
                write(path, rows)
        except (OSError, ValueError) as error:  # a kind of picture that is not known is a ValueError
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
"""The columns that the table shows: heading and form."""


def _table(rows: list[Row], title: str) -> Table:
    several = [name for name in ("slots", "model") if len({row[name] for row in rows}) > 1]
    shown = {name: look for name, look in SHOWN.items() if name not in ("slots", "model") or name in several}
    if "slots" not in several:
        title += f", {rows[0]['slots']} slot{'s' * (rows[0]['slots'] != 1)}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, (heading, _) in shown.items():
        table.add_column(heading, justify="left" if name == "model" else "right", no_wrap=True, min_width=4)
    table.add_column("stopped by")
    for row in rows:
        figures = [form.format(row[name]).replace("nan%", "-").replace("nan", "-") for name, (_, form) in shown.items()]
        table.add_row(*figures, _reasons(row), end_section="model" in several and row["model"] == "all")
    return table


def _reasons(row: Row) -> str:
    """Stop reasons of at least 1 % of all answers, the most frequent first."""
    counts = {str(reason): float(row[f"stop_{reason}"]) for reason in StopReason}
    answered = sum(counts.values())
    seen = sorted((-n / answered, name) for name, n in counts.items() if n >= 0.01 * answered > 0)
    return ", ".join(f"{name} {-share:.0%}" for share, name in seen) or "-"


def _say_found(rows: list[Row], share: float, mean_views: float) -> None:
    """For each load, one sentence."""
    wanted = f"{share:.4g} of all requests in time" + (f", with {mean_views:g} views on average" if mean_views else "")
    for load, own in groupby(rows, key=lambda row: row["load"]):
        found = list(own)
        slots = found[0]["slots"]
        if all(is_enough(row, share, mean_views) for row in found):
            out.print(f"{load:g}x: {slots} slot{'s' * (slots != 1)} answer {wanted}.", highlight=False)
        else:
            out.print(f"{load:g}x: not even {slots} slots answer {wanted}.", highlight=False)


def _plain(row: Row) -> dict[str, str | float | None]:
    """JSON knows no nan."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
