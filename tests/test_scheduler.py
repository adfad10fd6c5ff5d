"""The scheduler in virtual time: laws over random histories first, then histories computed by hand."""

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulator import (
    PIXELS,
    TOLERANCE,
    A,
    Arrival,
    B,
    C,
    Pool,
    Record,
    check_promises,
    check_settled,
    cost_model,
    flat,
    linear,
)
from tta_server.costs import Bucket
from tta_server.errors import BackendFailed, Cancelled, InvalidInput, NotReady, Overloaded
from tta_server.jobs import Batch, Bounds, Decode, Job, Merged
from tta_server.scheduler import Scheduler
from tta_server.stopping import StopReason

CPU = {A: linear(8), B: linear(15), C: linear(3)}
GPU = {A: flat(8), B: flat(15), C: flat(3)}
MACHINES = {"cpu": CPU, "gpu": GPU}


@st.composite
def arrivals(
    draw: st.DrawFn,
    most_mandatory: int = 1,
    models: Sequence[tuple[Bucket, ...]] = ((A, B), (C,)),
    calm: bool = True,
    most_views: int = 6,
) -> list[Arrival]:
    """A burst or a trickle of requests; not calm: clients leave and views are lost."""
    at, history = 0, []
    for gap in draw(st.lists(st.integers(0, 30), min_size=1, max_size=10)):
        at += gap
        buckets = draw(st.lists(st.sampled_from(draw(st.sampled_from(list(models)))), min_size=1, max_size=most_views))
        arrival = Arrival(
            at,
            budget_ms=draw(st.integers(1, 150)),
            buckets=tuple(buckets),
            mandatory=min(draw(st.integers(1, most_mandatory)), len(buckets)),
        )
        if not calm:
            leaves = draw(st.none() | st.integers(0, 60))
            lost = draw(st.frozensets(st.integers(0, 5), max_size=2))
            arrival = replace(arrival, leaves_ms=leaves, lost=lost)
        history.append(arrival)
    return history


# ---- laws ----


@given(
    history=arrivals(most_mandatory=3, calm=False),
    machine=st.sampled_from(sorted(MACHINES)),
    slots=st.integers(1, 3),
    decode_ms=st.sampled_from([0, 2]),
    finish_ms=st.sampled_from([0, 1]),
    failing=st.frozensets(st.integers(0, 12), max_size=3),
)
@settings(max_examples=250)
def test_whatever_happens_every_admitted_job_is_answered_once_and_in_time(
    history: list[Arrival], machine: str, slots: int, decode_ms: float, finish_ms: float, failing: frozenset[int]
) -> None:
    pool = Pool(MACHINES[machine], slots, decode_ms, finish_ms, fails=lambda number: number in failing)
    pool.run(history)
    check_settled(pool)


@pytest.mark.parametrize("machine", sorted(MACHINES))
@pytest.mark.parametrize("slots", [1, 2, 3])
@given(history=arrivals(calm=False), decode_ms=st.sampled_from([0, 2]), failing=st.frozensets(st.integers(0, 9)))
@settings(max_examples=80)
def test_truthful_costs_nobody_admitted_misses_the_plain_view(
    machine: str, slots: int, history: list[Arrival], decode_ms: float, failing: frozenset[int]
) -> None:
    pool = Pool(MACHINES[machine], slots, decode_ms, fails=lambda number: number in failing)
    pool.run(history)
    check_settled(pool)
    check_promises(pool)


@pytest.mark.parametrize(
    ("slots", "most_mandatory", "models", "finish_ms"),
    [
        pytest.param(1, 4, ((A,), (C,)), 0, id="one slot, several mandatory views"),
        pytest.param(1, 1, ((A, B), (C,)), 2, id="one slot, answers cost 2 ms"),
        pytest.param(3, 1, ((A, B), (C,)), 2, id="three slots, answers cost 2 ms"),
        pytest.param(1, 4, ((A, B), (C,)), 0, id="one slot, mandatory views of two buckets"),
        pytest.param(2, 4, ((A,), (C,)), 0, id="two slots, several mandatory views"),
    ],
)
@pytest.mark.parametrize("machine", sorted(MACHINES))
def test_truthful_costs_nobody_admitted_misses_a_mandatory_view(
    machine: str, slots: int, most_mandatory: int, models: Sequence[tuple[Bucket, ...]], finish_ms: float
) -> None:
    @given(history=arrivals(most_mandatory, models))
    @settings(max_examples=150)
    def holds(history: list[Arrival]) -> None:
        pool = Pool(MACHINES[machine], slots, 2, finish_ms)
        pool.run(history)
        check_settled(pool)
        check_promises(pool)

    holds()


