"""A device's scheduler, step by step, with values computed by hand: costs in milliseconds, without noise."""

import gc
import math
import weakref
from typing import Any

import pytest

from tests.support.device_steps import CURVE, DECODE, FINISH, Hand
from tests.support.simulator import A, Arrival, B, C
from tta_server.errors import BackendFailed, BudgetTooSmall, Overloaded, TooLarge
from tta_server.scheduling.jobs import MERGED, Batch, Bounds, Decode, Finish, Job, Outcome
from tta_server.scheduling.stopping import StopReason


def counts(batch: Batch[Any], *jobs: Job[Any]) -> list[int]:
    return [sum(other is job for other, _ in batch.items) for job in jobs]


# ---- one job ----


def test_all_views_of_a_job_alone_run_at_once_and_a_worker_makes_its_answer() -> None:
    hand = Hand()
    job = hand.admit()
    assert hand.scheduler.next_batch(0, 0) is None
    hand.decode(job)
    batch = hand.batch(1)
    assert (len(batch.items), batch.rows, batch.estimate) == (8, 8, pytest.approx(0.006))
    assert hand.complete(batch, 7) == [], "a worker makes the answer"
    answer = hand.chore(0, 7)
    assert isinstance(answer, Finish)
    assert (answer.job, answer.reason, answer.estimate) == (job, StopReason.ALL_VIEWS, pytest.approx(0.0005))
    assert len(hand.scheduler) == 0
    assert hand.scheduler.wake_at() is None


def test_a_quote_of_an_idle_pool_is_what_then_happens() -> None:
    quote = Hand().scheduler.quote(Arrival(0, 100, (A,) * 8).job(None, 0.0), 0.0)
    expected = [DECODE + CURVE[n] + FINISH for n in (1, 2, 4, 4, 8, 8, 8, 8)]
    assert [end * 1e3 for end in quote.ends] == pytest.approx(expected)
    assert (quote.views, quote.wait) == (8, 0)
    assert Hand().scheduler.quote(Arrival(0, 6, (A,) * 8).job(None, 0.0), 0.0).views == 2


def test_a_budget_that_an_idle_pool_can_not_keep_is_refused_for_good() -> None:
    with pytest.raises(BudgetTooSmall, match="6 ms"):
        Hand().admit(budget_ms=5)


def test_a_job_that_only_an_idle_pool_answers_in_time_is_alone_until_its_views_run() -> None:
    hand = Hand(workers=1)
    urgent = hand.admit(budget_ms=5.6)
    with pytest.raises(Overloaded):
        hand.admit()
    hand.decode(urgent)
    hand.complete(hand.batch(1), 5)
    hand.admit(6)


# ---- batches ----


def test_mandatory_views_of_all_jobs_come_first_then_optional_views_in_rounds() -> None:
    hand = Hand()
    late, soon, middle = (hand.admit(budget_ms=ms) for ms in (90, 70, 80))
    hand.decode(soon, middle, late)
    batch = hand.batch(2)
    assert [(job, view) for job, view in batch.items[:3]] == [(soon, 0), (middle, 0), (late, 0)]
    assert counts(batch, soon, middle, late) == [3, 3, 2]


def test_the_rest_of_a_rung_is_filled_and_no_larger_one_is_begun_for_few_views() -> None:
    hand = Hand()
    jobs = [hand.admit(buckets=(A,) * views) for views in (1, 1, 3)]
    hand.decode(*jobs)
    batch = hand.batch(2)
    assert (len(batch.items), batch.rows) == (4, 4), "5 views in 6 ms are less than 4 in 4.6 ms"
    assert counts(batch, *jobs) == [1, 1, 2]


def test_views_before_which_a_job_may_stop_ride_only_where_they_cost_nothing() -> None:
    """3 of 8 are expected: they run as 4, with one more for nothing. Then each further one runs alone."""
    hand = Hand()
    job = hand.admit()
    job.expected = 3
    hand.decode(job)
    batch = hand.batch(1)
    assert [view for _, view in batch.items] == [0, 1, 2, 3]
    hand.complete(batch, 6, Outcome(expected=5))
    batch = hand.batch(6)
    assert [view for _, view in batch.items] == [4]
    hand.complete(batch, 10, Outcome(expected=8))
    assert [view for _, view in hand.batch(10).items] == [5, 6, 7]


