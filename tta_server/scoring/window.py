"""How many requests are under way at a server at once. Pure: no clock, no threads."""

from math import inf

START = 1
TOLERANCE = 3.0
"""Answers that take this many times the shortest mean of a round show that requests wait at the server."""
SHRINK, HALF = 0.75, 0.5
"""Factors where answers take longer, and where a request was refused."""
REMEASURE = 200
"""Rounds after which the shortest mean is measured again: images and other clients' load change."""


class Window:
    """Additive increase, multiplicative decrease, between 1 and `most`.

    A round is as many answers as requests are allowed, all to requests sent since the limit last changed; so what
    follows from an old limit does not count twice. Up to the first decrease the limit doubles.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.round = 0
        self._measure()

    def _measure(self) -> None:
        self._limit = float(min(START, self._most))
        self._least, self._doubles, self._left = inf, True, REMEASURE
        self._begin()

    def _begin(self) -> None:
        self.round += 1
        self._seconds, self._answers = 0.0, 0

    @property
    def size(self) -> int:
        """Requests that may be under way."""
        return int(self._limit)

    def answered(self, sent_in: int, seconds: float) -> None:
        """A request that was sent in the round `sent_in` was answered after `seconds`."""
        if sent_in != self.round:
            return
        self._seconds, self._answers = self._seconds + seconds, self._answers + 1
        if self._answers < self.size:
            return
        mean = self._seconds / self._answers
        self._least, self._left = min(self._least, mean), self._left - 1
        if self._left <= 0:
            self._measure()
        elif mean > TOLERANCE * self._least:
            self._shrink(SHRINK)
        else:
            self._limit = min(float(self._most), self._limit * 2 if self._doubles else self._limit + 1)
            self._begin()

    def refused(self, sent_in: int) -> None:
        """A request that was sent in the round `sent_in` was refused, or its connection lost."""
        if sent_in == self.round:
            self._shrink(HALF)

    def _shrink(self, factor: float) -> None:
        self._limit, self._doubles = max(1.0, self._limit * factor), False
        self._begin()
