"""The deadline that a client's budget sets."""

import time
from dataclasses import dataclass

MAX_RESERVE_SHARE = 0.2
"""The largest share of a budget that the protocol may reserve for sending the answer."""

LAG_SHARE = 0.1
"""The largest share of a budget by which the event loop may be behind: a request waits for several of its passes."""
MIN_LAG, MAX_LAG = 0.02, 1.0
"""Seconds: no request is refused for a smaller lag, and every one for a larger one."""
MIN_WORK, WORK_SHARE = 0.005, 0.15
"""Seconds that the event loop may always, and share of a budget that it may at most, need for accepted requests."""


def largest_lag(budget: float) -> float:
    """The lag of the event loop above which a request with a budget of this number of seconds is refused."""
    return min(max(MIN_LAG, LAG_SHARE * budget), MAX_LAG)


def largest_work(budget: float) -> float:
    """The same of the seconds of work that the event loop has accepted and not yet done."""
    return min(max(MIN_WORK, WORK_SHARE * budget), MAX_LAG)


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
