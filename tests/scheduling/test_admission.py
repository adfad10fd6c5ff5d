"""Which jobs are admitted, which are refused and why, and what a quote says: computed by hand in virtual time."""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.simulator import PIXELS, A, Arrival, B, C, Faults, Pool, Record, cost_model, flat, linear
from tta_server.errors import BudgetTooSmall, InvalidInput, Overloaded, TooLarge
from tta_server.scheduling.jobs import Bounds, Decode, Job, Quote
from tta_server.scheduling.scheduler import Scheduler
from tta_server.scheduling.stopping import StopReason

CPU = {A: linear(8), B: linear(15), C: linear(3)}


def served(records: Sequence[Record]) -> bool:
    """Whether all of them were admitted and answered."""
    return all(record.refused is None and isinstance(record.outcome, StopReason) for record in records)


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
    assert back[3].answered_ms == pytest.approx(30)


def test_a_job_that_would_make_another_late_is_refused_until_that_one_is_done() -> None:
    """The second one's deadline comes first; it would fit only after the first one's view."""
    history = [Arrival(0, 8), Arrival(0, 3, (C,))]
    refused = Pool(CPU).run(history)[1].refused
    assert isinstance(refused, Overloaded)
    back = Arrival(refused.retry_after * 1e3 + 0.001, 3, (C,))
    assert Pool(CPU).run([*history, back])[2].refused is None


def test_no_job_is_admitted_at_the_cost_of_an_admitted_one() -> None:
    records = Pool({A: linear(10)}).run([Arrival(0, 100), Arrival(1, 20), Arrival(2, 15)])
    assert [r.refused is None for r in records] == [True, True, False]
    assert records[1].outcome is StopReason.ALL_VIEWS


def test_the_time_that_answers_take_is_kept_free_for_them() -> None:
    """A view takes 10 ms, an answer 5: the second one's would be ready at 30, not at 25."""
    records = Pool({A: linear(10)}, finish_ms=5).run([Arrival(0, 100), Arrival(1, 26)])
    assert isinstance(records[1].refused, Overloaded)
    records = Pool({A: linear(10)}, finish_ms=5).run([Arrival(0, 100), Arrival(1, 30)])
    assert records[1].outcome is StopReason.ALL_VIEWS


@pytest.mark.parametrize(
    ("views", "tiles", "amount"),
    [
        (1, 1, "1 view of m for this image takes"),
        (2, 1, "2 views of m for this image take"),
        (1, 3, "1 view in 3 tiles of m for this image takes"),
        (2, 3, "2 views in 3 tiles of m for this image take"),
    ],
)
def test_a_budget_that_is_too_small_names_what_takes_how_long(views: int, tiles: int, amount: str) -> None:
    buckets = (A,) * (views * tiles)
    job = Job(None, "m", buckets, len(buckets), deadline=0.005, pixels=PIXELS, tiles=tiles)
    with pytest.raises(BudgetTooSmall, match=f"^the budget is too small: {amount} about "):
        Scheduler[None](cost_model({A: linear(10)}), 1).admit(job, 0.0)


def test_slots_are_kept_for_the_mandatory_views_of_a_decoding_job() -> None:
    """Decoding takes 2 ms, a view 8: both views of the second job have to start at 2, on both slots."""
    records = Pool(CPU, slots=2, decode_ms=2).run([Arrival(0, 18), Arrival(0, 10, (A, A), mandatory=2)])
    assert served(records)


def test_no_job_overtakes_one_that_waits_behind_a_decoding_image() -> None:
    records = Pool(CPU, slots=2, decode_ms=2).run(
        [Arrival(0, 15), Arrival(0, 16, (C,)), Arrival(1, 7, (C, C), mandatory=2)]
    )
    assert served([record for record in records if record.refused is None])


