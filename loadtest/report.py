"""From requests to the figures of a point: one row of the CSV and of the table."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from loadtest.cases import Case
from loadtest.generator import Shot

Row = dict[str, str | float]
"""A point's figures by the names of COLUMNS; a share or a quantile of no values is nan."""

COLUMNS = {
    "model": "the model",
    "mode": "adaptive: 1 to K views, as load allows; fixed: all K or no answer (stop=all&min_views=all)",
    "phase": "sweep; or before, burst and after",
    "stop": "the stop rule of the requests",
    "budget_ms": "the budget of every request",
    "max_views": "K, the most views an answer may have",
    "slots": "the server's slots; empty: its default, or a server that was running already",
    "closed_per_s": "answers/s of a closed loop of 8 connections with all K views, measured in this run: load 1",
    "load": "mean rate of the arrivals, as a multiple of closed_per_s",
    "seconds": "length of the period of arrivals",
    "offered": "requests that arrived",
    "offered_per_s": "the same per second",
    "admitted": "offered without the refused (429), not_ready (503) and invalid (400)",
    "answered": "answers with status 200",
    "in_budget": "of them within the budget by the client's clock, from the intended send time",
    "in_budget_by_receipt": "of them with receipt.elapsed_ms within the budget",
    "slo": "in_budget / admitted",
    "slo_by_receipt": "in_budget_by_receipt / admitted",
    "goodput_per_s": "in_budget per second of arrivals",
    "goodput_share": "in_budget / offered",
    "mean_views": "mean K: views merged, over all answered",
    "latency_p50_ms": "of answered, from the intended send time",
    "latency_p99_ms": "the same, 99 of 100",
    "refused": "429 overloaded",
    "refused_share": "refused / offered",
    "refusal_p50_ms": "latency of a refusal from its actual send time",
    "refusal_p99_ms": "the same, 99 of 100",
    "refusal_intended_p50_ms": "latency of a refusal from its intended send time",
    "refusal_intended_p99_ms": "the same, 99 of 100",
    "too_late": "504 deadline_exceeded",
    "backend_failed": "502",
    "not_ready": "503",
    "invalid": "400",
    "other": "any other status",
    "lost": "no answer within the budget and 2 s more, or the connection broke",
    "send_late_p99_ms": "how late the generator sent; do not trust the point if over 5",
    "recovery_s": "after a burst: seconds until mean K had recovered; empty otherwise",
    "stop_all_views": "answered, by receipt.stop_reason: one column each",
    "stop_deadline": "",
    "stop_capacity": "",
    "stop_backend_failed": "",
}
"""Every column and its meaning; stop reasons beyond these get a column of their own."""

STATUSES = {429: "refused", 504: "too_late", 502: "backend_failed", 503: "not_ready", 400: "invalid", 0: "lost"}
NOT_ADMITTED = (429, 503, 400)
LATE_MS = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request's outcome. `status` 0: no answer. Latencies in ms; figures of the receipt only with status 200."""

    intended: float
    status: int
    latency_ms: float
    sent_latency_ms: float
    late_ms: float
    views: int = 0
    elapsed_ms: float = math.nan
    stop_reason: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """One load of a run; `load` in multiples of `closed_per_s`."""

    case: Case
    mode: str
    phase: str
    slots: int | None
    closed_per_s: float
    load: float
    seconds: float

    @property
    def per_s(self) -> float:
        return self.closed_per_s * self.load

    def settings(self) -> Row:
        case, stop = self.case, "all" if self.mode == "fixed" else self.case.stop
        row: Row = {"model": case.model, "mode": self.mode, "phase": self.phase, "stop": stop}
        row |= {"budget_ms": case.budget_ms, "max_views": case.views, "slots": self.slots or ""}
        return row | {"closed_per_s": self.closed_per_s, "load": self.load, "seconds": self.seconds}


def outcome(shot: Shot) -> Outcome:
    head, _, body = shot.answer.partition(b"\r\n\r\n")
    status = int(head[9:12]) if head else 0
    times = (shot.ended - shot.intended, shot.ended - shot.sent, shot.sent - shot.intended)
    latency, sent_latency, late = (seconds * 1e3 for seconds in times)
    if status != 200:
        return Outcome(shot.intended, status, latency, sent_latency, late)
    receipt = json.loads(body)["receipt"]
    views, elapsed = len(receipt["views"]), float(receipt["elapsed_ms"])
    return Outcome(shot.intended, status, latency, sent_latency, late, views, elapsed, receipt["stop_reason"])


