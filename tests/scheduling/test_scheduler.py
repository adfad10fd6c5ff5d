"""The scheduler in virtual time: laws over random histories first, then histories computed by hand."""

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.support.examples import is_long, times
from tests.support.histories import D, History, check, decisions, draw, find_violation
from tests.support.simulator import PIXELS, TOLERANCE, A, Arrival, B, C, Faults, Pool, cost_model, flat, linear
from tta_server.errors import BackendFailed, Cancelled, InvalidInput, NotReady, Overloaded
from tta_server.scheduling.jobs import MERGED, Batch, Bounds, Decode, Job, Outcome, Priority
from tta_server.scheduling.scheduler import Scheduler
from tta_server.scheduling.stopping import StopReason

randoms = st.randoms(use_true_random=False)
BATCH = Priority.BATCH

# ---- laws ----


@given(randoms)
@settings(max_examples=times(2500))
def test_every_law_holds_in_any_history(random: Random) -> None:
    history = draw(random)
    note(repr(history))
    check(history)


HISTORIES = 20_000 if is_long() else times(2000)
PARTS = 4
"""Tests that share the histories, so that several processes can run them."""


@pytest.mark.parametrize("part", range(PARTS))
def test_every_law_holds_in_the_first_histories_of_the_benchmark(part: int) -> None:
    """One of a hundred has over 64 jobs queued; `benchmarks/laws.py` runs ten times as many."""
    assert find_violation("0", range(part, HISTORIES, PARTS)) is None


def test_an_answer_waits_for_a_view_of_its_job_that_runs_elsewhere() -> None:
    """Its time is then not free on the slot of the other views, nor on that one's: found by `benchmarks/laws.py`."""
    batch = {"budget_ms": 60, "priority": BATCH}
    arrivals = (
        Arrival(at_ms=4, buckets=(D,) * 4, mandatory=4, **batch),
        Arrival(at_ms=9, budget_ms=91, buckets=(D,) * 6),
        Arrival(at_ms=10, buckets=(A, B), mandatory=2, **batch),
        Arrival(at_ms=17, buckets=(A,) * 4, mandatory=4, **batch),
        Arrival(at_ms=18, buckets=(C, C), mandatory=2, **batch),
    )
    check(History(machine="both", slots=3, decode_ms=5, finish_ms=1, arrivals=arrivals))


@given(randoms, st.sampled_from([Bounds(), Bounds(jobs=1), Bounds(jobs=2), Bounds(nbytes=2500)]))
@settings(max_examples=times(400))
def test_a_job_that_returns_after_retry_after_is_admitted_if_nothing_else_came(random: Random, bounds: Bounds) -> None:
    """Without optional views, for which it might have to wait."""
    history = draw(random)
    plain = tuple(
        Arrival(one.at_ms, one.budget_ms, one.buckets[: one.mandatory], one.mandatory, priority=one.priority)
        for one in history.arrivals
    )
    history = replace(history, bounds=bounds, arrivals=plain, fails=frozenset(), hangs=frozenset(), speeds=())
    note(repr(history))
    refused = next((one for one in history.pool().run(plain) if isinstance(one.refused, Overloaded)), None)
    if refused is None:
        return
    assert isinstance(refused.refused, Overloaded)
    back = refused.arrived_at + refused.refused.retry_after + TOLERANCE
    again = history.pool().run([*plain[: refused.number + 1], replace(refused.arrival, at_ms=back * 1e3)])
    assert again[-1].refused is None


@given(randoms)
@settings(max_examples=times(100))
def test_the_same_history_is_decided_the_same(random: Random) -> None:
    history = draw(random)
    pools = [history.pool(), history.pool()]
    for pool in pools:
        pool.run(history.arrivals)
    assert decisions(pools[0], history) == decisions(pools[1], history)


# ---- computed by hand ----


def test_twelve_ms_a_view_and_a_budget_of_fifty_are_exactly_four_views() -> None:
    (record,) = Pool({A: linear(12)}).run([Arrival(0, 50, (A,) * 8)])
    assert record.dispatched == [0, 1, 2, 3]
    assert record.outcome is StopReason.DEADLINE
    assert record.answered_ms == pytest.approx(48)


