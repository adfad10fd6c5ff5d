"""The one thread that calls a device's session for a slot."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from tta_server.backends.call_thread import CallThread
from tta_server.serving import niceness
from tta_server.serving.niceness import lower_priority

T = TypeVar("T")


class Call(Protocol):
    """Calls a function, perhaps on another thread, and returns what it returns or raises what it raises."""

    def __call__(self, function: Callable[[], T], /) -> T: ...


def call_here(function: Callable[[], T], /) -> T:
    """Calls a function on this thread."""
    return function()


class SlotThread(CallThread):
    """The thread that calls a device's session; others prepare a batch or merge predictions meanwhile."""

    def __init__(self, name: str) -> None:
        super().__init__(name, lambda: lower_priority(niceness.SLOT_NICENESS))
        self._last: Turn | None = None

    def turn(self) -> "Turn":
        """A turn after the last one; end it."""
        self._last = Turn(self, self._last)
        return self._last


class Turn:
    """The calls of one batch: the first one waits until the batch before has called, or has ended.

    So batches reach the device in the order in which turns were taken, whichever is prepared first.
    """

    def __init__(self, thread: SlotThread, before: "Turn | None") -> None:
        self._thread = thread
        self._before = before
        self._done = threading.Event()
        """Set once it has called, or will not."""

    def call(self, function: Callable[[], T], /) -> T:
        """Waits for the calls before this one, and for this one. Raises BackendFailed once the thread is stopped."""
        before, self._before = self._before, None
        while before is not None:
            before._done.wait()
            before = before._before  # of one that has ended without a call
        result: Future[T] = Future()
        try:
            self._thread.put(function, result)
            self._done.set()
            return result.result()
        finally:
            self._done.set()
            del result  # with an error it would refer to this frame, and so to what the function has in memory

    def end(self) -> None:
        """No more calls follow."""
        self._done.set()
