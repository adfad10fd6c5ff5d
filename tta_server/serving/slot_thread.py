"""The one thread that calls a device's session for a slot."""

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

from tta_server.serving import niceness
from tta_server.serving.niceness import lower_priority

T = TypeVar("T")


class Call(Protocol):
    """Calls a function, perhaps on another thread, and returns what it returns or raises what it raises."""

    def __call__(self, function: Callable[[], T], /) -> T: ...


def call_here(function: Callable[[], T], /) -> T:
    """Calls a function on this thread."""
    return function()


class SlotThread:
    """Calls functions of other threads on its own, one after the other, in the order in which they come.

    Other threads prepare a batch or merge predictions meanwhile. It is a daemon: a call that never returns does not
    keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def call(self, function: Callable[[], T], /) -> T:
        """Waits for the calls before this one, and for this one."""
        result: Future[T] = Future()
        self._calls.put((function, result))
        return result.result()

    def stop(self) -> None:
        """Ends the thread after the calls that came before."""
        self._calls.put(None)

    def _run(self) -> None:
        lower_priority(niceness.SLOT_NICENESS)
        while (call := self._calls.get()) is not None:
            function, result = call
            try:
                result.set_result(function())
            except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
                result.set_exception(error)
            del call, function, result  # a waiting thread must not keep a job in memory