@pytest.mark.parametrize(
    ("slots", "decode_ms", "finish_ms", "views", "answered"),
    [(2, 0, 0, 8, 48), (3, 0, 0, 12, 48), (1, 5, 0, 3, 41), (1, 0, 3, 3, 36), (1, 1, 1, 4, 49), (2, 3, 0, 6, 39)],
)
def test_budget_buys_what_slots_decoding_and_answering_leave(
    slots: int, decode_ms: float, finish_ms: float, views: int, answered: float
) -> None:
    (record,) = Pool({A: linear(12)}, slots, decode_ms, finish_ms).run([Arrival(0, 50, (A,) * 20)])
    assert record.merged == views
    assert record.outcome is StopReason.DEADLINE
    assert record.answered_ms == pytest.approx(answered)


def test_a_job_whose_views_are_all_done_is_answered_at_once() -> None:
    (record,) = Pool({A: linear(12)}).run([Arrival(0, 500, (A,) * 3)])
    assert record.outcome is StopReason.ALL_VIEWS
    assert record.answered_ms == pytest.approx(36)


def test_a_new_plain_view_runs_before_more_views_of_an_old_job() -> None:
    pool = Pool({A: linear(12)})
    pool.run([Arrival(0, 200, (A,) * 3), Arrival(5, 200, (A,) * 3)])
    assert pool.dispatched()[:2] == [[(0, 0)], [(1, 0)]]
    assert [batch.items[0][1] for _, batch in pool.batches] == [0, 0, 1, 1, 2, 2]


def test_mandatory_views_run_in_the_order_of_deadlines() -> None:
    pool = Pool({A: linear(12)})
    pool.run([Arrival(0, 200), Arrival(1, 90), Arrival(1, 40), Arrival(1, 60)])
    assert [records for ((records, _),) in pool.dispatched()] == [0, 2, 3, 1]


def test_every_mandatory_view_comes_before_any_optional_one() -> None:
    pool = Pool({A: linear(12)})
    pool.run([Arrival(0, 300, (A,) * 4, mandatory=2), Arrival(1, 300, (A,) * 4, mandatory=3)])
    views = [(job, view) for batch in pool.dispatched() for job, view in batch]
    assert set(views[:5]) == {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)}


def test_optional_views_go_to_the_job_with_the_fewest_then_to_the_earlier_deadline() -> None:
    pool = Pool({A: linear(12)})
    pool.run([Arrival(0, 300, (A,) * 3), Arrival(1, 200, (A,) * 3)])
    assert [batch[0] for batch in pool.dispatched()] == [(0, 0), (1, 0), (1, 1), (0, 1), (1, 2), (0, 2)]


def test_views_are_shared_among_idle_slots() -> None:
    pool = Pool({A: linear(2)}, slots=2)
    (record,) = pool.run([Arrival(0, 500, (A,) * 8)])
    assert record.answered_ms == pytest.approx(8)


def test_over_the_knee_views_of_several_jobs_ride_in_one_batch() -> None:
    pool = Pool({A: flat(10)})
    pool.run([Arrival(0, 200), Arrival(1, 200, (A,) * 10), Arrival(2, 200, (A,) * 10)])
    assert [len(batch) for batch in pool.dispatched()] == [1, 8, 8, 4]
    assert set(pool.dispatched()[3]) == {(1, 8), (1, 9), (2, 8), (2, 9)}


def test_views_of_other_buckets_wait_for_their_own_batch() -> None:
    pool = Pool({A: flat(10), B: flat(10)})
    pool.run([Arrival(0, 500, (A, A, B, B, A))])
    assert pool.dispatched() == [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4)]]


def test_a_batch_stays_short_where_a_longer_one_would_make_a_job_late() -> None:
    pool = Pool({A: {1: 2, 2: 3.4, 4: 6, 8: 11}, C: linear(10)})
    first, second = pool.run([Arrival(0, 200, (C,)), Arrival(1, 20, (A,) * 8)])
    assert first.outcome is StopReason.ALL_VIEWS
    assert second.outcome in (StopReason.ALL_VIEWS, StopReason.DEADLINE)
    assert second.answered_ms <= 21
    assert max(map(len, pool.dispatched())) == 4


# ---- optional views by their worth ----


