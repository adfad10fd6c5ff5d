"""When jobs are due, and the watchdog of what runs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.simulator import PIXELS, A, Arrival, Faults, Pool, linear
from tta_server.errors import BackendFailed
from tta_server.scheduling.jobs import Batch, Job
from tta_server.scheduling.stopping import StopReason
from tta_server.scheduling.timers import OVERDUE_FACTOR, OVERDUE_SECONDS, STUCK_SECONDS, DueTimers, Watchdog

times = st.floats(0, 100)


def job(name: int = 0) -> Job[int]:
    return Job(name, "m", (A,), 1, math.inf, PIXELS)


def batch(slot: int, estimate: float) -> Batch[int]:
    return Batch(slot, A, ((job(slot), 0),), estimate)


# ---- dates ----


@given(st.lists(st.tuples(st.sampled_from(["put", "put", "remove", "take"]), st.integers(0, 30), times), max_size=300))
def test_an_agenda_is_a_table_of_dates(steps: list[tuple[str, int, float]]) -> None:
    """Whatever is put, moved and removed, those that are due come out, once and the earliest first."""
    jobs = [job(name) for name in range(31)]
    agenda: DueTimers[int] = DueTimers()
    dates: dict[int, float] = {}
    for action, name, at in steps:
        if action == "put":
            agenda.set(jobs[name], at)
            dates[name] = at
        elif action == "remove":
            agenda.remove(jobs[name])
            dates.pop(name, None)
        else:
            taken = [dates.pop(each.payload) for each in agenda.take_due(at)]
            assert taken == sorted(taken)
            assert all(date <= at for date in taken)
            assert all(date > at for date in dates.values())
        assert agenda.next_due() == min(dates.values(), default=None)


def test_an_agenda_forgets_outdated_dates() -> None:
    """However often due times move, and in whatever order."""
    agenda, one, other = DueTimers[int](), job(1), job(2)
    agenda.set(other, 0.0)
    for at in range(10_000):
        agenda.set(one, 10_000.0 - at)
        agenda.set(other, float(at))
    assert [each.payload for each in agenda.take_due(math.inf)] == [1, 2]
    assert agenda.next_due() is None


def test_who_is_put_again_while_the_due_are_taken_comes_again_only_if_due() -> None:
    agenda, one = DueTimers[int](), job(1)
    agenda.set(one, 1.0)
    taken = []
    for each in agenda.take_due(5.0):
        taken.append(each)
        agenda.set(each, 3.0 if len(taken) == 1 else 7.0)
    assert taken == [one, one]
    assert agenda.next_due() == 7.0


# ---- what runs ----


@pytest.mark.parametrize(("estimate", "after"), [(0.010, 1.0), (0.099, 1.0), (0.100, 1.0), (0.2, 2.0), (3.0, 30.0)])
def test_a_step_is_overdue_at_ten_times_its_estimate_and_not_before_a_second(estimate: float, after: float) -> None:
    assert after == max(OVERDUE_SECONDS, OVERDUE_FACTOR * estimate)
    watch, step = Watchdog[int](), batch(0, estimate)
    watch.started(step, 5.0)
    assert watch.check_at() == pytest.approx(5.0 + after)
    assert watch.overdue(5.0 + after - 1e-6) == []
    assert watch.overdue(5.0 + after + 1e-6) == [step]


def test_it_is_told_once() -> None:
    watch = Watchdog[int]()
    watch.started(batch(0, 0.1), 0.0)
    assert len(watch.overdue(1.5)) == 1
    assert watch.overdue(1.5) == []
    assert watch.stuck(1.5) == []
    assert watch.overdue(20.0) == []


def test_a_slot_is_stuck_ten_seconds_after_its_step_was_to_be_ended_and_told_once() -> None:
    watch = Watchdog[int]()
    watch.started(batch(3, 0.1), 0.0)
    assert len(watch.overdue(2.0)) == 1
    assert watch.stuck(2.0) == []
    assert watch.check_at() == pytest.approx(2.0 + STUCK_SECONDS)
    assert watch.stuck(11.9) == []
    assert watch.overdue(12.0) == []
    assert watch.stuck(12.0) == [3]
    assert watch.check_at() is None
    assert watch.stuck(30.0) == []


def test_a_step_that_came_back_is_neither_overdue_nor_stuck() -> None:
    watch = Watchdog[int]()
    watch.started(batch(0, 0.1), 0.0)
    watch.ended(0)
    assert watch.overdue(1.5) == []
    watch.started(batch(0, 0.1), 2.0)
    assert len(watch.overdue(3.5)) == 1
    watch.ended(0)
    assert watch.stuck(30.0) == []
    assert watch.check_at() is None


@given(
    st.lists(st.tuples(st.sampled_from(["start", "end", "look"]), st.integers(0, 3), st.floats(0.01, 5)), max_size=60)
)
def test_whoever_looks_only_when_told_misses_nothing(steps: list[tuple[str, int, float]]) -> None:
    """Every step that runs past its time is reported at `check_at`, and asking then always moves it."""
    watch, now, running, reported = Watchdog[int](), 0.0, dict[int, tuple[Batch[int], float]](), set[int]()
    for action, slot, seconds in steps:
        if action == "start" and slot not in running:
            running[slot] = (batch(slot, seconds), now)
            watch.started(running[slot][0], now)
        elif action == "end":
            running.pop(slot, None)
            reported.discard(slot)
            watch.ended(slot)
        at = watch.check_at()
        if action == "look" and at is not None:
            now = max(now, at)
            overdue, stuck = watch.overdue(now), watch.stuck(now)
            assert not reported & {step.slot for step in overdue}
            reported |= {step.slot for step in overdue}
            after = watch.check_at()
            assert overdue or stuck or after is None or after > at
        now += seconds / 10
        late = {s for s, (step, start) in running.items() if now > start + max(1.0, 10 * step.estimate)}
        look = watch.check_at()
        assert late <= reported or (look is not None and look <= now)


# ---- in a pool ----


def test_a_batch_that_hangs_is_ended_and_its_slot_serves_on() -> None:
    pool = Pool({A: linear(10)}, faults=Faults(hangs={0}))
    first, second = pool.run([Arrival(0, 5000), Arrival(100, 3000)])
    assert isinstance(first.outcome, BackendFailed)
    assert first.answered_ms == pytest.approx(1000)
    assert second.outcome is StopReason.ALL_VIEWS


def test_whoever_has_a_plain_view_is_answered_by_the_deadline_while_the_next_hangs() -> None:
    pool = Pool({A: linear(10)}, faults=Faults(hangs={1}))
    (record,) = pool.run([Arrival(0, 200, (A, A))])
    assert record.outcome is StopReason.DEADLINE
    assert record.answered_ms == pytest.approx(200, abs=0.01)