def test_optional_views_of_others_do_not_break_the_promise_to_come_back() -> None:
    history = [Arrival(0, 900, (A,) * 3), Arrival(1, 900)]
    refused = Pool({A: linear(30)}, bounds=Bounds(jobs=1)).run(history)[1].refused
    assert isinstance(refused, Overloaded)
    back = Arrival(1 + refused.retry_after * 1e3 + 0.001, 900)
    assert Pool({A: linear(30)}, bounds=Bounds(jobs=1)).run([*history, back])[2].refused is None


def test_a_job_that_returns_does_not_wait_for_an_optional_view() -> None:
    """The slot is busy until 17, and 15 ms more with the second view: the third's 8 ms must not end before 40."""
    history = [Arrival(2, 146, (B,)), Arrival(5, 79, (B,)), Arrival(8, 8)]
    refused = Pool(CPU).run(history)[2].refused
    assert isinstance(refused, Overloaded)
    assert refused.retry_after == pytest.approx(0.024)


def test_without_a_free_place_retry_after_counts_both_place_and_time() -> None:
    """A place is free at 3, but the slot only at 11."""
    history = [Arrival(0, 3, (C,)), Arrival(0, 11), Arrival(0, 3, (C,))]
    refused = Pool(CPU, bounds=Bounds(jobs=2)).run(history)[2].refused
    assert isinstance(refused, Overloaded)
    assert refused.reason == "jobs"
    assert refused.retry_after == pytest.approx(0.011)


def test_the_number_of_waiting_jobs_is_bounded() -> None:
    records = Pool({A: linear(10)}, bounds=Bounds(jobs=2)).run([Arrival(0, 900), Arrival(0, 900), Arrival(0, 900)])
    assert [type(r.refused) for r in records] == [type(None), type(None), Overloaded]


def test_the_bytes_of_waiting_jobs_are_bounded() -> None:
    bounds = Bounds(nbytes=1000)
    fits = Pool({A: linear(10)}, bounds=bounds).run([Arrival(0, 900, nbytes=600), Arrival(0, 900, nbytes=400)])
    assert [r.refused for r in fits] == [None, None]
    over = Pool({A: linear(10)}, bounds=bounds).run([Arrival(0, 900, nbytes=600), Arrival(0, 900, nbytes=401)])
    assert isinstance(over[1].refused, Overloaded)


def test_a_job_that_never_fits_has_no_retry_after() -> None:
    (record,) = Pool({A: linear(10)}, bounds=Bounds(nbytes=1000)).run([Arrival(0, 900, nbytes=1001)])
    assert record.refused is not None
    assert not isinstance(record.refused, Overloaded)


def test_what_is_answered_makes_room() -> None:
    pool = Pool({A: linear(10)}, bounds=Bounds(jobs=1, nbytes=1000))
    records = pool.run([Arrival(0, 900, cancels_ms=2), Arrival(3, 900), Arrival(40, 900)])
    assert [r.refused for r in records] == [None, None, None]


@pytest.mark.parametrize(("slots", "mandatory", "least"), [(1, 1, 15), (1, 3, 39), (2, 3, 27), (3, 3, 15)])
def test_a_budget_too_small_for_an_idle_pool_is_refused_with_the_least(slots: int, mandatory: int, least: int) -> None:
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


def test_a_slow_spell_does_not_make_all_jobs_fail() -> None:
    pool = Pool({A: linear(12)})
    for _ in range(25):
        pool.scheduler.costs.observe(A, 1, 1.0, 0.0)
    (record,) = pool.run([Arrival(1, 50, (A,))])
    assert record.refused is None, "an idle pool admits what the warm-up cost allows"
    assert record.dispatched == [0], "and runs it: only so can its costs be seen to have recovered"


@pytest.mark.parametrize(
    ("bounds", "budget", "reason"),
    [(Bounds(), 15, "time"), (Bounds(jobs=1), 900, "jobs"), (Bounds(nbytes=1500), 900, "bytes")],
)
def test_a_refusal_says_what_was_short(bounds: Bounds, budget: float, reason: str) -> None:
    records = Pool({A: linear(10)}, bounds=bounds).run([Arrival(0, 12), Arrival(0, budget)])
    refused = records[1].refused
    assert isinstance(refused, Overloaded)
    assert refused.reason == reason


