"""The line, the slots and the prices by themselves: what a list schedule says, by hand and as laws."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.examples import times
from tests.support.histories import History, drawn
from tests.support.laws import in_crowd
from tests.support.simulator import PIXELS, A, Arrival, B, C, Pool, cost_model, flat, linear
from tta_server.scheduling.estimates import Estimates, Occupancy, Slots
from tta_server.scheduling.jobs import Job, Phase, Priority
from tta_server.scheduling.progress import Progress
from tta_server.scheduling.queue import EXACT_LIMIT, MandatoryQueue
from tta_server.scheduling.stopping import StopReason

CPU = {A: linear(8), B: linear(15), C: linear(3)}


class Desk:
    """A line with its slots and prices. `busy` says until when slots are, in ms; jobs are (views, deadline in ms)."""

    def __init__(
        self,
        jobs: Sequence[tuple[int, float]] = (),
        slots: int = 1,
        busy: Sequence[float] = (),
        decode_ms: float = 0,
        batch: bool = False,
    ) -> None:
        self.prices = Estimates(cost_model({A: linear(10)}, decode_ms))
        self.slots = Slots(slots)
        for slot, until in enumerate(busy):
            self.slots.take(slot, until / 1e3)
        self.line: MandatoryQueue[str] = MandatoryQueue(self.prices, self.slots)
        for views, deadline_ms in jobs:
            self.line.add(self.job(views, deadline_ms, batch))

    def job(self, views: int, deadline_ms: float, batch: bool = False) -> Job[str]:
        priority = Priority.BATCH if batch else Priority.INTERACTIVE
        job = Job("", "m", (A,) * views, views, deadline_ms / 1e3, PIXELS, priority=priority)
        job.load = self.prices.load(job, views, 0.0)
        return job

    def refusal_ms(self, views: int, deadline_ms: float, batch: bool = False) -> float:
        return round(self.line.retry_after(self.job(views, deadline_ms, batch), 0.0) * 1e3, 6)


def test_an_answer_waits_for_a_view_that_runs_and_is_made_on_its_slot() -> None:
    """Slots are free at 51 and 58 ms, where a view of the job ends; its last view takes 2 ms, its answer 1."""
    prices = Estimates(cost_model({A: linear(2)}, 0, 1))
    job = Job(
        "", "m", (A, A), 2, 0.1, PIXELS, phase=Phase.READY, progress=Progress(dispatched=1, running=1), last_end=0.058
    )
    free = [0.051, 0.058]
    assert prices.schedule_job(free, job, 0.050, 0.050) == pytest.approx(0.059)
    assert free == pytest.approx([0.053, 0.059])


# ---- laws ----

waiting = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 400)), max_size=12, unique_by=lambda job: job[1])
busy = st.lists(st.integers(0, 60), max_size=3)


@given(waiting, busy, st.integers(1, 4), st.integers(0, 100))
def test_a_relaxed_line_has_nobody_late(
    jobs: list[tuple[int, float]], until: list[float], slots: int, more: int
) -> None:
    """The short way to say so says nothing else than the long one."""
    desk = Desk(jobs, slots, until[:slots])
    if desk.line.trivially_feasible(more / 1e3, 0.0):
        free = desk.slots.free(0.0, Occupancy(more / 1e3, {}))
        assert all(desk.prices.schedule_job(free, job, 0.0, 0.0) <= job.deadline + 1e-9 for job in desk.line)


@given(waiting, st.permutations(range(12)), st.integers(0, 12))
def test_the_order_in_which_jobs_come_and_go_does_not_matter(
    jobs: list[tuple[int, float]], order: list[int], leaving: int
) -> None:
    desk, other = Desk(jobs), Desk()
    for number in order:
        if number < len(jobs):
            other.line.add(other.job(*jobs[number]))
    for line in (desk.line, other.line):
        for job in list(line)[:leaving]:
            line.remove(job)
            line.remove(job)  # who has left already is let be
    assert [job.deadline for job in desk.line] == [job.deadline for job in other.line]
    assert desk.line.load == pytest.approx(other.line.load, abs=1e-9)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3000)), min_size=EXACT_LIMIT, max_size=EXACT_LIMIT + 30),
    busy,
    st.integers(1, 3),
    st.integers(1, 3000),
)
@settings(max_examples=times(50))
def test_a_crowd_is_bounded_from_above(
    jobs: list[tuple[int, float]], until: list[float], slots: int, deadline: int
) -> None:
    """A job that is admitted to a long queue makes no job late in the list schedule that is too costly to lay out."""
    desk = Desk(jobs, slots, until[:slots])
    job = desk.job(1, deadline)
    if desk.line.retry_after(job, 0.0) == 0:
        desk.line.add(job)
        free = desk.slots.free(0.0)
        assert all(desk.prices.schedule_job(free, other, 0.0, 0.0) <= other.deadline + 1e-9 for other in desk.line)


def test_some_histories_of_the_benchmark_are_crowds() -> None:
    assert sum(is_crowded(drawn("0", number)) for number in (99, 199, 299, 399)) >= 3


def is_crowded(history: History) -> bool:
    """Whether more than 64 stand in line at any arrival."""
    pool, seen = history.pool(), list[bool]()
    for arrival in history.arrivals:
        pool.at(arrival.at_ms / 1e3, lambda: seen.append(in_crowd(pool)), quietly=True)
    pool.run(history.arrivals)
    return any(seen)


# ---- a list schedule by hand ----


def test_interactive_jobs_stand_before_batch_jobs_and_each_by_deadline() -> None:
    desk = Desk([(1, 300), (1, 100)])
    for deadline, batch in ((50, True), (200, False), (40, True)):
        desk.line.add(desk.job(1, deadline, batch))
    assert [round(job.deadline * 1e3) for job in desk.line] == [100, 200, 300, 40, 50]


@pytest.mark.parametrize(
    ("others", "busy", "views", "deadline", "wait"),
    [
        pytest.param(30, [], 1, 40, 0, id="behind three views of 10 ms"),
        pytest.param(30, [], 1, 39, 1, id="a millisecond too late"),
        pytest.param(35, [5], 1, 40, 5, id="a batch runs for 5 ms yet"),
        pytest.param(30, [], 2, 50, 0, id="two views"),
        pytest.param(90, [10], 1, 15, 35, id="late itself, though first: it can come when all others have begun"),
        pytest.param(30, [], 1, 29, 30, id="it would make the others late: it can come when they are done"),
    ],
)
def test_who_fits_in_a_line_of_three(
    others: float, busy: list[float], views: int, deadline: float, wait: float
) -> None:
    assert Desk([(1, others)] * 3, busy=busy).refusal_ms(views, deadline) == wait


def test_a_batch_job_stands_behind_whoever_is_interactive() -> None:
    assert Desk([(1, 300)]).refusal_ms(1, 15, batch=True) == 5
    assert Desk([(1, 300)]).refusal_ms(1, 10) == 0
    assert Desk([(1, 300)], batch=True).refusal_ms(1, 15, batch=True) == 0
    assert Desk([(1, 19)], batch=True).refusal_ms(1, 300) == 10


def test_one_job_s_views_are_shared_among_slots() -> None:
    desk = Desk(slots=2, busy=[5], decode_ms=2)
    assert desk.refusal_ms(3, 25) == 0  # decoded at 2; 2-12, 5-15, 12-22
    assert desk.refusal_ms(4, 25) == 0  # and 15-25
    assert desk.refusal_ms(4, 24) > 0


def test_views_of_one_bucket_are_priced_by_the_knee() -> None:
    """Sixteen of them are two batches of eight, of 12 ms each; ten are one of eight and one of two."""
    prices, job = Estimates(cost_model({A: flat(10)})), Job("", "m", (A,) * 16, 16, 1.0, PIXELS)
    assert list(prices.views(job, 0, 16, 0.0)) == pytest.approx([0.012, 0.012])
    assert list(prices.views(job, 6, 16, 0.0)) == pytest.approx([0.012, 0.0105])
    mixed = Job("", "m", (A, A, B, A), 4, 1.0, PIXELS)
    gpu = Estimates(cost_model({A: flat(10), B: flat(20)}))
    assert list(gpu.views(mixed, 0, 4, 0.0)) == pytest.approx([0.0105, 0.020, 0.010])
    assert list(Estimates(cost_model(CPU)).views(job, 0, 3, 0.0)) == pytest.approx([0.008] * 3)


# ---- slots ----


@pytest.mark.parametrize(
    ("now", "expected"), [(0.0, 0.020), (0.019, 0.020), (0.020, 0.020), (0.023, 0.026), (0.1, 0.18)]
)
def test_a_slot_that_is_late_is_expected_to_be_late_by_as_much_again(now: float, expected: float) -> None:
    slots = Slots(1)
    slots.take(0, 0.020)
    assert slots.free(now) == pytest.approx([expected])
    assert slots.all_free(now) == pytest.approx(expected)


def test_the_slot_that_is_free_first_gets_the_lead() -> None:
    slots = Slots(3)
    slots.take(0, 0.030)
    slots.take(1, 0.010)
    assert sorted(slots.free(0.0)) == pytest.approx([0.0, 0.010, 0.030])
    assert sorted(slots.free(0.0, Occupancy(0.020, {}))) == pytest.approx([0.010, 0.020, 0.030])
    slots.take(2, 0.005)
    assert sorted(slots.free(0.0, Occupancy(0.020, {}))) == pytest.approx([0.010, 0.025, 0.030])
    slots.release(0)
    assert slots.idle == 1
    assert slots.all_free(0.0) == pytest.approx(0.010)


def test_an_empty_line_is_relaxed_for_ever() -> None:
    desk = Desk()
    assert desk.line.trivially_feasible(1e9, 0.0)
    assert desk.line.load == 0.0
    assert desk.line.free_after_queue(3.0) == 3.0
    assert not desk.line.trivially_feasible(1.0, 0.0, 0.5)
    assert desk.line.trivially_feasible(0.5, 0.0, math.inf)


# ---- a crowd by hand ----


def test_a_batch_that_runs_on_one_of_two_slots_holds_up_a_crowd_by_half_of_it() -> None:
    """A hundred views of 10 ms have begun by 500 on two slots: one more is done by 510; 10 ms on one make that 515."""
    crowd = [(1, 515.0)] * 100
    assert Desk(crowd, slots=2).refusal_ms(1, 515) == 0
    assert Desk(crowd, slots=2, busy=[10]).refusal_ms(1, 515) == 0
    assert Desk(crowd, slots=2, busy=[12]).refusal_ms(1, 515) > 0


def test_optional_views_do_not_run_before_a_crowd_of_batch_jobs_that_has_no_time_to_lose() -> None:
    """From 40 on two slots do a batch job each 5 ms. Each has 25 ms to lose, so one view of 40 ms fits before them."""
    pool = Pool({A: linear(10), C: linear(40)}, slots=2)
    crowd = [Arrival(1, 74 + 5 * number, priority=Priority.BATCH) for number in range(80)]
    records = pool.run([Arrival(0, 4000, (C,) * 9), *crowd])
    assert all(isinstance(record.outcome, StopReason) for record in records)
    assert [number for ((number, _), *_) in pool.handed()][:6] == [0, 0, 0, 1, 2, 3]
