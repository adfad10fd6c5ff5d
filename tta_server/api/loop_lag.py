"""How far the event loop is behind: the lateness of a repeating timer, and the work that it has just accepted."""

import asyncio
import time

PERIOD = 0.01
"""Seconds between two readings."""
DECAY = 0.98
"""Of the sums that the cost of a request is learnt from, at each reading."""
KNOWN_REQUESTS = 10
"""Requests, decayed, from which on the cost is taken for known."""


class LagMeter:
    """Computes the lag from the times that its methods are given, in seconds.

    A reading is the time from when the timer was due to when it fired.
    """

    def __init__(self, now: float) -> None:
        self._due = now + PERIOD
        self._last = 0.0
        self._before = 0.0

    def fired(self, now: float) -> None:
        """The timer has fired and is started again."""
        self._before, self._last = self._last, max(0.0, now - self._due)
        self._due = now + PERIOD

    def lag(self, now: float) -> float:
        """The smaller of the last two readings, so that one slow callback alone is no lag.

        A timer that is overdue counts as a reading as soon as it is later than the one before the last.
        """
        return max(0.0, min(self._last, max(self._before, now - self._due)))


class WorkMeter:
    """Seconds that the event loop needs for the requests whose heads it has just accepted.

    One pass of the loop reads the heads of all requests that have arrived; the next ones parse and submit them. So the
    lag shows their work too late: after many of them have been accepted at once.
    """

    def __init__(self) -> None:
        self._before = 0
        self._now = 0
        self._seconds = 0.0
        self._requests = 0.0

    def accepted(self) -> None:
        self._now += 1

    def read(self, seconds: float) -> None:
        """A reading: the loop's thread has used `seconds` of a core since the last one, for whatever it did."""
        self._seconds = DECAY * (self._seconds + seconds)
        self._requests = DECAY * (self._requests + self._now)
        self._before, self._now = self._now, 0

    @property
    def is_known(self) -> bool:
        """True if enough requests came for their cost to be known."""
        return self._requests >= KNOWN_REQUESTS

    def ahead(self) -> float:
        """Seconds of work of those accepted since the reading before the last; 0 while the cost is unknown."""
        if not self.is_known:
            return 0.0
        return (self._before + self._now) * self._seconds / self._requests


class LoopLag:
    """The lag and the work of one event loop, zero until `start`."""

    def __init__(self) -> None:
        self.work = WorkMeter()
        self._meter: LagMeter | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._used = 0.0

    def start(self) -> None:
        """Measure the running loop."""
        self._meter, self._used = LagMeter(time.monotonic()), time.thread_time()
        self._start_timer(asyncio.get_running_loop())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._meter = self._timer = None

    def seconds(self) -> float:
        """The lag now; any thread may ask."""
        meter = self._meter
        return 0.0 if meter is None else meter.lag(time.monotonic())

    def _start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(PERIOD, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._meter is not None:
            self._meter.fired(time.monotonic())
            before, self._used = self._used, time.thread_time()
            self.work.read(self._used - before)
            self._start_timer(loop)
