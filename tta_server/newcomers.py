"""Plain views that may arrive any moment: what an optional view should leave room for. Pure."""

from dataclasses import dataclass
from typing import TypeVar

from tta_server.jobs import Job
from tta_server.prices import Prices

W = TypeVar("W")
RECENT = 10.0
"""Seconds for which a model that was asked for is expected to be asked for again."""


@dataclass(slots=True)
class _Newcomer:
    """One more like the last: how long it may wait for a slot and still be answered within its model's default."""

    spare: float
    seen: float


class Newcomers:
    """The last job of each model stands for the next."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._last: dict[str, _Newcomer] = {}

    def met(self, job: Job[W], now: float) -> None:
        plain = sum(self._prices.views(job, 0, 1, now))
        alone = self._prices.decoding(job, now) + plain + self._prices.finishing(job, now)
        self._last[job.model] = _Newcomer(job.patience - alone, now)

    def patience(self, now: float) -> float:
        """Seconds for which all slots may be busy before one that arrives now would be late; those that would be late
        anyway don't count."""
        return min(
            (n.spare for n in self._last.values() if n.spare >= 0 and now - n.seen <= RECENT),
            default=float("inf"),
        )
