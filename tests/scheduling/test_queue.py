"""The mandatory queue, the slots and the estimates by themselves: list schedules by hand and as laws."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.examples import times
from tests.support.histories import History, drawn
from tests.support.laws import is_long_queue
from tests.support.simulator import PIXELS, A, Arrival, B, C, Pool, cost_model, flat, linear
from tta_server.scheduling.estimates import Estimates, Occupancy, Slots
from tta_server.scheduling.jobs import Job, Phase, Priority
from tta_server.scheduling.mean_estimates import SAFETY, MeanEstimates
from tta_server.scheduling.progress import Progress
from tta_server.scheduling.queue import EXACT_LIMIT, MandatoryQueue
from tta_server.scheduling.stopping import StopReason

CPU = {A: linear(8), B: linear(15), C: linear(3)}


class Setup:
    """A queue with its slots and estimates. `busy` is when slots are free, in ms; jobs are (views, deadline in ms)."""

    def __init__(
        self,
        jobs: Sequence[tuple[int, float]] = (),
        slots: int = 1,
        busy: Sequence[float] = (),
        decode_ms: float = 0,
        batch: bool = False,
    ) -> None:
        self.estimates = MeanEstimates(cost_model({A: linear(10)}, decode_ms))
        self.slots = Slots(slots)
        for slot, until in enumerate(busy):
            self.slots.take(slot, until / 1e3)
        self.queue: MandatoryQueue[str] = MandatoryQueue(self.estimates, self.slots)
        for views, deadline_ms in jobs:
            self.queue.add(self.job(views, deadline_ms, batch))

    def job(self, views: int, deadline_ms: float, batch: bool = False) -> Job[str]:
        priority = Priority.BATCH if batch else Priority.INTERACTIVE
        job = Job("", "m", (A,) * views, views, deadline_ms / 1e3, PIXELS, priority=priority)
        job.load = self.estimates.load(job, views, 0.0)
        return job

    def late(self) -> set[Job[str]]:
        """Return the queued jobs that a list schedule makes late."""
        free = self.slots.free(0.0)
        ends = {job: self.estimates.schedule_job(free, job, 0.0, 0.0) for job in self.queue}
        return {job for job, end in ends.items() if end > job.deadline + 1e-9}

    def retry_after_ms(self, views: int, deadline_ms: float, batch: bool = False) -> float:
        return round(self.queue.retry_after(self.job(views, deadline_ms, batch), 0.0) * 1e3, 6)


def test_an_answer_waits_for_a_view_that_runs_and_is_made_on_its_slot() -> None:
    """Slots are free at 51 and 58 ms, where a view of the job ends; its last view takes 2 ms, its answer 1."""
    estimates = Estimates(cost_model({A: linear(2)}, 0, 1))
    job = Job(
        "", "m", (A, A), 2, 0.1, PIXELS, phase=Phase.READY, progress=Progress(dispatched=1, running=1), last_end=0.058
    )
    free = [0.051, 0.058]
    assert estimates.schedule_job(free, job, 0.050, 0.050) == pytest.approx(0.059)
    assert free == pytest.approx([0.053, 0.059])


# ---- laws ----

waiting = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 400)), max_size=12, unique_by=lambda job: job[1])
busy = st.lists(st.integers(0, 60), max_size=3)


@given(waiting, busy, st.integers(1, 4), st.integers(0, 100))
def test_a_trivially_feasible_queue_makes_no_job_late(
    jobs: list[tuple[int, float]], until: list[float], slots: int, more: int
) -> None:
    """The quick check agrees with the list schedule."""
    setup = Setup(jobs, slots, until[:slots])
    if setup.queue.trivially_feasible(more / 1e3, 0.0, 0.0):
        free = setup.slots.free(0.0, Occupancy(more / 1e3, {}))
        assert all(setup.estimates.schedule_job(free, job, 0.0, 0.0) <= job.deadline + 1e-9 for job in setup.queue)


@given(waiting, st.permutations(range(12)), st.integers(0, 12))
def test_the_order_in_which_jobs_come_and_go_does_not_matter(
    jobs: list[tuple[int, float]], order: list[int], leaving: int
) -> None:
    setup, other = Setup(jobs), Setup()
    for number in order:
        if number < len(jobs):
            other.queue.add(other.job(*jobs[number]))
    for queue in (setup.queue, other.queue):
        for job in list(queue)[:leaving]:
            queue.remove(job)
            queue.remove(job)  # a second removal does nothing
    assert [job.deadline for job in setup.queue] == [job.deadline for job in other.queue]
    assert setup.queue.load == pytest.approx(other.queue.load, abs=1e-9)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3000)), min_size=EXACT_LIMIT, max_size=EXACT_LIMIT + 30),
    busy,
    st.integers(1, 3),
    st.integers(1, 3000),
)
@settings(max_examples=times(50))
def test_a_long_queue_is_bounded_from_above(
    jobs: list[tuple[int, float]], until: list[float], slots: int, deadline: int
) -> None:
    """A job that is admitted to a long queue makes no job late in the list schedule that is too costly to lay out."""
    setup = Setup(jobs, slots, until[:slots])
    job = setup.job(1, deadline)
    if setup.queue.retry_after(job, 0.0) == 0:
        late_anyway = setup.late()
        setup.queue.add(job)
        assert setup.late() <= late_anyway


def test_some_histories_of_the_benchmark_have_long_queues() -> None:
    assert sum(has_long_queue(drawn("0", number)) for number in (99, 199, 299, 399)) >= 3


def has_long_queue(history: History) -> bool:
    """True if more than 64 jobs are queued at any arrival."""
    pool, seen = history.pool(), list[bool]()
    for arrival in history.arrivals:
        pool.at(arrival.at_ms / 1e3, lambda: seen.append(is_long_queue(pool)), silently=True)
    pool.run(history.arrivals)
    return any(seen)


# ---- a list schedule by hand ----


def test_interactive_jobs_stand_before_batch_jobs_and_each_by_deadline() -> None:
    setup = Setup([(1, 300), (1, 100)])
    for deadline, batch in ((50, True), (200, False), (40, True)):
        setup.queue.add(setup.job(1, deadline, batch))
    assert [round(job.deadline * 1e3) for job in setup.queue] == [100, 200, 300, 40, 50]


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
def test_what_fits_in_a_queue_of_three(
    others: float, busy: list[float], views: int, deadline: float, wait: float
) -> None:
    assert Setup([(1, others)] * 3, busy=busy).retry_after_ms(views, deadline) == wait


def test_batch_jobs_are_queued_behind_interactive_ones() -> None:
    assert Setup([(1, 300)]).retry_after_ms(1, 15, batch=True) == 5
    assert Setup([(1, 300)]).retry_after_ms(1, 10) == 0
    assert Setup([(1, 300)], batch=True).retry_after_ms(1, 15, batch=True) == 0
    assert Setup([(1, 19)], batch=True).retry_after_ms(1, 300) == 10


def test_one_job_s_views_are_shared_among_slots() -> None:
    setup = Setup(slots=2, busy=[5], decode_ms=2)
    assert setup.retry_after_ms(3, 25) == 0  # decoded at 2; 2-12, 5-15, 12-22
    assert setup.retry_after_ms(4, 25) == 0  # and 15-25
    assert setup.retry_after_ms(4, 24) > 0


def test_views_of_one_bucket_are_priced_by_the_knee() -> None:
    """Sixteen of them are two batches of eight, of 12 ms each; ten are one of eight and one of two."""
    estimates, job = Estimates(cost_model({A: flat(10)})), Job("", "m", (A,) * 16, 16, 1.0, PIXELS)
    assert list(estimates.views(job, 0, 16, 0.0)) == pytest.approx([0.012, 0.012])
    assert list(estimates.views(job, 6, 16, 0.0)) == pytest.approx([0.012, 0.0105])
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
    setup = Setup()
    assert setup.queue.trivially_feasible(1e9, 0.0, 0.0)
    assert setup.queue.load == 0.0
    assert setup.queue.free_after_queue(3.0) == 3.0
    assert not setup.queue.trivially_feasible(1.0, 0.0, 0.0, 0.5)
    assert setup.queue.trivially_feasible(0.5, 0.0, 0.0, math.inf)


# ---- a long queue by hand ----


def test_a_batch_that_runs_on_one_of_two_slots_delays_a_long_queue_by_half_of_it() -> None:
    """A hundred views of 10 ms have begun by 500 on two slots: one more is done by 510; 10 ms on one make that 515."""
    long_queue = [(1, 515.0)] * 100
    assert Setup(long_queue, slots=2).retry_after_ms(1, 515) == 0
    assert Setup(long_queue, slots=2, busy=[10]).retry_after_ms(1, 515) == 0
    assert Setup(long_queue, slots=2, busy=[12]).retry_after_ms(1, 515) > 0


def test_optional_views_do_not_run_before_a_long_queue_of_batch_jobs_without_slack() -> None:
    """From 40 on two slots do a batch job each 5 ms. Each has 25 ms to lose, so one view of 40 ms fits before them."""
    pool = Pool({A: linear(10), C: linear(40)}, slots=2)
    long_queue = [Arrival(1, 74 + 5 * number, priority=Priority.BATCH) for number in range(80)]
    records = pool.run([Arrival(0, 4000, (C,) * 9), *long_queue])
    assert all(isinstance(record.outcome, StopReason) for record in records)
    assert [number for ((number, _), *_) in pool.dispatched()][:6] == [0, 0, 0, 1, 2, 3]


# ---- under noise ----


def noisy(jobs: Sequence[tuple[int, float]], slots: int = 1) -> Setup:
    """Views of 10 ms on average, with a standard deviation of 3."""
    setup = Setup(slots=slots)
    for number in range(16):
        setup.estimates.costs.observe(A, 1, 0.007 if number % 2 else 0.013, 0.0)
    for views, deadline_ms in jobs:
        job = setup.job(views, deadline_ms)
        setup.queue.add(job)
        setup.queue.set_variance(job, 0.0)
    return setup


def test_a_queue_is_priced_by_means_and_the_deviation_of_the_sum() -> None:
    """Nine jobs of 10 ms and one more take 100 ms on average, with a standard deviation of 3 * sqrt(10) ms."""
    end = 100 + SAFETY * 3 * math.sqrt(10)
    queue = noisy([(1, end - 9 + number) for number in range(9)])
    assert queue.retry_after_ms(1, end + 0.01) == 0
    assert queue.retry_after_ms(1, end - 0.01) > 0


def test_slots_share_the_deviation_of_the_jobs_before() -> None:
    """Two jobs of 10 ms run at once, the next one ends at 20 ms: half of their variance counts, and all of its own."""
    end = 20 + SAFETY * 3 * math.sqrt(2 / 2 + 1)
    queue = noisy([(1, 18.0), (1, 19.0)], slots=2)
    assert queue.retry_after_ms(1, end + 0.01) == 0
    assert queue.retry_after_ms(1, end - 0.01) > 0


def test_jobs_that_are_late_anyway_refuse_nobody() -> None:
    """After a stall, say. A job that would make one of them later is refused."""
    late = Setup([(1, 5), (1, 15), (1, 40)])
    assert late.retry_after_ms(1, 50) == 0
    assert late.retry_after_ms(1, 10) > 0
    assert Setup([(1, 5)] * EXACT_LIMIT).retry_after_ms(1, 10 * EXACT_LIMIT + 10.1) == 0


def test_the_variance_of_a_queue_goes_with_its_jobs() -> None:
    setup = noisy([(1, 30.0), (2, 60.0)])
    assert setup.queue.is_done_by(0.030 + SAFETY * 0.003 * math.sqrt(3) + 1e-6, Occupancy(0.0, {}), 0.0)
    assert not setup.queue.is_done_by(0.030 + SAFETY * 0.003 * math.sqrt(3) - 1e-6, Occupancy(0.0, {}), 0.0)
    for job in list(setup.queue):
        setup.queue.remove(job)
    assert setup.queue.is_done_by(0.0, Occupancy(0.0, {}), 0.0)


def test_a_slot_behind_its_estimate_is_soon_free_unless_it_hangs() -> None:
    """A stall of the machine is over when the scheduler is asked; after a quarter of a second the slot may hang."""
    slots = Slots(1)
    slots.take(0, 0.010, 0.010)
    assert slots.free_at(0, 0.012) == pytest.approx(0.014)
    assert slots.free_at(0, 0.150) == pytest.approx(0.160)
    assert slots.free_at(0, 0.300) == pytest.approx(0.590)
    slots.take(0, 0.010)
    assert slots.free_at(0, 0.150) == pytest.approx(0.290)
