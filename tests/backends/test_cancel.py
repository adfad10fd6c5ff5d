"""Whoever loses patience with a run ends it: at once, or as soon as it has said how."""

import threading
from collections.abc import Callable

import pytest

from tta_server.backends.cancel import Abort

pytestmark = pytest.mark.timing

Act = Callable[[Abort, Callable[[], None]], None]


def told(*acts: Act) -> int:
    """How often the run was told to end."""
    count = 0

    def end() -> None:
        nonlocal count
        count += 1

    abort = Abort()
    for act in acts:
        act(abort, end)
    return count


def say(abort: Abort, end: Callable[[], None]) -> None:
    abort.ends_by(end)


def ask(abort: Abort, end: Callable[[], None]) -> None:
    abort.request()


@pytest.mark.parametrize(("acts", "times"), [([say], 0), ([ask], 0), ([say, ask], 1), ([ask, say], 1)])
def test_a_run_is_told_to_end_when_it_has_said_how_and_somebody_asks(acts: list[Act], times: int) -> None:
    assert told(*acts) == times


def test_it_remembers_that_it_was_requested() -> None:
    abort = Abort()
    assert not abort.requested
    abort.request()
    assert abort.requested


def test_whichever_thread_is_first_the_run_is_told_once() -> None:
    """Both threads start together, 300 times over."""
    for _ in range(300):
        abort, calls, start = Abort(), list[int](), threading.Barrier(2)

        def run(
            abort: Abort = abort,
            calls: list[int] = calls,
            start: threading.Barrier = start,
        ) -> None:
            start.wait(10)
            abort.ends_by(lambda: calls.append(1))

        runner = threading.Thread(target=run)
        runner.start()
        start.wait(10)
        abort.request()
        runner.join()
        assert calls == [1]


def test_a_run_may_ask_of_itself_while_it_says_how() -> None:
    """The end that is called may look at the abort again: no lock is held meanwhile."""
    abort, seen = Abort(), list[bool]()
    abort.request()
    abort.ends_by(lambda: seen.append(abort.requested))
    assert seen == [True]
