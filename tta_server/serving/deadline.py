"""A client sends a budget; code carries a deadline."""

import time
from dataclasses import dataclass

MAX_RESERVE_SHARE = 0.2
"""The share of a budget that its door may take."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """`start` in seconds of the monotonic clock, the budget from then on, and the seconds of it that the door needs to
    hand the answer out."""

    start: float
    budget_ms: float
    reserve: float = 0.0

    @classmethod
    def after(cls, budget_ms: float, reserve: float = 0.0, start: float | None = None) -> "Deadline":
        """From `start` on, else from now."""
        return cls(
            time.monotonic() if start is None else start, budget_ms, min(reserve, MAX_RESERVE_SHARE * budget_ms / 1e3)
        )

    @property
    def at(self) -> float:
        """When the answer has to be made."""
        return self.start + self.budget_ms / 1e3 - self.reserve
