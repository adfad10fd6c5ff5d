"""Asks a run on another thread to end."""

import threading
from collections.abc import Callable


class Abort:
    """What runs says how it is ended; whoever loses patience requests it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end: Callable[[], None] | None = None
        self.requested = False

    def ends_by(self, end: Callable[[], None]) -> None:
        """Called from the thread that asks, or at once if that was earlier."""
        with self._lock:
            self._end = end
            late = self.requested
        if late:
            end()

    def request(self) -> None:
        with self._lock:
            self.requested = True
            end = self._end
        if end is not None:
            end()
