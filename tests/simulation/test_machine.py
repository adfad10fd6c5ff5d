"""A machine that stalls and slows: how long work takes on it, by hand and as laws."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.pools import SPEC, SURE, cost
from tta_server.simulation.jobs import Request
from tta_server.simulation.machine import Machine, SlowSpell, Stalls
from tta_server.simulation.pool import PoolSize
from tta_server.simulation.server import SimulatedServer

SPELL = SlowSpell(1.0, 2.0, 2.0)
times = st.floats(0, 20)


def test_work_in_a_slow_spell_takes_longer() -> None:
    """From 1 to 3 s work takes twice as long, so that 1 s of work is done there."""
    machine = Machine(spells=(SPELL,))
    assert machine.seconds(0.0, 0.5) == 0.5
    assert machine.seconds(0.5, 1.0) == pytest.approx(1.5)
    assert machine.seconds(0.0, 3.0) == pytest.approx(4.0)
    assert machine.seconds(3.0, 1.0) == 1.0


def test_spells_that_overlap_multiply() -> None:
    assert Machine(spells=(SPELL, SlowSpell(0.0, 9.0, 3.0))).seconds(1.0, 0.1) == pytest.approx(0.6)


def test_work_waits_for_the_end_of_a_stall() -> None:
    machine = Machine(Stalls(1.0))
    machine.seconds(0.0, 100.0)
    first, second = machine.stalls[:2]
    assert machine.seconds(first.start - 0.001, 0.002) == pytest.approx(0.002 + first.end - first.start)
    assert machine.resumes_at((first.start + first.end) / 2) == first.end
    assert machine.resumes_at((first.end + second.start) / 2) == (first.end + second.start) / 2


def test_stalls_come_as_often_and_last_as_long_as_stated() -> None:
    machine = Machine(Stalls(2.0, 0.05, 0.2), seed=3)
    machine.seconds(0.0, 1000.0)
    lengths = [stall.end - stall.start for stall in machine.stalls]
    assert all(0.05 <= length <= 0.2 for length in lengths)
    between = machine.stalls[-1].end - sum(lengths)
    assert len(lengths) / between == pytest.approx(2.0, rel=0.1)


@given(times, st.floats(0.001, 5), st.floats(0.001, 5), st.integers(0, 5))
def test_work_takes_as_long_in_one_piece_as_in_two(start: float, first: float, second: float, seed: int) -> None:
    machine = Machine(Stalls(1.0), (SPELL, SlowSpell(4.0, 3.0, 0.5)), seed)
    whole = machine.seconds(start, first + second)
    half = machine.seconds(start, first)
    assert whole == pytest.approx(half + machine.seconds(start + half, second), abs=1e-9)


def test_requests_that_arrive_in_a_stall_are_read_after_it_and_have_less_time() -> None:
    machine = Machine(Stalls(0.5, 0.08, 0.08))
    machine.seconds(0.0, 10.0)
    server = SimulatedServer({"": PoolSize(1)}, {"": {"m": cost({1: 10})}}, machine=machine)
    (job,) = server.run([Request(machine.stalls[0].start + 0.02, 0, SPEC, SURE[0])])
    assert job.merged == 3, "of 40 ms, at 13 ms a view at first"
    assert job.latency == pytest.approx(0.06 + 0.03)