def test_padding_takes_views_of_the_jobs_whose_mandatory_ones_are_in_the_batch() -> None:
    """Three jobs that may stop after their first view fill a rung of four with a second view of the first."""
    hand = Hand()
    jobs = [hand.admit() for _ in range(3)]
    for job in jobs:
        job.expected = 1
    hand.decode(*jobs)
    assert counts(hand.batch(3), *jobs) == [2, 1, 1]


def test_a_batch_does_not_grow_if_that_makes_a_job_late() -> None:
    hand = Hand()
    rich, tight = hand.admit(budget_ms=90), hand.admit(budget_ms=13)
    hand.decode(tight, rich)
    batch = hand.batch(7)
    assert batch.rows == 4, "with 8 rows it would end at 13 ms"
    assert counts(batch, tight, rich) == [2, 2]


def test_a_batch_does_not_grow_beyond_what_an_expected_arrival_can_wait() -> None:
    hand = Hand()
    job = hand.admit(default_budget_ms=DECODE + CURVE[1] + FINISH + 4.7)
    hand.decode(job)
    assert hand.batch(1).rows == 4


def test_the_earliest_deadline_chooses_the_bucket_and_fills_it_with_views_of_it() -> None:
    hand = Hand()
    first, second, third = hand.admit(budget_ms=99, buckets=(C,)), hand.admit(budget_ms=80), hand.admit(budget_ms=95)
    hand.decode(second, third, first)
    batch = hand.batch(3)
    assert batch.bucket == A
    assert counts(batch, second, third, first) == [4, 4, 0]
    hand.complete(batch, 9)
    assert hand.batch(9).bucket == C


def test_a_slot_takes_its_next_batch_while_one_is_in_flight() -> None:
    hand = Hand()
    one, two = hand.admit(), hand.admit(buckets=(A,))
    hand.decode(one)
    first = hand.batch(1)
    hand.decode(two, ms=1)
    second = hand.batch(2)
    assert (second.items, second.estimate) == (((two, 0),), pytest.approx(0.004))
    hand.complete(first, 7)
    assert hand.scheduler.next_batch(0, 0.007) is None
    hand.complete(second, 11)
    assert [hand.chore(worker, 11).job for worker in (0, 1)] == [one, two]


# ---- workers ----


def test_workers_make_answers_before_they_decode() -> None:
    hand = Hand()
    job = hand.admit(buckets=(A,))
    hand.decode(job)
    batch = hand.batch(1)
    other = hand.admit(2)
    hand.complete(batch, 5)
    assert hand.scheduler.has_more_chores
    assert [type(hand.chore(worker, 5)) for worker in (0, 1)] == [Finish, Decode]
    assert not hand.scheduler.has_more_chores
    assert other.ready_at == pytest.approx(0.006)


def test_images_are_decoded_ahead_for_two_of_the_largest_batches() -> None:
    hand = Hand()
    jobs = [hand.admit(budget_ms=500) for _ in range(40)]
    hand.decode(*jobs[:32])
    assert hand.chore(0, 1) is None, "twice 16 mandatory views are ready"
    urgent = hand.admit(2, budget_ms=50)
    assert hand.chore(0, 2).job is urgent, "none of them is before this one"


# ---- faults ----


def test_a_failed_batch_fails_only_jobs_without_their_mandatory_views() -> None:
    hand = Hand()
    done = hand.admit(buckets=(A,) * 16)
    hand.decode(done)
    hand.complete(hand.batch(1), 7)
    new = hand.admit(7)
    hand.decode(new, ms=7)
    batch = hand.batch(8)
    assert counts(batch, new, done) == [5, 3], "7 optional views in turn, first of the job with fewer"
    finished = hand.scheduler.failed(batch, BackendFailed("it broke"), 0.013)
    assert [(failure.job, str(failure.outcome)) for failure in finished] == [(new, "it broke")]
    answer = hand.chore(0, 13)
    assert (answer.job, answer.reason) == (done, StopReason.BACKEND_FAILED)