def row(point: Point, outcomes: Sequence[Outcome]) -> Row:
    """The point's row of the CSV."""
    answered = [found for found in outcomes if found.status == 200]
    refused = [found for found in outcomes if found.status == 429]
    return {
        **point.settings(),
        **_rates(point, outcomes, answered),
        "mean_views": _share(sum(found.views for found in answered), len(answered)),
        **_quantiles("latency", [found.latency_ms for found in answered]),
        **_statuses(outcomes),
        "refused_share": _share(len(refused), len(outcomes)),
        **_quantiles("refusal", [found.sent_latency_ms for found in refused]),
        **_quantiles("refusal_intended", [found.latency_ms for found in refused]),
        "send_late_p99_ms": quantile([found.late_ms for found in outcomes if found.late_ms == found.late_ms], 0.99),
        "recovery_s": "",
        **{f"stop_{name}": float(n) for name, n in Counter(found.stop_reason for found in answered).items()},
    }


def _rates(point: Point, outcomes: Sequence[Outcome], answered: Sequence[Outcome]) -> Row:
    offered, budget = len(outcomes), point.case.budget_ms
    admitted = sum(found.status not in NOT_ADMITTED for found in outcomes)
    in_budget = sum(found.latency_ms <= budget for found in answered)
    by_receipt = sum(found.elapsed_ms <= budget for found in answered)
    return {
        "offered": offered,
        "offered_per_s": offered / point.seconds,
        "admitted": admitted,
        "answered": len(answered),
        "in_budget": in_budget,
        "in_budget_by_receipt": by_receipt,
        "slo": _share(in_budget, admitted),
        "slo_by_receipt": _share(by_receipt, admitted),
        "goodput_per_s": in_budget / point.seconds,
        "goodput_share": _share(in_budget, offered),
    }


def _statuses(outcomes: Sequence[Outcome]) -> Row:
    counts = Counter(STATUSES.get(found.status, "other") for found in outcomes if found.status != 200)
    return {name: counts[name] for name in (*STATUSES.values(), "other")}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _quantiles(name: str, values: Iterable[float]) -> Row:
    found = sorted(values)
    return {f"{name}_p50_ms": quantile(found, 0.5), f"{name}_p99_ms": quantile(found, 0.99)}


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; nan if there are none."""
    found = sorted(values)
    return found[max(0, math.ceil(share * len(found)) - 1)] if found else math.nan


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One row for each point, columns in the order of COLUMNS; missing counts of stop reasons are 0."""
    extra = sorted({name for row in rows for name in row} - set(COLUMNS))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *extra], restval=0)
        writer.writeheader()
        writer.writerows(_rounded(row) for row in rows)


def _rounded(row: Row) -> Row:
    return {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}


def read_csv(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


SUMMARY = {
    "goodput_per_s": "goodput {:.1f}/s",
    "slo": "SLO {:.1%}",
    "mean_views": "mean K {:.2f}",
    "refused_share": "refused {:.1%}",
    "invalid": "{} times 400",
    "too_late": "{} times 504",
    "lost": "{} lost",
}
"""What is printed after each point, but for values that are 0 or nan."""


def sentence(row: Row) -> str:
    return ", ".join(form.format(row[name]) for name, form in SUMMARY.items() if row[name] and row[name] == row[name])


SHOWN = {
    "phase": ("phase", "{}"),
    "mode": ("mode", "{}"),
    "load": ("load", "{:.3g}x"),
    "offered_per_s": ("offered\n/s", "{:.1f}"),
    "goodput_per_s": ("goodput\n/s", "{:.1f}"),
    "slo": ("SLO", "{:.1%}"),
    "slo_by_receipt": ("SLO by\nreceipt", "{:.1%}"),
    "mean_views": ("mean\nK", "{:.2f}"),
    "refused_share": ("refused", "{:.1%}"),
    "latency_p50_ms": ("p50\nms", "{:.0f}"),
    "latency_p99_ms": ("p99\nms", "{:.0f}"),
    "refusal_p99_ms": ("refusal\np99 ms", "{:.1f}"),
    "invalid": ("400", "{}"),
    "too_late": ("504", "{}"),
    "lost": ("lost", "{}"),
    "send_late_p99_ms": ("sent\nlate ms", "{:.1f}"),
    "recovery_s": ("K back\nin s", "{}"),
}
"""The columns of the table: head and format."""
IN_BURSTS = ("phase", "recovery_s")


def table(rows: Sequence[Row]) -> Table:
    """One model's points."""
    first, burst = rows[0], rows[0]["phase"] != "sweep"
    title = f"{first['model']}: K = {first['max_views']}, budget {first['budget_ms']:g} ms, stop {first['stop']}"
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = {name: look for name, look in SHOWN.items() if burst or name not in IN_BURSTS}
    for name, (head, _) in columns.items():
        shown.add_column(head, justify="left" if name in ("mode", "phase") else "right", overflow="fold")
    for entry in rows:
        shown.add_row(*(written(form, entry[name]) for name, (_, form) in columns.items()))
    return shown


def written(form: str, value: str | float) -> str:
    """The value in that format; a dash for nan."""
    return "-" if value != value else form.format(value)
