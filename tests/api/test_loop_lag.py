"""The meters of the event loop, with explicit times; times are in seconds."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.api.bound import is_full
from tta_server.api.loop_lag import DECAY, KNOWN_REQUESTS, PERIOD, LagMeter, LoopLag, WorkMeter

LATE = st.floats(0, 10)


class Readings:
    """A meter whose timer fires this much later than it was due, time after time."""

    def __init__(self, *late: float) -> None:
        self.now = 100.0
        self.meter = LagMeter(self.now)
        for seconds in late:
            self.now += PERIOD + seconds
            self.meter.fired(self.now)

    def lag(self, later: float = 0.0) -> float:
        """Where nothing has fired for `later`."""
        return self.meter.lag(self.now + later)


# ---- lag ----


@given(st.lists(LATE), LATE, st.lists(st.just(0.0), min_size=1))
def test_one_slow_callback_on_an_idle_loop_is_no_lag(before: list[float], late: float, after: list[float]) -> None:
    idle = [0.0] * len(before) + [0.0]
    assert Readings(*idle, late).lag() == 0
    assert Readings(*idle).lag(late) == 0
    assert Readings(*idle, late, *after).lag() == 0


@given(LATE, LATE, LATE)
def test_the_lag_is_the_smaller_of_the_last_two_readings(first: float, second: float, third: float) -> None:
    assert Readings(first, second, third).lag() == pytest.approx(min(second, third), abs=1e-9)


@given(st.lists(LATE), LATE, LATE)
def test_a_loop_that_is_blocked_now_is_seen_before_its_timer_fires(
    before: list[float], late: float, now: float
) -> None:
    blocked = Readings(*before, 0.0, late).lag(PERIOD + now)
    assert blocked == pytest.approx(min(late, now), abs=1e-9)


@given(st.lists(LATE), LATE, LATE)
def test_while_a_timer_is_overdue_the_lag_never_falls(late: list[float], first: float, then: float) -> None:
    readings = Readings(*late)
    assert readings.lag(first) <= readings.lag(first + then)


def test_a_lag_by_hand() -> None:
    """Two readings of 300 and 200 ms; the timer, due 10 ms later, is 250 ms late by now; then one fires in time."""
    assert Readings(0.3).lag() == 0
    assert Readings(0.3, 0.2).lag() == pytest.approx(0.2)
    assert Readings(0.3, 0.2).lag(0.26) == pytest.approx(0.2)
    assert Readings(0.2, 0.3).lag(0.26) == pytest.approx(0.25)
    assert Readings(0.3, 0.2, 0.0).lag() == 0


# ---- work ----


def test_a_cost_that_is_not_known_yet_gives_no_work() -> None:
    work = WorkMeter()
    for _ in range(KNOWN_REQUESTS):
        work.accepted()
    work.read(0.03)
    assert work.ahead() == 0, "after the decay these are fewer than it takes"


def test_work_is_that_of_the_requests_accepted_in_this_interval_and_the_one_before() -> None:
    """20 requests took 60 ms: each 3."""
    work = WorkMeter()
    for _ in range(20):
        work.accepted()
    work.read(0.06)
    assert work.ahead() == pytest.approx(20 * 0.003)
    work.accepted()
    assert work.ahead() == pytest.approx(21 * 0.003)
    work.read(0.0)
    assert work.ahead() == pytest.approx(1 * 0.06 / (20 + 1 / DECAY), rel=1e-3)
    work.read(0.0)
    assert work.ahead() == 0


def test_the_cost_is_known_while_requests_come() -> None:
    work = WorkMeter()
    assert not work.is_known
    for _ in range(20):
        work.accepted()
    work.read(0.06)
    assert work.is_known


def test_a_cost_is_forgotten() -> None:
    work = WorkMeter()
    for _ in range(20):
        work.accepted()
    work.read(0.06)
    for _ in range(100):  # of 20 requests 2.6 count then
        work.read(0.0)
    work.accepted()
    assert work.ahead() == 0


# ---- what is refused ----


def test_a_short_lag_refuses_only_while_requests_come() -> None:
    """A budget of 0.5 s allows a lag of 0.05 s; 0.1 s is no stall of the machine any more."""
    idle, busy = WorkMeter(), WorkMeter()
    for _ in range(20):
        busy.accepted()
    for _ in range(3):
        busy.read(0.0)
    assert [is_full(lag, idle, 0.5) for lag in (0.04, 0.06, 0.09, 0.11)] == [False, False, False, True]
    assert [is_full(lag, busy, 0.5) for lag in (0.04, 0.06, 0.09, 0.11)] == [False, True, True, True]
    assert not is_full(0.11, idle, 2.0)


# ---- a real loop ----


def test_the_lag_of_a_loop_is_zero_before_start_and_after_stop_and_its_timer_goes_on() -> None:
    lag = LoopLag()

    async def measure() -> None:
        assert lag.seconds() == 0
        lag.start()
        for _ in range(2 * KNOWN_REQUESTS):
            lag.work.accepted()
        while not lag.work.ahead():  # until a reading has been made
            await asyncio.sleep(0)
        while lag.work.ahead():  # until two more
            await asyncio.sleep(0)
        lag.stop()
        assert lag.seconds() == 0
        lag.stop()

    asyncio.run(measure())
