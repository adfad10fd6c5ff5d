"""Laws that never fail prove nothing: each of these mistakes is made on purpose, and its law must find it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.histories import drawn, find_violation, violation_of
from tests.support.laws import Law
from tta_server.errors import TTAError
from tta_server.scheduling.admission import Admission
from tta_server.scheduling.arrivals import ExpectedArrivals
from tta_server.scheduling.batches import BatchBuilder
from tta_server.scheduling.costs import CostEstimate
from tta_server.scheduling.dispatch import Dispatcher
from tta_server.scheduling.jobs import Batch, Finished, Job, Outcome, Quote, Step
from tta_server.scheduling.outlook import Outlook
from tta_server.scheduling.pool import Pool
from tta_server.scheduling.queue import MandatoryQueue
from tta_server.scheduling.scheduler import Scheduler
from tta_server.scheduling.stopping import StopReason
from tta_server.scheduling.timers import DueTimers

SEED = "bugs"
HISTORIES = 1200


Mistake = Callable[[pytest.MonkeyPatch], None]

# ---- mistakes in what runs next ----


def optional_work_first(patch: pytest.MonkeyPatch) -> None:
    right = Dispatcher.next_step

    def next_step(dispatcher: Dispatcher[Any], slot: int, now: float) -> Step[Any] | None:
        dispatcher._pool.free(slot)
        return dispatcher._optional_step(slot, now) or right(dispatcher, slot, now)

    patch.setattr(Dispatcher, "next_step", next_step)


def nothing_is_delayed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BatchBuilder, "first_delayed", lambda builder, head, items, now: None)


def answers_may_be_late(patch: pytest.MonkeyPatch) -> None:
    right = BatchBuilder.first_delayed

    def first_delayed(builder: BatchBuilder[Any], head: Job[Any], items: Any, now: float) -> Job[Any] | None:
        delayed = right(builder, head, items, now)
        return None if delayed and delayed.mandatory_dispatched else delayed

    patch.setattr(BatchBuilder, "first_delayed", first_delayed)


def no_risk_rule(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BatchBuilder, "is_risky", lambda builder, items, now: False)


def views_do_not_give_way(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ExpectedArrivals, "are_crowded", lambda arrivals, now: False)


def batch_jobs_do_not_yield(patch: pytest.MonkeyPatch) -> None:
    right = Dispatcher._optional_step

    def optional(dispatcher: Dispatcher[Any], slot: int, now: float) -> Step[Any] | None:
        return None if any(job.is_batch for job in dispatcher._pool.queue) else right(dispatcher, slot, now)

    patch.setattr(Dispatcher, "_optional_step", optional)


def optional_views_on_one_slot(patch: pytest.MonkeyPatch) -> None:
    right = Dispatcher._optional_step

    def optional(dispatcher: Dispatcher[Any], slot: int, now: float) -> Step[Any] | None:
        slots = dispatcher._pool.slots
        return right(dispatcher, slot, now) if slots.idle == slots.number else None

    patch.setattr(Dispatcher, "_optional_step", optional)


def optional_views_may_end_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outlook, "ends_in_time", lambda outlook, job, now: True)


# ---- mistakes in what becomes of a job ----


def answered_jobs_stay_open(patch: pytest.MonkeyPatch) -> None:
    right = Pool.finish

    def finish(pool: Pool[Any], job: Job[Any], outcome: StopReason | TTAError) -> list[Finished[Any]]:
        was_open = job in pool.open_jobs
        finished = right(pool, job, outcome)
        if was_open:
            pool.open_jobs[job] = None
        return finished

    patch.setattr(Pool, "finish", finish)


def failed_views_run_again(patch: pytest.MonkeyPatch) -> None:
    right = Scheduler.failed

    def failed(scheduler: Scheduler[Any], step: Any, error: TTAError, now: float) -> list[Finished[Any]]:
        if not isinstance(step, Batch):
            return right(scheduler, step, error, now)
        pool, finished = scheduler._pool, list[Finished[Any]]()
        for job, view in step.items:
            if job in pool.live and not job.is_answerable and view >= job.mandatory:
                job.progress = job.progress.end_run()._replace(dispatched=view)
                pool.requeue(job)
            else:
                finished += right(scheduler, Batch(step.slot, step.bucket, ((job, view),)), error, now)
        pool.free(step.slot)
        return finished

    patch.setattr(Scheduler, "failed", failed)


def lost_views_run_again(patch: pytest.MonkeyPatch) -> None:
    right = Scheduler._apply_outcome

    def came_back(scheduler: Scheduler[Any], job: Job[Any], views: int, outcome: Outcome) -> list[Finished[Any]]:
        if outcome.lost and not job.is_mandatory(outcome.lost):
            job.progress = job.progress._replace(dispatched=outcome.lost.bit_length() - 1)
            scheduler._pool.requeue(job)
            return []
        return right(scheduler, job, views, outcome)

    patch.setattr(Scheduler, "_apply_outcome", came_back)


def answers_at_the_deadline(patch: pytest.MonkeyPatch) -> None:
    right = Outlook.outcome

    def outcome(outlook: Outlook[Any], job: Job[Any], now: float, was_due: bool) -> StopReason | TTAError | None:
        found = right(outlook, job, now, was_due)
        early = found in (StopReason.DEADLINE, StopReason.CAPACITY) and now < job.deadline
        return None if early else found

    patch.setattr(Outlook, "outcome", outcome)
    patch.setattr(Outlook, "changes_at", lambda outlook, job, now: job.deadline + 1e-7)


def stop_rules_are_ignored(patch: pytest.MonkeyPatch) -> None:
    right = Scheduler._apply_outcome

    def came_back(scheduler: Scheduler[Any], job: Job[Any], views: int, outcome: Outcome) -> list[Finished[Any]]:
        return right(scheduler, job, views, replace(outcome, stop=None))

    patch.setattr(Scheduler, "_apply_outcome", came_back)


def answers_are_lost(patch: pytest.MonkeyPatch) -> None:
    right = Scheduler._apply_outcome

    def came_back(scheduler: Scheduler[Any], job: Job[Any], views: int, outcome: Outcome) -> list[Finished[Any]]:
        right(scheduler, job, views, outcome)
        return []

    patch.setattr(Scheduler, "_apply_outcome", came_back)


def expected_gain_is_ignored(patch: pytest.MonkeyPatch) -> None:
    right = Scheduler._apply_outcome

    def came_back(scheduler: Scheduler[Any], job: Job[Any], views: int, outcome: Outcome) -> list[Finished[Any]]:
        finished = right(scheduler, job, views, outcome)
        job.expected_gain = 1.0
        return finished

    patch.setattr(Scheduler, "_apply_outcome", came_back)


def answers_seem_free(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scheduler, "_charge_finishing", lambda scheduler, slot, finished, now: None)


def the_clock_answers(patch: pytest.MonkeyPatch) -> None:
    right = Scheduler._settle_if_due

    def fell_due(scheduler: Scheduler[Any], job: Job[Any], now: float) -> list[Finished[Any]]:
        pool = scheduler._pool
        outcome = job.progress.stop or pool.outlook.outcome(job, now, was_due=True)
        return pool.finish(job, outcome) if outcome else right(scheduler, job, now)

    patch.setattr(Scheduler, "_settle_if_due", fell_due)


def failure_of_all(patch: pytest.MonkeyPatch) -> None:
    right = Scheduler.failed

    def failed(scheduler: Scheduler[Any], step: Any, error: TTAError, now: float) -> list[Finished[Any]]:
        if not isinstance(step, Batch):
            return right(scheduler, step, error, now)
        scheduler._pool.free(step.slot)
        for job, _ in step.items:
            job.progress = job.progress.end_run()
        return [done for job in dict(step.items) for done in scheduler._pool.finish(job, error)]

    patch.setattr(Scheduler, "failed", failed)


def quote_counts_itself(patch: pytest.MonkeyPatch) -> None:
    def quote(scheduler: Scheduler[Any], job: Job[Any], now: float) -> Quote:
        return scheduler._pool.live.quote(job, 1 + len(scheduler._pool.open_jobs), now)

    patch.setattr(Scheduler, "quote", quote)


def quote_is_a_promise(patch: pytest.MonkeyPatch) -> None:
    right = Scheduler.quote

    def quote(scheduler: Scheduler[Any], job: Job[Any], now: float) -> Quote:
        found = right(scheduler, job, now)
        scheduler._pool.slots.take(0, now + found.ends[0])
        return found

    patch.setattr(Scheduler, "quote", quote)


# ---- mistakes in queue, costs and timers ----


def reversed_queue(patch: pytest.MonkeyPatch) -> None:
    def backwards(queue: MandatoryQueue[Any]) -> Iterator[Job[Any]]:
        return reversed(queue._jobs)

    patch.setattr(MandatoryQueue, "__iter__", backwards)


def priorities_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Job, "is_batch", False)


def nothing_seems_to_run(patch: pytest.MonkeyPatch) -> None:
    def retry_after(queue: MandatoryQueue[Any], job: Job[Any], now: float) -> float:
        busy, queue._slots._busy = queue._slots._busy, {}
        seconds = right(queue, job, now)
        queue._slots._busy = busy
        return seconds

    right = MandatoryQueue.retry_after
    patch.setattr(MandatoryQueue, "retry_after", retry_after)


def long_queue_seems_empty(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MandatoryQueue, "_lateness_bound", lambda queue, loads, deadlines, lead, now: now + loads - deadlines)


def costs_never_recover(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CostEstimate, "estimate", lambda track, now: track._high)


def who_leaves_stays_in_the_queue(patch: pytest.MonkeyPatch) -> None:
    def remove(live: Admission[Any], job: Job[Any]) -> None:
        del live._jobs[job]
        live.nbytes -= job.nbytes

    patch.setattr(Admission, "remove", remove)


def due_times_do_not_move(patch: pytest.MonkeyPatch) -> None:
    def set_due(timers: DueTimers[Any], job: Job[Any], at: float) -> None:
        if job not in timers._entries:
            right(timers, job, at)

    right = DueTimers.set
    patch.setattr(DueTimers, "set", set_due)


MISTAKES: dict[Mistake, Law] = {
    optional_work_first: Law.MANDATORY_FIRST,
    nothing_is_delayed: Law.PROMISED,
    the_clock_answers: Law.BY_SLOTS,
    answers_may_be_late: Law.BY_SLOTS,
    answered_jobs_stay_open: Law.ANSWERED,
    failed_views_run_again: Law.ONCE_IN_ORDER,
    lost_views_run_again: Law.ONCE_IN_ORDER,
    answers_at_the_deadline: Law.PROMPT,
    stop_rules_are_ignored: Law.PROMPT,
    answers_are_lost: Law.ANSWERED,
    expected_gain_is_ignored: Law.WORTH,
    no_risk_rule: Law.RISK,
    views_do_not_give_way: Law.RISK,
    batch_jobs_do_not_yield: Law.BATCH_YIELDS,
    optional_views_on_one_slot: Law.WORKING,
    optional_views_may_end_late: Law.IN_TIME,
    answers_seem_free: Law.ADMITTED,
    failure_of_all: Law.FAULTS,
    quote_counts_itself: Law.QUOTED,
    quote_is_a_promise: Law.QUOTED,
    reversed_queue: Law.ORDER,
    priorities_ignored: Law.BATCH_YIELDS,
    nothing_seems_to_run: Law.ADMITTED,
    long_queue_seems_empty: Law.PROMISED,
    costs_never_recover: Law.RECOVERED,
    who_leaves_stays_in_the_queue: Law.ANSWERED,
    due_times_do_not_move: Law.PROMPT,
}


@pytest.mark.parametrize(("mistake", "law"), MISTAKES.items())
def test_a_mistake_breaks_its_law(mistake: Mistake, law: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        mistake(patch)
        found = find_violation(SEED, range(HISTORIES))
    assert found is not None
    number, broken = found
    assert broken.law is law
    assert violation_of(drawn(SEED, number)) is None, "it is the mistake that breaks it"
