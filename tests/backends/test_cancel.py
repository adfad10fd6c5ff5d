"""An abort calls the run's callback exactly once, whichever thread is first."""

import threading
from collections.abc import Callable

import pytest

from tta_server.backends.cancel import Abort

pytestmark = pytest.mark.timing

Act = Callable[[Abort, Callable[[], None]], None]


def calls_after(*acts: Act) -> int:
    """Return how often the run's callback was called."""
    count = 0

    def end() -> None:
        nonlocal count
        count += 1

    abort = Abort()
    for act in acts:
        act(abort, end)
    return count


def register(abort: Abort, end: Callable[[], None]) -> None:
    abort.on_request(end)


def request(abort: Abort, end: Callable[[], None]) -> None:
    abort.request()


@pytest.mark.parametrize(
    ("acts", "times"), [([register], 0), ([request], 0), ([register, request], 1), ([request, register], 1)]
)
def test_the_callback_is_called_once_it_is_registered_and_requested(acts: list[Act], times: int) -> None:
    assert calls_after(*acts) == times


def test_a_request_is_remembered() -> None:
    abort = Abort()
    assert not abort.requested
    abort.request()
    assert abort.requested


def test_the_callback_is_called_once_whichever_thread_is_first() -> None:
    """Both threads start together, 300 times."""
    for _ in range(300):
        abort, calls, start = Abort(), list[int](), threading.Barrier(2)

        def run(
            abort: Abort = abort,
            calls: list[int] = calls,
            start: threading.Barrier = start,
        ) -> None:
            start.wait(10)
            abort.on_request(lambda: calls.append(1))

        runner = threading.Thread(target=run)
        runner.start()
        start.wait(10)
        abort.request()
        runner.join()
        assert calls == [1]


def test_the_callback_may_read_the_abort() -> None:
    """No lock is held while it is called."""
    abort, seen = Abort(), list[bool]()
    abort.request()
    abort.on_request(lambda: seen.append(abort.requested))
    assert seen == [True]


def test_an_abort_of_an_unwanted_run_says_so_unless_it_was_requested_before() -> None:
    called: list[str] = []
    unwanted, overdue = Abort(), Abort()
    unwanted.on_request(lambda: called.append("unwanted"))
    overdue.request()
    for abort in (unwanted, overdue):
        abort.request_unwanted()
    assert (unwanted.is_unwanted, overdue.is_unwanted) == (True, False)
    assert unwanted.requested
    assert called == ["unwanted"]


def test_an_abort_that_nobody_waits_for_stays_that_however_often_it_is_requested() -> None:
    called = []
    abort = Abort()
    abort.on_request(lambda: called.append(1))
    abort.request_unwanted()
    abort.request_unwanted()
    assert abort.requested
    assert abort.is_unwanted
    assert called == [1]


def test_an_abort_that_was_requested_before_keeps_its_reason() -> None:
    abort = Abort()
    abort.request()
    abort.request_unwanted()
    assert not abort.is_unwanted
