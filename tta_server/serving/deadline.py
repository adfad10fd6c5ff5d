"""The deadline that a client's budget sets."""

import time
from dataclasses import dataclass

MAX_RESERVE_SHARE = 0.2
"""The largest share of a budget that the protocol may reserve for sending the answer."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A budget in ms that counts from `start`, in seconds of the monotonic clock.

    The protocol needs `reserve` seconds of it to send the answer.
    """

    start: float
    budget_ms: float
    reserve: float = 0.0

    @classmethod
    def after(cls, budget_ms: float, reserve: float = 0.0, start: float | None = None) -> "Deadline":
        """A budget that counts from `start`, by default from now."""
        return cls(
            time.monotonic() if start is None else start, budget_ms, min(reserve, MAX_RESERVE_SHARE * budget_ms / 1e3)
        )

    @property
    def at(self) -> float:
        """When the answer has to be made, in seconds of the monotonic clock."""
        return self.start + self.budget_ms / 1e3 - self.reserve