def test_optional_views_of_most_worth_come_first() -> None:
    pool = Pool({A: linear(12)})
    pool.run([Arrival(0, 300, (A,) * 3, gains=(0.2,)), Arrival(1, 300, (A,) * 3, gains=(0.8,))])
    assert [batch[0] for batch in pool.dispatched()] == [(0, 0), (1, 0), (1, 1), (1, 2), (0, 1), (0, 2)]


def test_worth_counts_by_the_second() -> None:
    """0.5 in 10 ms is less than 0.2 in 3."""
    pool = Pool({A: linear(10), C: linear(3)})
    pool.run([Arrival(0, 300, (A,) * 2, gains=(0.5,)), Arrival(1, 300, (C,) * 3, gains=(0.2,))])
    assert [batch[0] for batch in pool.dispatched()] == [(0, 0), (1, 0), (1, 1), (1, 2), (0, 1)]


def test_the_expected_gain_is_that_of_the_last_merge() -> None:
    """The first job's views are worth less and less: 1, 0.3, 0.3; the second's always 0.5."""
    pool = Pool({A: linear(12)})
    first = Arrival(0, 300, (A,) * 4, gains=(1.0, 0.3))
    pool.run([first, Arrival(1, 300, (A,) * 3, gains=(0.5,))])
    assert [batch[0] for batch in pool.dispatched()] == [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2), (0, 2), (0, 3)]


def test_what_is_worth_most_but_ends_too_late_does_not_hold_up_the_rest() -> None:
    pool = Pool({A: linear(12), C: linear(30)})
    first = Arrival(0, 72, (C, C), gains=(9.0,))  # after the second's plain view, at 42, its next would end at 72
    pool.run([first, Arrival(1, 300, (A,) * 3), Arrival(1, 300, (A,), mandatory=1)])
    assert [batch[0] for batch in pool.dispatched()][1:] == [(1, 0), (2, 0), (1, 1), (1, 2)]


def test_optional_views_of_batch_jobs_come_last_whatever_their_worth() -> None:
    pool = Pool({A: linear(12)})
    pool.run([Arrival(0, 900, (A,) * 2, gains=(9.0,), priority=BATCH), Arrival(1, 900, (A,) * 3, gains=(0.1,))])
    assert [batch[0] for batch in pool.dispatched()] == [(0, 0), (1, 0), (1, 1), (1, 2), (0, 1)]


# ---- priorities ----


def test_a_batch_job_waits_for_optional_views_as_long_as_it_can() -> None:
    """It has to start by 36: at 20 one more optional view fits before it, at 30 none."""
    pool = Pool({A: linear(10)})
    pool.run([Arrival(0, 300, (A,) * 6), Arrival(1, 45, priority=BATCH)])
    assert [batch[0] for batch in pool.dispatched()] == [(0, 0), (0, 1), (0, 2), (1, 0), (0, 3), (0, 4), (0, 5)]


def test_a_batch_job_with_time_comes_after_all_optional_views() -> None:
    pool = Pool({A: linear(10)})
    pool.run([Arrival(0, 300, (A,) * 4), Arrival(1, 900, priority=BATCH)])
    assert [batch[0] for batch in pool.dispatched()] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]


def test_interactive_work_comes_before_a_batch_job_with_an_earlier_deadline() -> None:
    pool = Pool({A: linear(10)})
    pool.run([Arrival(0, 300), Arrival(1, 100, priority=BATCH), Arrival(2, 200)])
    assert [batch[0] for batch in pool.dispatched()] == [(0, 0), (2, 0), (1, 0)]


def test_batch_jobs_run_in_the_order_of_their_deadlines() -> None:
    pool = Pool({A: linear(10)})
    pool.run([Arrival(0, 300), *(Arrival(1, budget, priority=BATCH) for budget in (500, 300, 400))])
    assert [batch[0] for batch in pool.dispatched()] == [(0, 0), (2, 0), (3, 0), (1, 0)]


def test_a_batch_job_is_not_admitted_at_the_cost_of_an_interactive_one_nor_the_other_way_round() -> None:
    """At 1 the slot is free from 10 on; the interactive one takes it until 20, then the batch job would end at 30."""
    late, fits = (
        Pool({A: linear(10)}).run([Arrival(0, 300), Arrival(0, 300), Arrival(1, budget, priority=BATCH)])
        for budget in (28, 30)
    )
    assert isinstance(late[2].refused, Overloaded)
    assert fits[2].refused is None
    records = Pool({A: linear(10)}).run([Arrival(0, 300), Arrival(1, 20, priority=BATCH), Arrival(2, 300)])
    assert isinstance(records[2].refused, Overloaded)
    assert records[1].outcome is StopReason.ALL_VIEWS


