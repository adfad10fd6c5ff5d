"""Plain views that may arrive any moment: what an optional view should leave room for. Pure."""

import math
from dataclasses import dataclass
from typing import TypeVar

from tta_server.jobs import Job

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

    def __init__(self) -> None:
        self._last: dict[str, _Newcomer] = {}

    def met(self, job: Job[W], plain: float, now: float) -> None:
        """An admitted job; its decoding, its plain view and an answer of that take `plain` seconds."""
        self._last[job.model] = _Newcomer(job.patience - plain, now)

    def patience(self, now: float) -> float:
        """Seconds for which all slots may be busy before one that arrives now would be late; those that would be late
        anyway don't count."""
        lasts = self._last.values()
        return min((n.spare for n in lasts if n.spare >= 0 and now - n.seen <= RECENT), default=math.inf)
