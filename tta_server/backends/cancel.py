"""Asks a run on another thread to end."""

import logging
import threading
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)


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


def request_all(aborts: Iterable[Abort]) -> None:
    """Requests each; a backend that can't end its run does not keep the others from ending."""
    for abort in aborts:
        try:
            abort.request()
        except Exception:
            log.exception("a run could not be ended")
