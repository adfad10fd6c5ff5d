"""Plain views that may arrive any moment: what an optional view should leave room for. Pure."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from tta_server.scheduling.jobs import Job

W = TypeVar("W")
RECENT = 10.0
"""Seconds for which a model that was asked for is expected to be asked for again."""


@dataclass(slots=True)
class ExpectedArrival:
    """One more like the last: its budget, its model's default, and how long it may wait for a slot and keep it."""

    budget: float
    slack: float
    seen: float


class ExpectedArrivals:
    """The last job of each model stands for the next."""

    def __init__(self) -> None:
        self._last: dict[str, ExpectedArrival] = {}

    def observe(self, job: Job[W], plain: float, now: float) -> None:
        """An admitted job; its decoding, its plain view and an answer of that take `plain` seconds."""
        self._last[job.model] = ExpectedArrival(job.default_budget, job.default_budget - plain, now)

    def expected(self, now: float) -> Iterator[ExpectedArrival]:
        """One of each model met lately, except those that would be late on an idle pool too, or never."""
        for newcomer in self._last.values():
            if 0 <= newcomer.slack < math.inf and now - newcomer.seen <= RECENT:
                yield newcomer