def test_a_lost_mandatory_view_fails_its_job_and_a_stop_rule_ends_one() -> None:
    hand = Hand()
    lost, stopped = hand.admit(buckets=(A,)), hand.admit(buckets=(B,) * 16)
    hand.decode(lost, stopped)
    (failure,) = hand.complete(hand.batch(2), 6, Outcome(0b1, BackendFailed("a view holds NaN")))
    assert (failure.job, type(failure.outcome)) == (lost, BackendFailed)
    hand.complete(hand.batch(6), 12, Outcome(stop=StopReason.CERTAIN))
    assert not hand.scheduler.has_more_work
    assert hand.chore(0, 12).reason is StopReason.CERTAIN


def test_a_failed_decoding_a_client_that_leaves_and_the_end() -> None:
    hand = Hand()
    bad, leaves, rest = hand.admit(), hand.admit(), hand.admit()
    assert hand.scheduler.backlog().jobs == 3
    step = hand.chore(0, 0)
    (failure,) = hand.scheduler.failed(step, BackendFailed("it took too long"), 0.1e-3)
    assert failure.job is bad
    (left,) = hand.scheduler.cancel(leaves, 0.1e-3)
    assert left.job is leaves
    (dropped,) = hand.scheduler.drop_all(BackendFailed("the end"))
    assert dropped.job is rest
    assert (len(hand.scheduler), hand.scheduler.backlog().seconds) == (0, 0)


def test_a_batch_that_hangs_is_overdue_and_then_its_slot_is_stuck() -> None:
    hand = Hand()
    hand.decode(hand.admit(budget_ms=math.inf))
    batch = hand.batch(1)
    assert hand.scheduler.watch_at() == pytest.approx(1.0), "early, for the decoding has ended"
    assert hand.scheduler.overdue(1.01) == [batch]
    assert hand.scheduler.stuck(12) == [0]


# ---- bounds, groups, costs ----


def test_there_is_room_for_so_many_jobs() -> None:
    hand = Hand(bounds=Bounds(jobs=1))
    hand.admit()
    with pytest.raises(Overloaded) as refused:
        hand.admit()
    assert refused.value.reason == "jobs"
    with pytest.raises(TooLarge):
        Hand(bounds=Bounds(nbytes=10)).admit()


def test_a_group_is_admitted_whole_or_not_at_all() -> None:
    hand = Hand()
    jobs = [Arrival(0, 30, (A,)).job(None, 0.0) for _ in range(4)]
    hand.scheduler.admit_all(jobs, 0.0)
    assert len(hand.scheduler) == 4
    many = [Arrival(0, 30, (A,)).job(None, 0.0) for _ in range(40)]
    with pytest.raises(BudgetTooSmall, match="40 images"):
        hand.scheduler.admit_all(many, 0.0)
    assert len(hand.scheduler) == 4


def test_what_a_batch_took_is_learnt_for_its_rung() -> None:
    hand = Hand()
    costs = hand.scheduler.costs
    for number in range(20):
        job = hand.admit(number * 1e3, buckets=(A,) * 3)
        hand.decode(job, ms=number * 1e3)
        batch = hand.batch(number * 1e3 + 1)
        assert (len(batch.items), batch.rows) == (3, 4)
        hand.scheduler.completed(batch, dict.fromkeys(batch.views, MERGED), 0.003, number + 0.004)
        assert isinstance(hand.chore(0, number * 1e3 + 5), Finish)
        assert hand.chore(0, number * 1e3 + 6) is None
    assert costs.seconds(A, 4, 19.004) == pytest.approx(0.003)
    assert costs.seconds(A, 8, 19.004) == pytest.approx(0.006)


class Payload:
    """Stands for an image."""


@pytest.mark.parametrize("ends", ["answered", "left"])
def test_nothing_keeps_a_job_that_is_not_live(ends: str) -> None:
    hand = Hand()
    gone = []
    for number in range(3):
        job = hand.admit(number * 100, buckets=(A, B, C, A))
        job.payload = Payload()
        gone.append(weakref.ref(job.payload))
        hand.decode(job, ms=number * 100)
        batch = hand.batch(number * 100 + 1)
        hand.complete(batch, number * 100 + 6, Outcome(stop=StopReason.CERTAIN if ends == "answered" else None))
        if ends == "left":
            hand.scheduler.cancel(job, number * 100 + 7)
        assert isinstance(hand.chore(0, number * 100 + 8), Finish) == (ends == "answered")
        assert hand.chore(0, number * 100 + 9) is None
    del job, batch
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3