@pytest.mark.parametrize(
    "bounds",
    [
        pytest.param(Bounds(), id="time"),
        pytest.param(Bounds(jobs=1), id="one job"),
        pytest.param(Bounds(jobs=2), id="two jobs"),
        pytest.param(Bounds(nbytes=2500), id="bytes"),
    ],
)
@pytest.mark.parametrize("slots", [1, 2])
def test_who_comes_back_when_told_is_admitted_if_nothing_else_came(bounds: Bounds, slots: int) -> None:
    @given(history=arrivals(models=((A,), (C,)), most_views=1))
    @settings(max_examples=80)
    def holds(history: list[Arrival]) -> None:
        first = Pool(CPU, slots, bounds=bounds)
        first.run(history)
        refused = [i for i, record in enumerate(first.records) if isinstance(record.refused, Overloaded)]
        if not refused:
            return
        record = first.records[refused[0]]
        assert isinstance(record.refused, Overloaded)
        back = record.refused_at + record.refused.retry_after + TOLERANCE
        again = Pool(CPU, slots, bounds=bounds)
        again.run([*history[: refused[0] + 1], replace(record.arrival, at_ms=back * 1e3)])
        assert again.records[-1].refused is None

    holds()


@given(history=arrivals(calm=False), slots=st.integers(1, 3))
def test_the_same_history_is_decided_the_same(history: list[Arrival], slots: int) -> None:
    def outcomes() -> list[tuple[float, str]]:
        return [(t, str(o)) for r in Pool(CPU, slots, 2).run(history) for t, o in r.answers]

    assert outcomes() == outcomes()


# ---- computed by hand ----


def handed(pool: Pool) -> list[list[tuple[int, int]]]:
    """Batches as (number of the arrival, view)."""
    return [[(pool.records.index(job.work), view) for job, view in batch.items] for _, batch in pool.batches]


def answered_ms(record: Record) -> float:
    ((time, _),) = record.answers
    return time * 1e3


def test_twelve_ms_a_view_and_a_budget_of_fifty_are_exactly_four_views() -> None:
    (record,) = Pool({A: linear(12)}).run([Arrival(0, 50, (A,) * 8)])
    assert record.handed == [0, 1, 2, 3]
    assert record.outcome is StopReason.DEADLINE
    assert answered_ms(record) == pytest.approx(48)


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
    assert answered_ms(record) == pytest.approx(answered)


def test_a_job_whose_views_are_all_done_is_answered_at_once() -> None:
    (record,) = Pool({A: linear(12)}).run([Arrival(0, 500, (A,) * 3)])
    assert record.outcome is StopReason.ALL_VIEWS
    assert answered_ms(record) == pytest.approx(36)


def test_a_new_plain_view_runs_before_more_views_of_an_old_job() -> None:
    pool = Pool({A: linear(12)})
    pool.run([Arrival(0, 200, (A,) * 3), Arrival(5, 200, (A,) * 3)])
    assert handed(pool)[:2] == [[(0, 0)], [(1, 0)]]
    assert [batch.items[0][1] for _, batch in pool.batches] == [0, 0, 1, 1, 2, 2]


def test_mandatory_views_run_in_the_order_of_deadlines() -> None:
    pool = Pool({A: linear(12)})
    pool.run([Arrival(0, 200), Arrival(1, 90), Arrival(1, 40), Arrival(1, 60)])
    assert [records for ((records, _),) in handed(pool)] == [0, 2, 3, 1]


def test_every_mandatory_view_comes_before_any_optional_one() -> None:
    pool = Pool({A: linear(12)})
    pool.run([Arrival(0, 300, (A,) * 4, mandatory=2), Arrival(1, 300, (A,) * 4, mandatory=3)])
    views = [(job, view) for batch in handed(pool) for job, view in batch]
    assert set(views[:5]) == {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)}


def test_optional_views_go_to_whoever_has_fewest_then_to_the_earlier_deadline() -> None:
    pool = Pool({A: linear(12)})
    pool.run([Arrival(0, 300, (A,) * 3), Arrival(1, 200, (A,) * 3)])
    assert [batch[0] for batch in handed(pool)] == [(0, 0), (1, 0), (1, 1), (0, 1), (1, 2), (0, 2)]


