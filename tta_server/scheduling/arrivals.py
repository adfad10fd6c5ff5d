"""Jobs that may arrive at any moment, for whose plain views optional views should leave room. Pure."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from tta_server.scheduling.jobs import Job

W = TypeVar("W")
RECENT_SECONDS = 10.0
"""A model whose last job is older than this is not expected to get another."""
GIVE_WAY_SECONDS = 0.5
"""After a refusal for lack of time, optional views leave room for this long: more jobs than usual come at once."""


@dataclass(slots=True)
class ExpectedArrival:
    """Another job like a model's last one; all in seconds.

    `budget` is the model's default budget, `slack` how long the job may wait for a slot, `seen` when the last one came.
    """

    budget: float
    slack: float
    seen: float


class ExpectedArrivals:
    """Predicts each model's next job from its last one, and whether more jobs come than can be admitted."""

    def __init__(self) -> None:
        self._last: dict[str, ExpectedArrival] = {}
        self._refused_at = -math.inf

    def refuse(self, now: float) -> None:
        """Records that a job was refused for lack of time."""
        self._refused_at = now

    def are_crowded(self, now: float) -> bool:
        """True if a job was refused for lack of time in the last GIVE_WAY_SECONDS."""
        return now - self._refused_at < GIVE_WAY_SECONDS

    def observe(self, job: Job[W], plain: float, now: float) -> None:
        """Records an admitted job; decoding, the plain view and the answer take `plain` seconds."""
        self._last[job.model] = ExpectedArrival(job.default_budget, job.default_budget - plain, now)

    def expected(self, now: float) -> Iterator[ExpectedArrival]:
        """One arrival for each model with a recent job, if it has a deadline that an idle pool meets."""
        for arrival in self._last.values():
            if 0 <= arrival.slack < math.inf and now - arrival.seen <= RECENT_SECONDS:
                yield arrival