# ---- what is promised is kept ----


def test_views_that_share_a_batch_are_priced_together() -> None:
    """Eight views take 12 ms together and 80 one by one."""
    pool = Pool({A: flat(10)})
    records = pool.run([Arrival(0, 30, (A,) * 8, mandatory=8), Arrival(0, 30, (A,) * 8, mandatory=8)])
    assert served(records)
    assert [len(batch) for batch in pool.dispatched()] == [8, 8]


def test_a_batch_is_not_cut_below_the_mandatory_views_that_were_priced_together() -> None:
    """At 69.5 all six views would take until 82.7 and three until 82.1: too late by 82. The two that must run, 81.9."""
    pool = Pool({A: flat(8), C: flat(30)}, finish_ms=4)
    first = Arrival(0, 61, (C, C))
    records = pool.run([first, Arrival(0, 104, (C,)), Arrival(38, 44, (A,) * 6, mandatory=2)])
    assert served(records)
    assert pool.dispatched()[-1] == [(2, 0), (2, 1)]


def test_a_job_that_overtakes_a_decoding_image_is_not_late_itself() -> None:
    """Its second view would start too late.

    If the first one's first view began at once, two slots would be left for the second one's four views.
    """
    first = Arrival(2, 15, (A, A), mandatory=2)
    assert served(Pool(CPU, slots=3, finish_ms=4).run([first, Arrival(2, 14, (C,) * 4, mandatory=4)]))


def test_an_answer_is_expected_only_from_a_batch_that_can_complete_it() -> None:
    """The first job's views end at 10 and 20, its answer is made by 24; then 10 and 4 for the second: 38."""
    records = Pool({A: linear(10)}, finish_ms=4).run([Arrival(0, 24, (A, A), mandatory=2), Arrival(5, 34)])
    assert served(records)


def test_answers_after_a_failed_batch_take_their_time_too() -> None:
    """The first job's second view fails at 20, and its answer is made until 25; the second's would be by 40, not 37."""
    pool = Pool({A: linear(10)}, finish_ms=5, faults=Faults(fails={1}))
    first, second = pool.run([Arrival(0, 900, (A, A)), Arrival(22, 15)])
    assert first.outcome is StopReason.BACKEND_FAILED
    assert isinstance(second.refused, Overloaded)


def test_errors_take_no_time() -> None:
    """The first job's only view is lost at 10; the second is admitted then as if nothing had been."""
    scheduler: Scheduler[str] = Scheduler(cost_model({A: linear(10)}, finish_ms=5), 1)
    lost = Job("lost", "m", (A,), 1, 1.0, PIXELS)
    scheduler.admit(lost, 0.0)
    step = scheduler.next_batch(0, 0.0)
    assert isinstance(step, Decode)
    scheduler.failed(step, InvalidInput("not an image"), 0.001)
    assert scheduler.quote(Job("next", "m", (A,), 1, 1.0, PIXELS), 0.001).ends == pytest.approx((0.015,))


# ---- quotes ----


def quoted(pool: Pool, arrival: Arrival) -> tuple[int, Any, list[float]]:
    """Views, and milliseconds until it would be admitted and until each answer."""
    quote = pool.quote(arrival)
    return quote.views, pytest.approx(quote.wait * 1e3), [round(end * 1e3, 6) for end in quote.ends]


@pytest.mark.parametrize(
    ("slots", "decode_ms", "finish_ms", "mandatory", "views", "ends"),
    [
        pytest.param(1, 0, 0, 1, 5, [10, 20, 30, 40, 50, 60], id="one slot"),
        pytest.param(1, 2, 3, 1, 4, [15, 25, 35, 45, 55, 65], id="an answer is made once"),
        pytest.param(1, 2, 3, 3, 4, [35, 45, 55, 65], id="from the mandatory views on"),
        pytest.param(2, 2, 3, 1, 6, [15, 15, 25, 25, 35, 35], id="two slots"),
        pytest.param(4, 6, 0, 1, 6, [16, 16, 16, 16, 26, 26], id="no view before the image is decoded"),
    ],
)
def test_a_quote_for_an_idle_pool(
    slots: int, decode_ms: float, finish_ms: float, mandatory: int, views: int, ends: list[float]
) -> None:
    pool = Pool({A: linear(10)}, slots, decode_ms, finish_ms)
    assert quoted(pool, Arrival(0, 50, (A,) * 6, mandatory)) == (views, 0, ends)