def test_views_are_shared_among_idle_slots() -> None:
    pool = Pool({A: linear(2)}, slots=2)
    (record,) = pool.run([Arrival(0, 500, (A,) * 8)])
    assert answered_ms(record) == pytest.approx(8)


def test_over_the_knee_views_of_several_jobs_ride_in_one_batch() -> None:
    pool = Pool({A: flat(10)})
    pool.run([Arrival(0, 200), Arrival(1, 200, (A,) * 10), Arrival(2, 200, (A,) * 10)])
    assert [len(batch) for batch in handed(pool)] == [1, 8, 8, 4]
    assert set(handed(pool)[3]) == {(1, 8), (1, 9), (2, 8), (2, 9)}


def test_views_of_other_buckets_wait_for_their_own_batch() -> None:
    pool = Pool({A: flat(10), B: flat(10)})
    pool.run([Arrival(0, 500, (A, A, B, B, A))])
    assert handed(pool) == [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4)]]


def test_a_batch_stays_short_where_a_longer_one_would_make_somebody_late() -> None:
    pool = Pool({A: {1: 2, 2: 3.4, 4: 6, 8: 11}, C: linear(10)})
    first, second = pool.run([Arrival(0, 200, (C,)), Arrival(1, 20, (A,) * 8)])
    assert first.outcome is StopReason.ALL_VIEWS
    assert second.outcome in (StopReason.ALL_VIEWS, StopReason.DEADLINE)
    assert answered_ms(second) <= 21
    assert max(map(len, handed(pool))) == 4


# ---- refusals ----


def test_overload_is_refused_with_the_time_to_come_back() -> None:
    pool = Pool({A: linear(10)})
    records = pool.run([Arrival(0, 25), Arrival(0, 25), Arrival(0, 25)])
    assert [r.refused is None for r in records] == [True, True, False]
    refused = records[2].refused
    assert isinstance(refused, Overloaded)
    assert refused.retry_after == pytest.approx(0.005)
    back = Pool({A: linear(10)}).run([Arrival(0, 25), Arrival(0, 25), Arrival(0, 25), Arrival(5.001, 25)])
    assert back[3].refused is None
    assert answered_ms(back[3]) == pytest.approx(30)


def test_who_would_have_made_another_late_is_told_when_that_one_is_done() -> None:
    """The second one's deadline comes first; it would fit only after the first one's view."""
    history = [Arrival(0, 8), Arrival(0, 3, (C,))]
    refused = Pool(CPU).run(history)[1].refused
    assert isinstance(refused, Overloaded)
    back = Arrival(refused.retry_after * 1e3 + 0.001, 3, (C,))
    assert Pool(CPU).run([*history, back])[2].refused is None


def test_nobody_is_admitted_at_the_cost_of_someone_admitted_before() -> None:
    records = Pool({A: linear(10)}).run([Arrival(0, 100), Arrival(1, 20), Arrival(2, 15)])
    assert [r.refused is None for r in records] == [True, True, False]
    assert records[1].outcome is StopReason.ALL_VIEWS


def test_the_time_that_answers_take_is_kept_free_for_them() -> None:
    """A view takes 10 ms, an answer 5: the second one's would be ready at 30, not at 25."""
    pool = Pool({A: linear(10)}, finish_ms=5)
    pool.run([Arrival(0, 100), Arrival(1, 26)])
    check_promises(pool)


def test_slots_are_kept_for_the_mandatory_views_of_who_is_being_decoded() -> None:
    """Decoding takes 2 ms, a view 8: both views of the second job have to start at 2, on both slots."""
    pool = Pool(CPU, slots=2, decode_ms=2)
    pool.run([Arrival(0, 18), Arrival(0, 10, (A, A), mandatory=2)])
    check_promises(pool)


def test_nobody_overtakes_who_waits_behind_a_decoding_image() -> None:
    pool = Pool(CPU, slots=2, decode_ms=2)
    pool.run([Arrival(0, 15), Arrival(0, 16, (C,)), Arrival(1, 7, (C, C), mandatory=2)])
    check_promises(pool)


def test_optional_views_of_others_do_not_break_the_promise_to_come_back() -> None:
    history = [Arrival(0, 900, (A,) * 3), Arrival(1, 900)]
    refused = Pool({A: linear(30)}, bounds=Bounds(jobs=1)).run(history)[1].refused
    assert isinstance(refused, Overloaded)
    back = Arrival(1 + refused.retry_after * 1e3 + 0.001, 900)
    assert Pool({A: linear(30)}, bounds=Bounds(jobs=1)).run([*history, back])[2].refused is None


