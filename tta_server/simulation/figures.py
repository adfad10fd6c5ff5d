"""Figures of a simulation, under the names that `loadtest` gives to what it measures."""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tta_server.errors import Cancelled, DeadlineExceeded, Overloaded
from tta_server.scheduling.stopping import StopReason
from tta_server.simulation.jobs import SimulatedJob
from tta_server.simulation.pool import SimulatedPool

Row = dict[str, str | float]
"""One point by the names of COLUMNS; a share or a quantile of nothing is nan."""

LATE = 1e-6
"""Seconds by which rounding may make an answer look late."""

COLUMNS = {
    "model": "the traffic's name, else its model; all: all traffic together",
    "mode": "simulated",
    "phase": "sweep",
    "stop": "the requested stop rule",
    "budget_ms": "the budget of every request",
    "max_views": "K, the largest number of views requested",
    "pool": "of the model, whose slots, workers and busy_share these are; empty: the only one, or all together",
    "slots": "of the pool",
    "workers": "beside the slots, to decode and to make answers; 0: the slots do that",
    "closed_per_s": "answers/s with all K views if no slot was ever idle",
    "load": "multiple of the scenario's own rates",
    "seconds": "for which requests arrived",
    "offered": "requests that arrived",
    "offered_per_s": "the same in a second",
    "admitted": "offered, less refused, invalid and left",
    "answered": "with a prediction",
    "in_budget": "answered within the budget, counted from arrival",
    "slo": "in_budget / admitted",
    "goodput_per_s": "in_budget in a second",
    "goodput_share": "in_budget / offered",
    "mean_views": "mean K: merged views per answer",
    "agreement": "share of answers with the top class of all K views; nan without margins",
    "latency_p50_ms": "median latency of answers, counted from arrival",
    "latency_p99_ms": "99th percentile of the same",
    "refused": "for overload",
    "refused_share": "refused / offered",
    "too_late": "admitted, but the mandatory views were not merged by the deadline",
    "invalid": "whose budget even an idle pool could not keep, or whose image is too large",
    "left": "whose clients disconnected before the answer",
    "busy_share": "share of the slots' time in which they worked",
    "mean_batch": "views in a batch",
    **{f"stop_{reason}": "answers by stop reason, one column each" for reason in StopReason},
}
"""Every column of the CSV and its meaning."""


def figures(jobs: Sequence[SimulatedJob], seconds: float) -> Row:
    """Of jobs that arrived within `seconds`."""
    answered = [job for job in jobs if isinstance(job.outcome, StopReason)]
    in_budget = sum(job.latency <= job.request.spec.budget + LATE for job in answered)
    errors = Counter(type(job.outcome) for job in jobs)
    refused, left, too_late = errors[Overloaded], errors[Cancelled], errors[DeadlineExceeded]
    admitted = len(answered) + too_late
    reasons = Counter(job.outcome for job in answered)
    return {
        "offered": len(jobs),
        "offered_per_s": _ratio(len(jobs), seconds),
        "admitted": admitted,
        "answered": len(answered),
        "in_budget": in_budget,
        "slo": _ratio(in_budget, admitted),
        "goodput_per_s": _ratio(in_budget, seconds),
        "goodput_share": _ratio(in_budget, len(jobs)),
        "mean_views": _ratio(sum(job.merged for job in answered), len(answered)),
        "agreement": _agreement(answered),
        "latency_p50_ms": quantile((job.latency * 1e3 for job in answered), 0.5),
        "latency_p99_ms": quantile((job.latency * 1e3 for job in answered), 0.99),
        "refused": refused,
        "refused_share": _ratio(refused, len(jobs)),
        "too_late": too_late,
        "invalid": len(jobs) - admitted - refused - left,
        "left": left,
        **{f"stop_{reason}": reasons[reason] for reason in StopReason},
    }


def pool_figures(name: str, pool: SimulatedPool, jobs: Sequence[SimulatedJob]) -> Row:
    """Size, capacity and use of a pool, whose jobs these are."""
    slots = pool.size.slots
    return {
        "pool": name,
        "slots": slots,
        "workers": pool.size.workers,
        "closed_per_s": _ratio(len(jobs), pool.least_seconds([job.request.spec for job in jobs])),
        "busy_share": _ratio(pool.busy, slots * pool.now),
        "mean_batch": _ratio(pool.batched_views, pool.batches),
    }


def _agreement(answered: Sequence[SimulatedJob]) -> float:
    known = [job for job in answered if job.request.image.labels]
    return _ratio(sum(job.agrees for job in known), len(known))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; nan for no values."""
    found = sorted(values)
    return found[max(0, math.ceil(share * len(found)) - 1)] if found else math.nan


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """A line for each point. Raises OSError."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
