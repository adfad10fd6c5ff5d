"""Virtual time: what happens when. Pure."""

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Any

from tta_server.simulation.machine import Machine


class Events:
    """Actions in order of time; those of one moment in the order in which they were added. Times are in seconds.

    `machine` is the one on which all of it happens.
    """

    def __init__(self, machine: Machine | None = None) -> None:
        self.now = 0.0
        self.machine = machine or Machine()
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._order = count()

    def at(self, time: float, action: Callable[[Any], None], argument: Any) -> None:
        """Adds an action, which gets this argument."""
        heapq.heappush(self._heap, (time, next(self._order), action, argument))

    @property
    def next_at(self) -> float:
        """When the next action is; infinite without one."""
        return self._heap[0][0] if self._heap else math.inf

    def run_next(self) -> None:
        """Moves the time to the next action, and does it."""
        self.now, _, action, argument = heapq.heappop(self._heap)
        action(argument)