def test_in_a_slow_spell_batch_jobs_that_seem_late_still_come_before_optional_views() -> None:
    """Views that took 10 ms take 14 now. At 34 the batch job would end at 48, 2 ms late, but may yet make it."""
    scheduler: Scheduler[str] = Scheduler(cost_model({A: linear(10)}), 1)
    rich, batch = Job("rich", "m", (A,) * 9, 1, 1.0, PIXELS), Job("batch", "m", (A,), 1, 0.046, PIXELS, priority=BATCH)
    for job in (rich, batch):
        scheduler.admit(job, 0.0)
    decode = scheduler.next_batch(0, 0.0)
    assert isinstance(decode, Decode)
    scheduler.ready(decode, 0.0, 0.0)
    plain = scheduler.next_batch(0, 0.0)
    assert isinstance(plain, Batch)
    for _ in range(20):
        scheduler.costs.observe(A, 1, 0.014, 0.034)
    assert scheduler.completed(plain, dict.fromkeys(plain.views, MERGED), 0.014, 0.034) == []
    step = scheduler.next_batch(0, 0.034)
    assert isinstance(step, Decode)
    assert step.job is batch


# ---- reasons ----


def test_time_that_ran_out_is_called_deadline() -> None:
    (record,) = Pool({A: linear(12)}).run([Arrival(0, 23, (A,) * 2)])
    assert record.outcome is StopReason.DEADLINE
    assert record.answered_ms == pytest.approx(12)


def test_slots_that_ran_out_are_called_capacity() -> None:
    pool = Pool({A: linear(12), C: linear(20)})
    first, second = pool.run([Arrival(0, 30, (A,) * 2), Arrival(1, 100, (C,))])
    assert first.outcome is StopReason.CAPACITY
    assert second.outcome is StopReason.ALL_VIEWS
    assert first.merged == 1


def test_a_job_does_not_wait_for_a_batch_that_runs_at_its_deadline() -> None:
    scheduler: Scheduler[str] = Scheduler(cost_model({A: linear(25)}), 1)
    job = Job("a", "m", (A, A), 1, 0.1, PIXELS)
    scheduler.admit(job, 0.0)
    step = scheduler.next_batch(0, 0.0)
    assert isinstance(step, Decode)
    scheduler.ready(step, 0.0, 0.0)
    plain = scheduler.next_batch(0, 0.0)
    assert isinstance(plain, Batch)
    assert scheduler.completed(plain, dict.fromkeys(plain.views, MERGED), 0.025, 0.025) == []
    slow = scheduler.next_batch(0, 0.025)
    assert isinstance(slow, Batch)
    wake = scheduler.wake_at()
    assert wake == pytest.approx(0.1, abs=1e-6)
    assert wake is not None
    (done,) = scheduler.due(wake)
    assert done.outcome is StopReason.DEADLINE
    assert scheduler.completed(slow, dict.fromkeys(slow.views, MERGED), 0.5, 0.51) == [], "it is ignored on return"
    assert scheduler.wake_at() is None


# ---- faults ----


def test_a_failed_batch_fails_only_jobs_without_their_mandatory_views() -> None:
    pool = Pool({A: flat(10)}, faults=Faults(fails={1}))
    first, second = pool.run([Arrival(0, 300, (A,) * 10), Arrival(1, 300)])
    assert pool.dispatched()[1][0] == (1, 0)
    assert (0, 8) in pool.dispatched()[1]
    assert first.outcome is StopReason.BACKEND_FAILED
    assert first.merged == 8
    assert isinstance(second.outcome, BackendFailed)


def test_an_optional_view_that_fails_while_the_plain_view_runs_is_only_left_out() -> None:
    pool = Pool({A: linear(8), B: linear(15)}, slots=2, faults=Faults(fails={1}))
    (record,) = pool.run([Arrival(0, 300, (B, A))])
    assert record.outcome is StopReason.BACKEND_FAILED
    assert record.merged == 1
    assert record.answered_ms == pytest.approx(15)


