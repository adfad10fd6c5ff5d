"""The decisions of histories as digests, to show that a pool decides as it did when they were recorded."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.histories import drawn
from tests.support.simulator import Pool, Step
from tta_server.scheduling.jobs import Batch
from tta_server.scheduling.scheduler import Scheduler

SEED = "recorded"
FILE = Path(__file__).parents[1] / "scheduling" / "decisions.txt"
"""One digest a line, of the histories of SEED from number 0 on."""


def digest(number: int, scheduler: type[Scheduler[Any]] = Scheduler) -> str:
    """Return 16 hexadecimal digits of all that a pool decides in one of the recorded histories."""
    history = drawn(SEED, number)
    pool = history.pool(scheduler)
    pool.run(history.arrivals)
    return hashlib.sha256("\n".join(_lines(pool)).encode()).hexdigest()[:16]


def _lines(pool: Pool) -> Iterator[str]:
    for at, step in pool.steps:
        yield f"{at:.9f} {_describe(step)}"
    for record in pool.records:
        refused = "" if record.refused is None else f"{type(record.refused).__name__}: {record.refused}"
        if (seconds := getattr(record.refused, "retry_after", None)) is not None:
            refused += f" {seconds:.9f}"
        answers = "; ".join(f"{at:.9f} {outcome}" for at, outcome in record.answers)
        yield f"{record.number} {refused} {answers} {record.job.progress.merged:b}"


def _describe(step: "Step[Any]") -> str:
    """Return a step's kind, its slot, its jobs and views, and its estimate."""
    estimate = f"{step.estimate:.9f}"
    if isinstance(step, Batch):
        views = " ".join(f"{job.payload.number}:{view}" for job, view in step.items)
        return f"batch {step.slot} {views} {estimate} {step.is_risky}"
    return f"{type(step).__name__} {step.slot} {step.job.payload.number} {estimate}"


def recorded() -> list[str]:
    return FILE.read_text("ascii").split()


if __name__ == "__main__":
    FILE.write_text("".join(f"{digest(number)}\n" for number in range(2000)), "ascii")
