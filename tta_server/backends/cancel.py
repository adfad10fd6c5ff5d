"""Abort a run on another thread."""

import logging
import math
import threading
from collections.abc import Callable, Iterable, Sequence

log = logging.getLogger(__name__)


class Abort:
    """A request to abort one run: the run registers a callback, another thread requests the abort. Thread-safe.

    `deadline`, in monotonic seconds, is when the run is of no use any more, whether somebody requests the abort or not.
    `headers` are for a backend that calls another server: the trace context of the run.
    `is_unwanted` is true if the run is aborted because all its clients have left, which is no fault of the model.
    """

    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self.headers: Sequence[tuple[str, str]] = ()
        self._lock = threading.Lock()
        self._callback: Callable[[], object] | None = None
        self.requested = False
        self.is_unwanted = False

    def on_request(self, callback: Callable[[], object]) -> None:
        """Register `callback`: it is called by the thread that requests the abort, or now if that happened already."""
        with self._lock:
            self._callback = callback
            requested = self.requested
        if requested:
            callback()

    def request(self) -> None:
        """Request the abort and call the registered callback; no lock is held during the call."""
        with self._lock:
            self.requested = True
            callback = self._callback
        if callback is not None:
            callback()

    def request_unwanted(self) -> None:
        """Request the abort of a run whose clients have all left; an earlier request keeps its reason."""
        if not self.requested:
            self.is_unwanted = True
            self.request()


def request_all(aborts: Iterable[Abort]) -> None:
    """Requests each; a backend that can't end its run does not keep the others from ending."""
    for abort in aborts:
        call_logged(abort.request)


def call_logged(request: Callable[[], object]) -> None:
    """Requests an abort; logs what a backend raises that can't end its run."""
    try:
        request()
    except Exception:
        log.exception("a run could not be ended")
