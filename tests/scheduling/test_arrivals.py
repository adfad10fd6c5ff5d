"""Optional views leave room for the next plain view: `tests.support.laws.Law.RISK`, computed by hand."""

import math

import pytest

from tests.support.simulator import PIXELS, A, Arrival, B, C, D, Pool, cost_model, flat, linear
from tta_server.scheduling.arrivals import RECENT_SECONDS, ExpectedArrivals
from tta_server.scheduling.jobs import Batch, Decode, Job
from tta_server.scheduling.scheduler import Scheduler


def expected_arrivals(*given: tuple[str, float, float, float]) -> ExpectedArrivals:
    """Observe each of (model, default budget, seconds of a plain view, now)."""
    arrivals = ExpectedArrivals()
    for model, default_budget, plain, now in given:
        arrivals.observe(Job(None, model, (A,), 1, math.inf, PIXELS, default_budget=default_budget), plain, now)
    return arrivals


# ---- how long the next plain view may wait ----


def least(arrivals: ExpectedArrivals, now: float) -> float:
    return min((arrival.slack for arrival in arrivals.expected(now)), default=math.inf)


def test_no_arrival_is_expected_before_the_first() -> None:
    assert least(expected_arrivals(), 5.0) == math.inf


def test_the_next_may_wait_for_what_the_last_left_of_its_default_budget() -> None:
    assert least(expected_arrivals(("m", 0.2, 0.05, 0.0)), 1.0) == pytest.approx(0.15)


def test_the_model_with_the_least_slack_counts() -> None:
    assert least(expected_arrivals(("m", 0.2, 0.05, 0.0), ("n", 0.1, 0.02, 0.0)), 1.0) == pytest.approx(0.08)


def test_the_last_of_a_model_stands_for_the_next() -> None:
    assert least(expected_arrivals(("m", 0.1, 0.05, 0.0), ("m", 0.2, 0.01, 1.0)), 1.0) == pytest.approx(0.19)


@pytest.mark.parametrize(("later", "default_budget"), [(RECENT_SECONDS, 0.15), (RECENT_SECONDS + 0.001, math.inf)])
def test_a_model_is_forgotten_after_ten_seconds(later: float, default_budget: float) -> None:
    assert least(expected_arrivals(("m", 0.2, 0.05, 3.0)), 3.0 + later) == pytest.approx(default_budget)


def test_an_arrival_that_is_late_anyway_does_not_count() -> None:
    assert least(expected_arrivals(("m", 0.04, 0.05, 0.0), ("n", 0.1, 0.02, 0.0)), 0.0) == pytest.approx(0.08)


# ---- what a slot does about it ----


def test_optional_views_give_way_for_a_while_after_a_refusal_unless_the_pool_is_idle() -> None:
    """The third job is refused at 1 ms. Two plain views end at 10 ms; from then on one of two slots runs views."""
    crowd = [Arrival(0, 400, (A,) * 20), Arrival(0, 400, (A,) * 20), Arrival(1, 15)]
    pool = Pool({A: linear(10)}, slots=2)
    assert [record.refused is not None for record in pool.run(crowd)] == [False, False, True]
    running = [sum(start <= at < start + 0.0099 for start, _ in pool.batches) for at in (0.005, 0.055, 0.355)]
    assert running == [2, 1, 1]
    assert all(risky == (view > 0) for (_, view), risky in risks(pool))


def test_optional_views_start_again_half_a_second_after_a_refusal() -> None:
    crowd = [Arrival(0, 900, (A,) * 90), Arrival(0, 900, (A,) * 90), Arrival(1, 15)]
    pool = Pool({A: linear(10)}, slots=2)
    pool.run(crowd)
    running = [sum(start <= at < start + 0.0099 for start, _ in pool.batches) for at in (0.455, 0.555)]
    assert running == [1, 2]


def risks(pool: Pool) -> list[tuple[tuple[int, int], bool]]:
    """Each batch by its first view as (number of the arrival, view), and whether it was risky."""
    return [((batch.items[0][0].payload.number, batch.items[0][1]), batch.is_risky) for _, batch in pool.batches]


