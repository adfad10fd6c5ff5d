"""The one thread that calls a model's sessions."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class OwnThread:
    """Calls functions for other threads, one after the other.

    ONNX Runtime's CUDA provider keeps a context for each thread: its CUDA graphs, and the buffers that they read. On a
    second thread a run is recorded again, which takes up to seconds, and memory grows. The thread is a daemon: a call
    that never returns does not keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], T]) -> T:
        """Return what a function returns on the thread, or raise what it raises; on the thread itself, call it."""
        if threading.current_thread() is self._thread:
            return function()
        result: Future[T] = Future()
        self._calls.put((function, result))
        try:
            return result.result()
        finally:
            del result  # with an error it would refer to this frame, and so to what the function has in memory

    def stop(self) -> None:
        """End the thread after the calls that came before."""
        self._calls.put(None)

    def _run(self) -> None:
        while (found := self._calls.get()) is not None:
            function, result = found
            try:
                result.set_result(function())
            except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
                result.set_exception(error)
            del found, function, result  # a waiting thread must not keep a batch in memory