def test_a_failed_decode_fails_its_own_job() -> None:
    scheduler: Scheduler[str] = Scheduler(cost_model({A: linear(10)}), 1)
    broken, fine = (Job(name, "m", (A,), 1, 1.0, PIXELS) for name in ("broken", "fine"))
    scheduler.admit(broken, 0.0)
    scheduler.admit(fine, 0.0)
    step = scheduler.next_batch(0, 0.0)
    assert isinstance(step, Decode)
    (done,) = scheduler.failed(step, InvalidInput("not an image"), 0.001)
    assert (done.job, type(done.outcome)) == (broken, InvalidInput)
    assert len(scheduler) == 1


def test_a_lost_optional_view_is_left_out() -> None:
    (record,) = Pool({A: linear(10)}).run([Arrival(0, 300, (A,) * 3, lost=frozenset([1]))])
    assert record.outcome is StopReason.ALL_VIEWS
    assert record.merged == 2


def test_a_lost_mandatory_view_fails_the_job() -> None:
    (record,) = Pool({A: linear(10)}).run([Arrival(0, 300, (A,) * 3, lost=frozenset([0]))])
    assert isinstance(record.outcome, BackendFailed)


def test_a_cancelled_job_is_settled_once_and_frees_its_slot() -> None:
    pool = Pool({A: linear(10)})
    first, second = pool.run([Arrival(0, 300, (A,) * 8, cancels_ms=15), Arrival(1, 300, (A,) * 2)])
    assert isinstance(first.outcome, Cancelled)
    assert second.outcome is StopReason.ALL_VIEWS
    assert len(first.dispatched) <= 2


@pytest.mark.parametrize(("expected", "sizes"), [(1, [1, 1, 1]), (3, [3, 1, 1]), (9, [4, 4])])
def test_a_batch_takes_the_views_before_which_its_job_is_not_expected_to_stop(expected: int, sizes: list[int]) -> None:
    """One slot, a knee of 4, one job with 9 views that expects nothing else of later merges."""
    scheduler: Scheduler[str] = Scheduler(cost_model({A: {1: 10, 2: 10, 4: 10}}), 1)
    job = Job("a", "m", (A,) * 9, 1, 1.0, PIXELS, expected=expected)
    scheduler.admit(job, 0.0)
    step = scheduler.next_batch(0, 0.0)
    assert isinstance(step, Decode)
    scheduler.ready(step, 0.0, 0.0)
    for number, size in enumerate(sizes):
        batch = scheduler.next_batch(0, number * 0.01)
        assert isinstance(batch, Batch)
        assert len(batch.items) == size
        assert scheduler.completed(batch, {job: Outcome(expected=expected)}, 0.01, number * 0.01 + 0.01) == []


def test_a_job_that_may_stop_has_a_view_on_each_slot_and_none_beyond_one_that_is_out() -> None:
    """Its second view is back first; the slot waits for the first one, after which the job may stop."""
    scheduler: Scheduler[str] = Scheduler(cost_model({A: linear(10)}), 2)
    job = Job("a", "m", (A,) * 8, 1, 1.0, PIXELS, expected=1)
    scheduler.admit(job, 0.0)
    step = scheduler.next_batch(0, 0.0)
    assert isinstance(step, Decode)
    scheduler.ready(step, 0.0, 0.0)
    first, second = scheduler.next_batch(0, 0.0), scheduler.next_batch(1, 0.0)
    assert isinstance(first, Batch)
    assert isinstance(second, Batch)
    one_more = {job: Outcome(expected=1)}
    job.merge(0b10)
    scheduler.completed(second, one_more, 0.01, 0.01)
    assert scheduler.next_batch(1, 0.01) is None
    job.merge(0b01)
    scheduler.completed(first, one_more, 0.011, 0.011)
    third = scheduler.next_batch(1, 0.011)
    assert isinstance(third, Batch)
    assert third.items == ((job, 2),)


def ready_job(scheduler: Scheduler[str], views: int, mandatory: int, default_budget: float = math.inf) -> Job[str]:
    """A job that was decoded by slot 0 at once."""
    job = Job("a", "m", (A,) * views, mandatory, 1.0, PIXELS, default_budget=default_budget)
    scheduler.admit(job, 0.0)
    step = scheduler.next_batch(0, 0.0)
    assert isinstance(step, Decode)
    scheduler.ready(step, 0.0, 0.0)
    return job


