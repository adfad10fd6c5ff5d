"""A client sends a budget; code carries a deadline."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """`start` in seconds of the monotonic clock, and the budget from then on."""

    start: float
    budget_ms: float

    @classmethod
    def after(cls, budget_ms: float) -> "Deadline":
        return cls(time.monotonic(), budget_ms)

    @property
    def at(self) -> float:
        return self.start + self.budget_ms / 1e3
