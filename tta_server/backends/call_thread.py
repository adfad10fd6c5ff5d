"""A thread that calls functions for other threads."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from tta_server.errors import BackendFailed

T = TypeVar("T")


class CallThread:
    """Calls functions one after the other, in the order in which they come; start `thread` first.

    It is a daemon: a call that never returns does not keep the process from ending.
    """

    def __init__(self, name: str, on_start: Callable[[], object] = lambda: None) -> None:
        """`on_start` is called by the thread before all others."""
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._on_start = on_start
        self._lock = threading.Lock()
        self._stopped = False
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def call(self, function: Callable[[], T]) -> T:
        """Return what a function returns on the thread, or raise what it raises; on the thread itself, call it.

        Raises BackendFailed once the thread has been stopped.
        """
        if threading.current_thread() is self.thread:
            return function()
        result: Future[T] = Future()
        try:
            self.put(function, result)
            return result.result()
        finally:
            del result  # with an error it would refer to this frame, and so to what the function has in memory

    def put(self, function: Callable[[], T], result: "Future[T]") -> None:
        """Queue a call. Raises BackendFailed once the thread has been stopped."""
        with self._lock:
            if self._stopped:
                raise BackendFailed("the server is shutting down, or has unloaded the model")
            self._calls.put((function, result))

    def stop(self) -> None:
        """End the thread after the calls that came before."""
        with self._lock:
            self._stopped = True
            self._calls.put(None)

    def _run(self) -> None:
        self._on_start()
        while (found := self._calls.get()) is not None:
            function, result = found
            try:
                result.set_result(function())
            except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
                result.set_exception(error)
            del found, function, result  # a waiting thread must not keep a job in memory