def sizes(scheduler: Scheduler[str], slots: int) -> list[int]:
    """How many views each of these idle slots takes."""
    batches = [scheduler.next_batch(slot, 0.0) for slot in range(slots)]
    return [len(batch.items) if isinstance(batch, Batch) else 0 for batch in batches]


@pytest.mark.parametrize(
    ("curve", "slots", "mandatory", "taken"),
    [
        (linear(10), 2, 8, [4, 4]),
        (linear(10), 1, 8, [8]),
        (linear(10), 3, 8, [2, 2, 1]),
        (linear(10), 3, 4, [1, 1, 1]),
        (linear(10), 2, 1, [1, 1]),
        ({1: 10, 2: 20, 4: 44}, 1, 8, [2]),
    ],
)
def test_slots_share_the_views_that_must_run_in_batches_that_are_no_slower(
    curve: dict[int, float], slots: int, mandatory: int, taken: list[int]
) -> None:
    """The knee is 1. Optional views run one by one; so do batches of 4 where they cost 10 % more."""
    scheduler: Scheduler[str] = Scheduler(cost_model({A: curve}), slots)
    ready_job(scheduler, 8, mandatory)
    assert sizes(scheduler, slots) == taken


def test_the_share_of_a_slot_is_halved_while_an_arrival_could_not_wait_for_it() -> None:
    """A view takes 10 ms; another request like it, with 35 ms, could wait for 25."""
    scheduler: Scheduler[str] = Scheduler(cost_model({A: linear(10)}), 1)
    ready_job(scheduler, 8, 8, default_budget=0.035)
    assert sizes(scheduler, 1) == [2]


def test_a_stop_reason_from_the_merge_answers_at_once() -> None:
    scheduler: Scheduler[str] = Scheduler(cost_model({A: linear(10)}), 1)
    job = Job("a", "m", (A,) * 4, 1, 1.0, PIXELS)
    scheduler.admit(job, 0.0)
    step = scheduler.next_batch(0, 0.0)
    assert isinstance(step, Decode)
    scheduler.ready(step, 0.0, 0.0)
    batch = scheduler.next_batch(0, 0.0)
    assert isinstance(batch, Batch)
    (done,) = scheduler.completed(batch, {job: Outcome(stop=StopReason.CAPACITY)}, 0.01, 0.01)
    assert done.outcome is StopReason.CAPACITY
    assert scheduler.next_batch(0, 0.01) is None


def test_drop_all_answers_every_job_once() -> None:
    scheduler: Scheduler[int] = Scheduler(cost_model({A: linear(10)}), 1)
    for number in range(5):
        scheduler.admit(Job(number, "m", (A,), 1, 10.0, PIXELS), 0.0)
    dropped = scheduler.drop_all(NotReady("closing"))
    assert sorted(done.job.payload for done in dropped) == [0, 1, 2, 3, 4]
    assert scheduler.drop_all(NotReady("closing")) == []
    assert scheduler.wake_at() is None
    assert scheduler.next_batch(0, 0.0) is None


def test_an_empty_scheduler_has_nothing_to_do_and_no_time_to_wake() -> None:
    scheduler: Scheduler[int] = Scheduler(cost_model({A: linear(10)}), 2)
    assert scheduler.next_batch(0, 5.0) is None
    assert scheduler.due(5.0) == []
    assert scheduler.wake_at() is None


def test_a_line_that_is_late_anyway_leaves_no_slot_idle() -> None:
    """Slots stuck for 35 ms have made all jobs late; one that waits behind a decoding image can't be made later."""
    scheduler: Scheduler[str] = Scheduler(cost_model({A: linear(10)}, decode_ms=2), 2)
    for name in "abcd":
        scheduler.admit(Job(name, "m", (A,), 1, 0.05, PIXELS), 0.0)
    first, second = (scheduler.next_batch(slot, 0.035) for slot in (0, 1))
    assert isinstance(first, Decode)
    assert isinstance(second, Decode)
    assert [first.job.payload, second.job.payload] == ["a", "b"]
