"""The figures of a simulation as a table and as sentences."""

from collections.abc import Iterator
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tta_server.scheduling.stopping import StopReason
from tta_server.simulation.figures import Row
from tta_server.simulation.forecast import Target

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


def figure_table(rows: list[Row], title: str) -> Table:
    """A line for each row; sizes of the pools that do not vary are in the title."""
    pools = {row["pool"]: None for row in rows if row["slots"] != ""}
    numbers = {(row["pool"], row["slots"]) for row in rows if row["slots"] != ""}
    varying = {"slots": len(numbers) > len(pools), "model": len({row["model"] for row in rows}) > 1}
    shown = {name: column for name, column in SHOWN.items() if varying.get(name, True)}
    if not varying["slots"]:
        sizes = {row["pool"]: _size(row) if row["pool"] else _slots(row) for row in rows if row["slots"] != ""}
        title += "".join(f", {pool}: {size}" if pool else f", {size}" for pool, size in sizes.items())
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, (heading, _) in shown.items():
        table.add_column(heading, justify="left" if name == "model" else "right", no_wrap=True, min_width=4)
    table.add_column("stopped by")
    for row in rows:
        figures = [form.format(row[name]).replace("nan%", "-").replace("nan", "-") for name, (_, form) in shown.items()]
        table.add_row(*figures, _stop_reasons(row), end_section=varying["model"] and row["model"] == "all")
    return table


def _slots(row: Row) -> str:
    return f"{row['slots']} slot{'s' * (row['slots'] != 1)}"


def _size(row: Row) -> str:
    """The slots of its pool, and the workers if there are any."""
    return _slots(row) + (f" and {row['workers']} worker{'s' * (row['workers'] != 1)}" if row["workers"] else "")


def _stop_reasons(row: Row) -> str:
    """Those of at least 1 % of all answers, the most frequent first."""
    counts = {str(reason): float(row[f"stop_{reason}"]) for reason in StopReason}
    answered = sum(counts.values())
    frequent = sorted((-n / answered, name) for name, n in counts.items() if n >= 0.01 * answered > 0)
    return ", ".join(f"{name} {-share:.0%}" for share, name in frequent) or "-"


def slots_sentences(rows: list[Row], target: Target) -> Iterator[str]:
    """What was found, one sentence for each load."""
    views = f", with {target.mean_views:g} views on average" if target.mean_views else ""
    what = f"{target.share:.4g} of all requests in time{views}"
    for load, group in groupby(rows, key=lambda row: row["load"]):
        found = list(group)
        where = f" of {found[0]['pool']}" if found[0]["pool"] else ""
        if all(target.is_met(row) for row in found):
            yield (f"{load:g}x: {_size(found[0])}{where} answer {what}.")
        else:
            yield (f"{load:g}x: not even {_size(found[0])}{where} answer {what}.")