def test_the_number_of_waiting_jobs_is_bounded() -> None:
    records = Pool({A: linear(10)}, bounds=Bounds(jobs=2)).run([Arrival(0, 900), Arrival(0, 900), Arrival(0, 900)])
    assert [type(r.refused) for r in records] == [type(None), type(None), Overloaded]


def test_the_bytes_of_waiting_jobs_are_bounded() -> None:
    bounds = Bounds(nbytes=1000)
    fits = Pool({A: linear(10)}, bounds=bounds).run([Arrival(0, 900, nbytes=600), Arrival(0, 900, nbytes=400)])
    assert [r.refused for r in fits] == [None, None]
    over = Pool({A: linear(10)}, bounds=bounds).run([Arrival(0, 900, nbytes=600), Arrival(0, 900, nbytes=401)])
    assert isinstance(over[1].refused, Overloaded)


def test_who_could_never_fit_is_not_told_to_come_back() -> None:
    (record,) = Pool({A: linear(10)}, bounds=Bounds(nbytes=1000)).run([Arrival(0, 900, nbytes=1001)])
    assert record.refused is not None
    assert not isinstance(record.refused, Overloaded)


def test_what_is_answered_makes_room() -> None:
    pool = Pool({A: linear(10)}, bounds=Bounds(jobs=1, nbytes=1000))
    records = pool.run([Arrival(0, 900, leaves_ms=2), Arrival(3, 900), Arrival(40, 900)])
    assert [r.refused for r in records] == [None, None, None]


@pytest.mark.parametrize(("slots", "mandatory", "least"), [(1, 1, 15), (1, 3, 39), (2, 3, 27), (3, 3, 15)])
def test_a_budget_that_an_idle_pool_could_not_keep_is_told_the_least(slots: int, mandatory: int, least: int) -> None:
    def refusal(budget_ms: float) -> BaseException | None:
        arrival = Arrival(0, budget_ms, (A,) * 4, mandatory)
        return Pool({A: linear(12)}, slots, decode_ms=2, finish_ms=1).run([arrival])[0].refused

    error = refusal(least - 1)
    assert isinstance(error, InvalidInput)
    (named,) = re.findall(r"(\d+) ms", str(error))
    assert int(named) == pytest.approx(least, abs=1)
    assert refusal(int(named)) is None


def test_the_least_budget_counts_each_view_by_its_own_size() -> None:
    (record,) = Pool({A: linear(10), B: linear(30)}).run([Arrival(0, 39, (A, B), mandatory=2)])
    assert isinstance(record.refused, InvalidInput)
    (record,) = Pool({A: linear(10), B: linear(30)}).run([Arrival(0, 41, (A, B), mandatory=2)])
    assert record.refused is None
    assert record.outcome is StopReason.ALL_VIEWS


def test_large_views_first_do_not_ask_for_more_than_they_take() -> None:
    (record,) = Pool({A: linear(10), B: linear(30)}).run([Arrival(0, 41, (B, A), mandatory=2)])
    assert record.refused is None
    assert record.outcome is StopReason.ALL_VIEWS


def test_a_slow_spell_does_not_end_in_failing_everybody() -> None:
    pool = Pool({A: linear(12)})
    for _ in range(25):
        pool.scheduler.costs.observe(A, 1, 1.0, 0.0)
    (record,) = pool.run([Arrival(1, 50, (A,))])
    assert record.refused is None, "an idle pool admits what the warm-up cost allows"
    assert record.handed == [0], "and runs it: only so can its costs be seen to have recovered"


# ---- reasons ----


def test_time_that_ran_out_is_called_deadline() -> None:
    (record,) = Pool({A: linear(12)}).run([Arrival(0, 23, (A,) * 2)])
    assert record.outcome is StopReason.DEADLINE
    assert answered_ms(record) == pytest.approx(12)


def test_slots_that_ran_out_are_called_capacity() -> None:
    pool = Pool({A: linear(12), C: linear(20)})
    first, second = pool.run([Arrival(0, 30, (A,) * 2), Arrival(1, 100, (C,))])
    assert first.outcome is StopReason.CAPACITY
    assert second.outcome is StopReason.ALL_VIEWS
    assert first.merged == 1


