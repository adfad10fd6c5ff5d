"""Laws that never fail prove nothing: each of these mistakes is made on purpose, and its law must find it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.support.histories import broken_by, drawn, find
from tests.support.laws import Law
from tta_server.errors import TTAError
from tta_server.scheduling.admission import Admission
from tta_server.scheduling.costs import Track
from tta_server.scheduling.jobs import LOST, Batch, Decode, Finished, Job, Merged, Outcome, Quote, Step
from tta_server.scheduling.queue import MandatoryQueue
from tta_server.scheduling.scheduler import Scheduler
from tta_server.scheduling.stopping import StopReason
from tta_server.scheduling.timers import DueTimers

SEED = "bugs"
HISTORIES = 1200


class Told(Scheduler[Any]):
    """Says everything as a scheduler does; the mistakes below are small changes of it."""


# ---- mistakes ----


class OptionalFirst(Told):
    def next_batch(self, slot: int, now: float) -> Step[Any] | None:
        self._release(slot)
        return self._optional(slot, now) or super().next_batch(slot, now)


class NoSpareCheck(Told):
    def _delayed(self, head: Job[Any], items: Sequence[tuple[Job[Any], int]], now: float) -> Job[Any] | None:
        return None


class AnsweredStayOpen(Told):
    def _finish(self, job: Job[Any], outcome: StopReason | TTAError) -> list[Finished[Any]]:
        was_open = job in self._open
        finished = super()._finish(job, outcome)
        if was_open:
            self._open[job] = None
        return finished


class FailedViewsRunAgain(Told):
    def failed(self, step: Decode[Any] | Batch[Any], error: TTAError, now: float) -> list[Finished[Any]]:
        if not isinstance(step, Batch):
            return super().failed(step, error, now)
        finished = []
        for job, view in step.items:
            if job in self._live and not job.answerable and view >= job.mandatory:
                job.dispatched, job.running = view, job.running - 1
                self._requeue(job)
            else:
                finished += super().failed(Batch(step.slot, step.bucket, ((job, view),)), error, now)
        self._release(step.slot)
        return finished


class LostViewsRunAgain(Told):
    def _came_back(self, job: Job[Any], view: int, outcome: Outcome) -> list[Finished[Any]]:
        if outcome is LOST and view >= job.mandatory:
            job.dispatched = view
            self._requeue(job)
            return []
        return super()._came_back(job, view, outcome)


class AnswersAtTheDeadline(Told):
    def _decide(self, job: Job[Any], now: float, was_due: bool) -> StopReason | TTAError | None:
        outcome = super()._decide(job, now, was_due)
        early = outcome in (StopReason.DEADLINE, StopReason.CAPACITY) and now < job.deadline
        return None if early else outcome

    def _set_due(self, job: Job[Any], now: float) -> None:
        self._timers.set(job, job.deadline + 1e-7)


class StopIsNotHeard(Told):
    def _came_back(self, job: Job[Any], view: int, outcome: Outcome) -> list[Finished[Any]]:
        return super()._came_back(job, view, Merged(outcome.expected_gain) if isinstance(outcome, Merged) else outcome)


class AnswersAreLost(Told):
    def _came_back(self, job: Job[Any], view: int, outcome: Outcome) -> list[Finished[Any]]:
        super()._came_back(job, view, outcome)
        return []


class WorthIsNotHeard(Told):
    def _came_back(self, job: Job[Any], view: int, outcome: Outcome) -> list[Finished[Any]]:
        finished = super()._came_back(job, view, outcome)
        job.expected_gain = 1.0
        return finished


class NoRiskRule(Told):
    def _is_risky(self, items: Sequence[tuple[Job[Any], int]], now: float) -> bool:
        return False


class BatchJobsDoNotYield(Told):
    def _optional(self, slot: int, now: float) -> Batch[Any] | None:
        return None if any(job.is_batch for job in self._queue) else super()._optional(slot, now)


class OptionalViewsOnOneSlot(Told):
    def _optional(self, slot: int, now: float) -> Batch[Any] | None:
        return super()._optional(slot, now) if self._slots.idle == self.slots else None


class NobodyAsksWhetherItEnds(Told):
    def _in_time(self, job: Job[Any], now: float) -> bool:
        return True


class AnswersSeemFree(Told):
    def _charge_finishing(self, slot: int, finished: Sequence[Finished[Any]], now: float) -> None:
        pass


class TheClockAnswers(Told):
    def _fell_due(self, job: Job[Any], now: float) -> list[Finished[Any]]:
        outcome = job.closing or self._decide(job, now, was_due=True)
        return self._finish(job, outcome) if outcome else super()._fell_due(job, now)


class AnswersMayBeLate(Told):
    def _delayed(self, head: Job[Any], items: Sequence[tuple[Job[Any], int]], now: float) -> Job[Any] | None:
        delayed = super()._delayed(head, items, now)
        return None if delayed and delayed.mandatory_dispatched else delayed


class FailureOfAll(Told):
    def failed(self, step: Decode[Any] | Batch[Any], error: TTAError, now: float) -> list[Finished[Any]]:
        if not isinstance(step, Batch):
            return super().failed(step, error, now)
        self._release(step.slot)
        return [done for job in dict(step.items) for done in self._finish(job, error)]


class QuoteCountsItself(Told):
    def quote(self, job: Job[Any], now: float) -> Quote:
        return self._live.quote(job, 1 + len(self._open), now)


class QuoteIsAPromise(Told):
    def quote(self, job: Job[Any], now: float) -> Quote:
        quote = super().quote(job, now)
        self._slots.take(0, now + quote.ends[0])
        return quote


# ---- mistakes in its parts ----


def reversed_line(patch: pytest.MonkeyPatch) -> None:
    def backwards(line: MandatoryQueue[Any]) -> Iterator[Job[Any]]:
        return reversed(line._jobs)

    patch.setattr(MandatoryQueue, "__iter__", backwards)


def priorities_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Job, "is_batch", False)


def nothing_seems_to_run(patch: pytest.MonkeyPatch) -> None:
    def retry_after(line: MandatoryQueue[Any], job: Job[Any], now: float) -> float:
        busy, line._slots._busy = line._slots._busy, {}
        seconds = told(line, job, now)
        line._slots._busy = busy
        return seconds

    told = MandatoryQueue.retry_after
    patch.setattr(MandatoryQueue, "retry_after", retry_after)


def crowd_seems_empty(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MandatoryQueue, "_lateness_bound", lambda line, loads, deadlines, lead, now: now + loads - deadlines)


def costs_never_recover(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Track, "estimate", lambda track, now: track._high)


def who_leaves_stays_in_line(patch: pytest.MonkeyPatch) -> None:
    def remove(live: Admission[Any], job: Job[Any]) -> None:
        del live._jobs[job]
        live.nbytes -= job.nbytes

    patch.setattr(Admission, "remove", remove)


def dates_do_not_move(patch: pytest.MonkeyPatch) -> None:
    def set_due(agenda: DueTimers[Any], job: Job[Any], at: float) -> None:
        if job not in agenda._entries:
            told(agenda, job, at)

    told = DueTimers.set
    patch.setattr(DueTimers, "set", set_due)


SCHEDULERS: dict[type[Scheduler[Any]], Law] = {
    OptionalFirst: Law.MANDATORY_FIRST,
    NoSpareCheck: Law.PROMISED,
    TheClockAnswers: Law.BY_SLOTS,
    AnswersMayBeLate: Law.BY_SLOTS,
    AnsweredStayOpen: Law.ANSWERED,
    FailedViewsRunAgain: Law.ONCE_IN_ORDER,
    LostViewsRunAgain: Law.ONCE_IN_ORDER,
    AnswersAtTheDeadline: Law.PROMPT,
    StopIsNotHeard: Law.PROMPT,
    AnswersAreLost: Law.ANSWERED,
    WorthIsNotHeard: Law.WORTH,
    NoRiskRule: Law.RISK,
    BatchJobsDoNotYield: Law.BATCH_YIELDS,
    OptionalViewsOnOneSlot: Law.WORKING,
    NobodyAsksWhetherItEnds: Law.IN_TIME,
    AnswersSeemFree: Law.ADMITTED,
    FailureOfAll: Law.FAULTS,
    QuoteCountsItself: Law.QUOTED,
    QuoteIsAPromise: Law.QUOTED,
}
PARTS: dict[Callable[[pytest.MonkeyPatch], None], Law] = {
    reversed_line: Law.ORDER,
    priorities_ignored: Law.BATCH_YIELDS,
    nothing_seems_to_run: Law.ADMITTED,
    crowd_seems_empty: Law.PROMISED,
    costs_never_recover: Law.RECOVERED,
    who_leaves_stays_in_line: Law.ANSWERED,
    dates_do_not_move: Law.PROMPT,
}


@pytest.mark.parametrize(("scheduler", "law"), SCHEDULERS.items())
def test_a_mistake_in_the_scheduler_breaks_its_law(scheduler: type[Scheduler[Any]], law: Law) -> None:
    found = find(SEED, range(HISTORIES), scheduler)
    assert found is not None
    number, broken = found
    assert broken.law is law
    assert broken_by(drawn(SEED, number)) is None, "it is the mistake that breaks it"


@pytest.mark.parametrize(("mistake", "law"), PARTS.items())
def test_a_mistake_in_its_parts_breaks_its_law(
    mistake: Callable[[pytest.MonkeyPatch], None], law: Law, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        mistake(patch)
        found = find(SEED, range(HISTORIES))
    assert found is not None
    number, broken = found
    assert broken.law is law
    assert broken_by(drawn(SEED, number)) is None, "it is the mistake that breaks it"
