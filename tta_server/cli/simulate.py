"""`tta-server simulate`: a scenario's figures in virtual time."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tta_server.cli.console import err, out
from tta_server.cli.figure_table import figure_table, slots_sentences
from tta_server.cli.options import ModelsOption
from tta_server.cli.plots import check_plots, draw_load_curves
from tta_server.cli.sources import read_settings
from tta_server.errors import ConfigError, InvalidInput
from tta_server.serving.cores import available_cores
from tta_server.simulation.figures import Row, write_csv
from tta_server.simulation.forecast import Forecast, Target
from tta_server.simulation.pool import PoolSize
from tta_server.simulation.pool_scenario import MOST_SLOTS
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
    typer.Option(
        help="Numbers of slots: 1,2,4. Default: that of the scenario; else one of or beside a device, or one a core."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=MOST_SLOTS,
        help="Threads that decode and answer beside slots of a device. Default: those of the scenario; 0: slots do it.",
    ),
]
PoolOption = Annotated[
    str | None,
    typer.Option(help="In a scenario with several pools: the one that --slots, --workers and --find-slots are for."),
]
FindSlotsOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Find the fewest slots that answer this share of all requests within their budget; with a device, also "
        "the fewest workers beside these, unless --workers is given.",
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
    pool: PoolOption = None,
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
    found, varied = _with_options(read_scenario(scenario), pool, slots, workers, find_slots)
    all_loads = found.loads if loads is None else _read_loads(loads)
    sizes = _sizes(found, varied, slots)
    forecast = _prepare(found, read_settings(models=models).models)
    if find_slots is None:
        rows = _sweep(forecast, all_loads, sizes)
    else:
        rows = _find(forecast, all_loads, Target(find_slots, mean_views), varied, workers)
    _write(rows, to_csv, plot)
    if as_json:
        typer.echo(json.dumps([_without_nan(row) for row in rows], indent=2))
        return
    out.print(figure_table(rows, scenario.name))
    if find_slots is not None:
        for sentence in slots_sentences(rows, Target(find_slots, mean_views)):
            out.print(sentence)


def _with_options(
    scenario: Scenario, pool: str | None, slots: str | None, workers: int | None, find_slots: float | None
) -> tuple[Scenario, str]:
    """The scenario with this number of workers, and the pool that the options are for. Raises InvalidInput."""
    given = {"--slots": slots, "--workers": workers, "--find-slots": find_slots}
    options = [name for name, value in given.items() if value is not None]
    varied = _varied_pool(scenario, pool, options)
    if workers is None:
        return scenario, varied
    if workers == 0 and scenario.all_pools[varied].prepare_ms:
        raise InvalidInput(
            "--workers 0: the scenario has prepare_ms, which needs workers; give at least 1 or remove it"
        )
    return scenario.with_pool(varied, workers=workers, device=workers > 0), varied


def _varied_pool(scenario: Scenario, pool: str | None, options: Sequence[str]) -> str:
    """The pool of these options: that of --pool, the only one, or for --workers alone the only device."""
    pools = scenario.all_pools
    if pool is not None:
        if pool not in scenario.pools:
            known = f"known: {', '.join(scenario.pools)}" if scenario.pools else "the scenario has no pools"
            raise InvalidInput(f"--pool is {pool!r}; {known}")
        return pool
    devices = [name for name, found in pools.items() if found.is_device]
    able = devices if list(options) == ["--workers"] and devices else list(pools)
    if options and len(able) > 1:
        raise InvalidInput(f"{options[0]}: the scenario has the pools {', '.join(able)}; name one with --pool")
    return able[0]


def _sizes(scenario: Scenario, varied: str, slots: str | None) -> list[dict[str, PoolSize]]:
    """Of all pools, for each number of slots of the varied pool. Raises InvalidInput."""
    numbers = [] if slots is None else _read_slots(slots)
    points = [scenario.with_pool(varied, slots=number) for number in numbers] or [scenario]
    return [point.sizes(available_cores()) for point in points]


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


def _sweep(forecast: Forecast, loads: Sequence[float], sizes: Sequence[Mapping[str, PoolSize]]) -> list[Row]:
    """Figures at every load, for all these sizes of the pools."""
    points = [(load, size) for size in sizes for load in loads]
    rows: list[Row] = []
    with _progress(len(points)) as advance:
        for done, (load, size) in enumerate(points):
            rows += forecast.pool_rows(load, size, _on_arrival(forecast, load, done, advance))
            advance(done + 1)
    return rows


def _find(forecast: Forecast, loads: Sequence[float], target: Target, pool: str, workers: int | None) -> list[Row]:
    """Figures of this pool with the fewest slots at every load; of a device also workers, if none are given."""
    find_workers = workers is None and forecast.scenario.all_pools[pool].is_device
    with err.status("looking for the fewest slots ..."):
        return [row for load in loads for row in forecast.fewest(load, target, pool, find_workers)]


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


def _without_nan(row: Row) -> dict[str, str | float | None]:
    """JSON has no nan."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