def test_a_batch_still_running_at_the_deadline_is_not_waited_for() -> None:
    scheduler: Scheduler[str] = Scheduler(cost_model({A: linear(25)}), 1)
    job = Job("a", "m", (A, A), 1, 0.1, PIXELS)
    scheduler.admit(job, 0.0)
    step = scheduler.next_batch(0, 0.0)
    assert isinstance(step, Decode)
    scheduler.ready(step, 0.0, 0.0)
    plain = scheduler.next_batch(0, 0.0)
    assert isinstance(plain, Batch)
    assert scheduler.completed(plain, [Merged()], 0.025, 0.025) == []
    slow = scheduler.next_batch(0, 0.025)
    assert isinstance(slow, Batch)
    wake = scheduler.wake_at()
    assert wake == pytest.approx(0.1, abs=1e-6)
    assert wake is not None
    (done,) = scheduler.due(wake)
    assert done.outcome is StopReason.DEADLINE
    assert scheduler.completed(slow, [Merged()], 0.5, 0.51) == [], "it is ignored on return"
    assert scheduler.wake_at() is None


# ---- faults ----


def test_a_failed_batch_fails_only_jobs_without_their_mandatory_views() -> None:
    pool = Pool({A: flat(10)}, fails=lambda number: number == 1)
    first, second = pool.run([Arrival(0, 300, (A,) * 10), Arrival(1, 300)])
    assert handed(pool)[1][0] == (1, 0)
    assert (0, 8) in handed(pool)[1]
    assert first.outcome is StopReason.BACKEND_FAILED
    assert first.merged == 8
    assert isinstance(second.outcome, BackendFailed)


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


def test_who_leaves_is_told_once_and_gives_his_slot_away() -> None:
    pool = Pool({A: linear(10)})
    first, second = pool.run([Arrival(0, 300, (A,) * 8, leaves_ms=15), Arrival(1, 300, (A,) * 2)])
    assert isinstance(first.outcome, Cancelled)
    assert second.outcome is StopReason.ALL_VIEWS
    assert len(first.handed) <= 2


def test_a_stop_reason_from_the_merge_answers_at_once() -> None:
    scheduler: Scheduler[str] = Scheduler(cost_model({A: linear(10)}), 1)
    job = Job("a", "m", (A,) * 4, 1, 1.0, PIXELS)
    scheduler.admit(job, 0.0)
    step = scheduler.next_batch(0, 0.0)
    assert isinstance(step, Decode)
    scheduler.ready(step, 0.0, 0.0)
    batch = scheduler.next_batch(0, 0.0)
    assert isinstance(batch, Batch)
    outcomes = [Merged(stop=StopReason.CAPACITY), *[Merged()] * (len(batch.items) - 1)]
    (done,) = scheduler.completed(batch, outcomes, 0.01, 0.01)
    assert done.outcome is StopReason.CAPACITY
    assert scheduler.next_batch(0, 0.01) is None


def test_drop_all_answers_everybody_once() -> None:
    scheduler: Scheduler[int] = Scheduler(cost_model({A: linear(10)}), 1)
    for number in range(5):
        scheduler.admit(Job(number, "m", (A,), 1, 10.0, PIXELS), 0.0)
    dropped = scheduler.drop_all(NotReady("closing"))
    assert sorted(done.job.work for done in dropped) == [0, 1, 2, 3, 4]
    assert scheduler.drop_all(NotReady("closing")) == []
    assert scheduler.wake_at() is None
    assert scheduler.next_batch(0, 0.0) is None


def test_an_empty_scheduler_has_nothing_to_do_and_no_time_to_wake() -> None:
    scheduler: Scheduler[int] = Scheduler(cost_model({A: linear(10)}), 2)
    assert scheduler.next_batch(0, 5.0) is None
    assert scheduler.due(5.0) == []
    assert scheduler.wake_at() is None


def test_a_line_that_is_late_anyway_leaves_no_slot_idle() -> None:
    """Slots stuck for 35 ms have made everybody late; who waits behind a decoding image can't be made later."""
    scheduler: Scheduler[str] = Scheduler(cost_model({A: linear(10)}, decode_ms=2), 2)
    for name in "abcd":
        scheduler.admit(Job(name, "m", (A,), 1, 0.05, PIXELS), 0.0)
    first, second = (scheduler.next_batch(slot, 0.035) for slot in (0, 1))
    assert isinstance(first, Decode)
    assert isinstance(second, Decode)
    assert [first.job.work, second.job.work] == ["a", "b"]
