"""Mean and deviation of what some work took lately, without stalls of the machine. Pure."""

from collections import deque
from collections.abc import Iterable
from itertools import islice
from math import sqrt

MEAN_WINDOW = 64
"""Observations from which mean and deviation are taken."""
MIN_FOR_MEAN = 3
"""The fewest observations whose mean replaces the warm-up value."""
STALL_FACTOR = 3.0
"""An observation over this many means is a stall of the machine, and left out."""
CHANGE_SECONDS = 0.05
"""MIN_FOR_MEAN stalls in a row over a longer time are a change of the cost: one stall meets a step of every slot.

As many observations that are as far below the mean are a change at once.
"""
LAST = 8
"""A run of this many observations on one side of the mean, by more than chance, is a change of the cost too."""
CHANCE = 3.0
"""Standard deviations by which means differ by chance."""


class RecentMean:
    """Mean and standard deviation of recent observations; first a given mean and no deviation.

    A single long observation counts as a stall. After a change of the cost, observations from before are discarded.
    """

    __slots__ = ("_far", "_far_since", "_low", "_origin", "_squares", "_sum", "_values", "deviation", "mean")

    def __init__(self, mean: float) -> None:
        self.mean = mean
        self.deviation = 0.0
        self._far: list[float] = []
        """The last observations in a row that seem to be stalls."""
        self._far_since = 0.0
        self._low: list[float] = []
        """The last ones in a row that are as far below: the cost has fallen, or stalls were taken for a change."""
        self._restart(())

    def decay(self, towards: float, left: float) -> None:
        """Discards the observations; of mean and deviation a share is left, until there are enough new ones."""
        self.mean = towards + (self.mean - towards) * left
        self.deviation *= left
        self._far.clear()
        self._low.clear()
        self._restart(())

    def observe(self, value: float, now: float) -> None:
        """Records an observation at that time, in seconds."""
        if value > STALL_FACTOR * self.mean:
            if not self._far:
                self._far_since = now
            self._far.append(value)
            if len(self._far) < MIN_FOR_MEAN or now - self._far_since <= CHANGE_SECONDS:
                return
            self._restart(self._far)
        elif value * STALL_FACTOR < self.mean:
            self._low.append(value)
            if len(self._low) < MIN_FOR_MEAN:
                return
            self._restart(self._low)
        else:
            self._add(value)
        self._far.clear()
        self._low.clear()
        count = len(self._values)
        if count >= 2 * LAST and self._has_changed(count - LAST):
            self._restart(list(islice(self._values, count - LAST, count)))
            count = LAST
        if count >= MIN_FOR_MEAN:
            self.mean = self._origin + self._sum / count
            self.deviation = _deviation(self._sum, self._squares, count)

    def _has_changed(self, before: int) -> bool:
        """True if the LAST observations are all on one side of the mean of the `before` others, and far from it."""
        last = [value - self._origin for value in islice(self._values, before, None)]
        total, squares = sum(last), sum(value * value for value in last)
        deviation = _deviation(self._sum - total, self._squares - squares, before)
        mean = (self._sum - total) / before
        if min(last) < mean < max(last):
            return False
        return abs(total / LAST - mean) > CHANCE * deviation * sqrt(1 / LAST + 1 / before) + 1e-9 * self.mean

    def _restart(self, values: Iterable[float]) -> None:
        """Sums are of differences from the first value, so that the mean of equal values is exactly that value."""
        self._values: deque[float] = deque()
        self._origin = self._sum = self._squares = 0.0
        for value in values:
            self._add(value)

    def _add(self, value: float) -> None:
        if not self._values:
            self._origin = value
        if len(self._values) == MEAN_WINDOW:
            oldest = self._values.popleft() - self._origin
            self._sum -= oldest
            self._squares -= oldest * oldest
        self._values.append(value)
        difference = value - self._origin
        self._sum += difference
        self._squares += difference * difference


def _deviation(total: float, squares: float, count: int) -> float:
    return sqrt(max(0.0, squares - total * total / count) / count)