def test_on_a_single_slot_the_risk_is_taken_and_reported() -> None:
    """A view takes 15 ms and the next may wait 10: after its plain view the pool has nothing else to do."""
    pool = Pool({B: linear(15)})
    pool.run([Arrival(0, 200, (B,) * 3, default_budget_ms=25)])
    assert risks(pool) == [((0, 0), False), ((0, 1), True), ((0, 2), True)]


def test_what_the_next_can_wait_for_is_no_risk() -> None:
    pool = Pool({B: linear(15)})
    pool.run([Arrival(0, 200, (B,) * 2, default_budget_ms=31)])
    assert risks(pool) == [((0, 0), False), ((0, 1), False)]


def test_the_last_free_slot_of_a_busy_pool_takes_no_risk() -> None:
    """One slot is back at 8, the other at 15: a view of 15 ms on the first would delay the next one until 15, not 12.

    It starts when the other slot is idle too, since that one is then free for the next arrival.
    """
    pool = Pool({A: linear(8), B: linear(15), D: linear(15)}, slots=2)
    history = [Arrival(0, 300, (A, B, B), default_budget_ms=12), Arrival(0, 300, (D,))]
    pool.run(history)
    starts = [(round(at * 1e3, 3), batch.items[0][0].payload.number, batch.items[0][1]) for at, batch in pool.batches]
    assert starts[2:] == [(15, 0, 1), (30, 0, 2)]
    assert not any(risky for _, risky in risks(pool))


def test_the_last_slot_may_be_taken_if_another_is_free_soon_enough() -> None:
    """The other slot is back at 15, and the next may wait 9 from 8 on."""
    pool = Pool({A: linear(8), B: linear(15), D: linear(15)}, slots=2)
    pool.run([Arrival(0, 300, (A, B), default_budget_ms=17), Arrival(0, 300, (D,))])
    assert [round(at * 1e3, 3) for at, _ in pool.batches] == [0, 0, 8]


def test_a_slot_that_is_wanted_after_decoding_is_not_free_for_the_next() -> None:
    """At 5 the second image is being decoded: its view takes that slot until 20.

    An optional view of 15 ms on the third slot would delay the next arrival, which may wait 5, until then.
    """
    pool = Pool({B: linear(15)}, slots=3, decode_ms=5)
    pool.run([Arrival(0, 900, (B, B)), Arrival(0, 30, (B,), default_budget_ms=25)])
    assert [round(at * 1e3, 3) for at, batch in pool.batches if batch.items[0][1] == 1] == [20]


def test_a_plain_view_is_what_comes_next_however_many_the_last_one_asked_for() -> None:
    """Its four mandatory views take 32 ms, more than the default budget of 25; the next plain view takes 8."""
    pool = Pool({A: linear(8), B: linear(18)})
    pool.run([Arrival(0, 900, (A, A, A, A, B), mandatory=4, default_budget_ms=25)])
    assert risks(pool)[-1] == ((0, 4), True)


def test_a_model_without_recent_arrivals_is_no_risk() -> None:
    pool = Pool({B: linear(15), C: linear(3)})
    pool.run([Arrival(0, 100, (B,), default_budget_ms=16), Arrival(10_100, 200, (C, C), default_budget_ms=500)])
    assert not any(risky for _, risky in risks(pool))


def test_mandatory_work_is_never_a_risk() -> None:
    scheduler: Scheduler[str] = Scheduler(cost_model({A: flat(30)}), 1)
    job = Job("a", "m", (A,) * 8, 8, 1.0, PIXELS, default_budget=0.031)
    scheduler.admit(job, 0.0)
    decode = scheduler.next_batch(0, 0.0)
    assert isinstance(decode, Decode)
    scheduler.ready(decode, 0.0, 0.0)
    batch = scheduler.next_batch(0, 0.0)
    assert isinstance(batch, Batch)
    assert not batch.is_risky
