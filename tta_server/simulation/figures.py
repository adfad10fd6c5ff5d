"""What simulated visits came to, under the names that `loadtest` gives to what it measures."""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tta_server.errors import Cancelled, DeadlineExceeded, Overloaded
from tta_server.scheduling.stopping import StopReason
from tta_server.simulation.pool import Simulation
from tta_server.simulation.visits import SimulatedJob

Row = dict[str, str | float]
"""One point by the names of COLUMNS; a share or a quantile of nothing is nan."""

LATE = 1e-6
"""Seconds by which an answer may seem to be late through rounding."""

COLUMNS = {
    "model": "whose traffic: its name, else its model; all: everything together",
    "mode": "simulated",
    "phase": "sweep",
    "stop": "the stop rule asked for",
    "budget_ms": "the budget of every request",
    "max_views": "K, the most views asked for",
    "slots": "of the pool",
    "closed_per_s": "answers/s with all K views if no slot ever waited",
    "load": "multiple of the scenario's own rates",
    "seconds": "how long requests arrived",
    "offered": "requests that arrived",
    "offered_per_s": "the same in a second",
    "admitted": "offered without the refused, the invalid and those whose clients left",
    "answered": "with a prediction",
    "in_budget": "of them within the budget, from arrival on",
    "slo": "in_budget / admitted",
    "goodput_per_s": "in_budget in a second",
    "goodput_share": "in_budget / offered",
    "mean_views": "mean K: views merged, over all answered",
    "agreement": "share of answers whose top class is that of all K views; nan without margins",
    "latency_p50_ms": "of answered, from arrival on",
    "latency_p99_ms": "the same, 99 of 100",
    "refused": "overloaded",
    "refused_share": "refused / offered",
    "too_late": "admitted, but without the mandatory views by the deadline",
    "invalid": "with a budget that even an idle pool could not keep, or too large",
    "left": "clients that hung up before their answer",
    "busy_share": "of the slots' time, how much they worked",
    "mean_batch": "views in a batch",
    **{f"stop_{reason}": "answered, by stop reason: one column each" for reason in StopReason},
}
"""Every column of the CSV and its meaning."""


def figures(visits: Sequence[SimulatedJob], seconds: float) -> Row:
    """Of requests that arrived within so many seconds."""
    answered = [visit for visit in visits if isinstance(visit.outcome, StopReason)]
    in_budget = sum(visit.latency <= visit.request.ask.budget + LATE for visit in answered)
    errors = Counter(type(visit.outcome) for visit in visits)
    refused, left, too_late = errors[Overloaded], errors[Cancelled], errors[DeadlineExceeded]
    admitted = len(answered) + too_late
    reasons = Counter(visit.outcome for visit in answered)
    return {
        "offered": len(visits),
        "offered_per_s": _ratio(len(visits), seconds),
        "admitted": admitted,
        "answered": len(answered),
        "in_budget": in_budget,
        "slo": _ratio(in_budget, admitted),
        "goodput_per_s": _ratio(in_budget, seconds),
        "goodput_share": _ratio(in_budget, len(visits)),
        "mean_views": _ratio(sum(visit.merged for visit in answered), len(answered)),
        "agreement": _agreement(answered),
        "latency_p50_ms": quantile((visit.latency * 1e3 for visit in answered), 0.5),
        "latency_p99_ms": quantile((visit.latency * 1e3 for visit in answered), 0.99),
        "refused": refused,
        "refused_share": _ratio(refused, len(visits)),
        "too_late": too_late,
        "invalid": len(visits) - admitted - refused - left,
        "left": left,
        **{f"stop_{reason}": reasons[reason] for reason in StopReason},
    }


def pool_figures(pool: Simulation, slots: int, visits: Sequence[SimulatedJob]) -> Row:
    """What the slots did while they had work to do."""
    whole = sum(pool.costs[visit.request.ask.model].whole(visit.request.ask.views) for visit in visits)
    return {
        "closed_per_s": _ratio(slots * len(visits), whole),
        "busy_share": _ratio(pool.busy, slots * pool.now),
        "mean_batch": _ratio(pool.batched, pool.batches),
    }


def _agreement(answered: Sequence[SimulatedJob]) -> float:
    known = [visit for visit in answered if visit.request.image.labels]
    return _ratio(sum(visit.agrees for visit in known), len(known))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; nan of nothing."""
    found = sorted(values)
    return found[max(0, math.ceil(share * len(found)) - 1)] if found else math.nan


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line a point. Raises OSError."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