def test_a_quote_comes_after_what_waits() -> None:
    pool = Pool({A: linear(10)})
    pool.scheduler.admit(Arrival(0, 100).job(None, 0.0), 0.0)
    assert quoted(pool, Arrival(0, 25, (A, A))) == (1, 0, [20, 30])


def test_a_quote_for_a_job_that_would_be_refused_has_the_wait() -> None:
    pool = Pool({A: linear(10)})
    pool.scheduler.admit(Arrival(0, 12).job(None, 0.0), 0.0)
    assert quoted(pool, Arrival(0, 15, (A, A))) == (0, 5, [20, 30])


def test_a_quote_where_all_places_are_taken() -> None:
    pool = Pool({A: linear(10)}, bounds=Bounds(jobs=1))
    pool.scheduler.admit(Arrival(0, 100).job(None, 0.0), 0.0)
    assert quoted(pool, Arrival(0, 100, (A, A))) == (2, 10, [20, 30])


def test_a_quote_shares_spare_time_with_other_jobs() -> None:
    """At 10 another job has its plain view and wants nine more: of two turns one is ours."""
    pool = Pool({A: linear(10)})
    quotes: list[Quote] = []
    pool.at(0.010, lambda: quotes.append(pool.quote(Arrival(0, 55, (A,) * 4))))
    pool.run([Arrival(0, 100, (A,) * 10)])
    (quote,) = quotes
    assert [round(end * 1e3, 6) for end in quote.ends] == [10, 30, 50, 70]
    assert quote.views == 3


def test_a_quote_refuses_the_budget_that_admission_would() -> None:
    with pytest.raises(InvalidInput, match="give a budget of at least"):
        Pool({A: linear(10)}).quote(Arrival(0, 9))


# ---- several images of one request ----


def group(count: int, budget_ms: float, nbytes: int = 1000) -> list[Job[None]]:
    return [Job(None, "m", (A,), 1, budget_ms / 1e3, PIXELS, nbytes=nbytes) for _ in range(count)]


def scheduler(slots: int = 2, bounds: Bounds | None = None) -> Scheduler[None]:
    return Scheduler(cost_model({A: linear(10)}), slots, bounds)


def test_images_that_an_idle_pool_can_not_answer_together_are_refused_with_the_least_budget() -> None:
    pool = scheduler()
    with pytest.raises(BudgetTooSmall, match=r"the 20 images of this request take about 100 ms together"):
        pool.admit_all(group(20, 99), 0.0)
    pool.admit_all(group(20, 100.1), 0.0)
    assert len(pool) == 20


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [(Bounds(jobs=4), "8 images; at most 4 may wait"), (Bounds(nbytes=7999), "8000 bytes while they wait")],
)
def test_images_that_never_fit_together_are_too_large(bounds: Bounds, sentence: str) -> None:
    with pytest.raises(TooLarge, match=sentence):
        scheduler(bounds=bounds).admit_all(group(8, 1000), 0.0)


@pytest.mark.parametrize("count", [2, 6, 12])
def test_retry_after_of_several_images_is_when_all_of_them_fit(count: int) -> None:
    """Twelve images wait, which two slots answer in 60 ms; a millisecond is to spare."""
    pool = scheduler()
    pool.admit_all(group(12, 61), 0.0)
    with pytest.raises(Overloaded) as refused:
        pool.admit_all(group(count, 5 * count + 1), 0.0)
    assert 0.0589 <= refused.value.retry_after <= 0.0601
    assert len(pool) == 12
