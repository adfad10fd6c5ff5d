"""A pool in virtual time: it drives a Scheduler as the engine's threads do, and every step takes its true cost.

Each decision is checked against the laws (`tests.support.laws`) when it is made.
"""

import heapq
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from tests.support import laws
from tta_server.errors import BackendFailed, Overloaded, TTAError
from tta_server.scheduling.costs import MARGIN, Bucket, CostModel
from tta_server.scheduling.jobs import (
    Batch,
    Bounds,
    Decode,
    Finish,
    Finished,
    Job,
    Outcome,
    Priority,
    Quote,
    Step,
)
from tta_server.scheduling.progress import as_set
from tta_server.scheduling.scheduler import Scheduler
from tta_server.scheduling.stopping import StopReason

TOLERANCE = laws.TOLERANCE
PIXELS = 10_000
A = Bucket("m", 128, 128)
B = Bucket("m", 256, 128)
C = Bucket("n", 64, 64)
D = Bucket("o", 96, 96)

Curves = Mapping[Bucket, Mapping[int, float]]
"""For each bucket: batch size -> milliseconds."""


def linear(ms: float, upto: int = 8) -> dict[int, float]:
    """A CPU: n views cost n times one. Batch size -> milliseconds."""
    return {n: ms * n for n in (1, 2, 4, 8) if n <= upto}


def flat(ms: float) -> dict[int, float]:
    """A GPU: eight views cost little more than one. Batch size -> milliseconds."""
    return {1: ms, 2: ms * 1.05, 4: ms * 1.1, 8: ms * 1.2}


def cost_model(curves: Curves, decode_ms: float = 0.0, finish_ms: float = 0.0) -> CostModel:
    """Return a cost model that estimates exactly these milliseconds: the margin of warm-up is divided out."""
    costs = CostModel()
    for bucket, curve in curves.items():
        costs.warm(bucket, {n: ms / 1e3 / MARGIN for n, ms in curve.items()})
    for model in {bucket.model for bucket in curves}:
        costs.warm_stage("decode", model, PIXELS, decode_ms / 1e3 / MARGIN)
        costs.warm_stage("finish", model, PIXELS, finish_ms / 1e3 / MARGIN)
    return costs


LOST = "the model's output for a mandatory view holds NaN or infinity"
"""As it was when decisions were recorded."""


@dataclass(frozen=True)
class Arrival:
    """One request: its arrival, budget and views, when its client cancels (ms after arrival), which views are lost.

    `gains` are the expected gains after the first, the second, ... view is merged; the last holds for all beyond. The
    stop rule answers `certain` after `stops_after` views.
    """

    at_ms: float
    budget_ms: float
    buckets: tuple[Bucket, ...] = (A,)
    mandatory: int = 1
    cancels_ms: float | None = None
    lost: frozenset[int] = frozenset()
    nbytes: int = 1000
    priority: Priority = Priority.INTERACTIVE
    default_budget_ms: float = math.inf
    gains: tuple[float, ...] = (1.0,)
    stops_after: int | None = None
    pixels: int = PIXELS

    def job(self, work: Any, now: float) -> Job[Any]:
        return Job(
            payload=work,
            model=self.buckets[0].model,
            buckets=self.buckets,
            mandatory=self.mandatory,
            deadline=now + self.budget_ms / 1e3,
            pixels=self.pixels,
            nbytes=self.nbytes,
            priority=self.priority,
            default_budget=self.default_budget_ms / 1e3,
        )

    def outcome(self, merged: int) -> Outcome:
        """Return the outcome of a batch after which `merged` views, at least one, are merged."""
        stop = StopReason.CERTAIN if self.stops_after is not None and merged >= self.stops_after else None
        return Outcome(expected_gain=self.gains[min(merged, len(self.gains)) - 1], stop=stop)


@dataclass(eq=False)
class Record:
    """The state and the answers of one arrival."""

    arrival: Arrival
    job: "Job[Record]" = field(init=False)
    number: int = -1
    refused: TTAError | None = None
    arrived_at: float = 0.0
    answers: list[tuple[float, StopReason | TTAError]] = field(default_factory=list)
    decode_started: bool = False
    decoded: bool = False
    decoded_at: float = math.inf
    dispatched: list[int] = field(default_factory=list)
    running: int = 0
    merged: int = 0
    merged_mandatory: int = 0
    gain: float = 1.0
    left: bool = False
    hit_by_failure: bool = False

    def merge(self, views: int) -> Outcome:
        """A set of views has run; they are recorded before they count as merged, as slots do it."""
        lost = views & as_set(self.arrival.lost)
        if lost:
            self.job.lose(lost)
        error = BackendFailed(LOST) if lost else None
        merged = views & ~lost
        if not merged or self.job.merge(merged) is None:
            return Outcome(lost, error)
        self.merged += merged.bit_count()
        self.merged_mandatory += (merged & (1 << self.arrival.mandatory) - 1).bit_count()
        outcome = self.arrival.outcome(self.merged)
        self.gain = outcome.expected_gain
        return replace(outcome, lost=lost, error=error)

    @property
    def live(self) -> bool:
        return self.refused is None and not self.answers

    @property
    def outcome(self) -> StopReason | TTAError:
        ((_, outcome),) = self.answers
        return outcome

    @property
    def answered_ms(self) -> float:
        ((time, _),) = self.answers
        return time * 1e3

    @property
    def is_batch(self) -> bool:
        return self.arrival.priority is Priority.BATCH

    @property
    def may_fail(self) -> bool:
        """True if it may fail without a mistake of the scheduler."""
        return self.left or self.hit_by_failure or any(v < self.arrival.mandatory for v in self.arrival.lost)

    @property
    def needs_mandatory(self) -> bool:
        """True if some of its mandatory work has not started."""
        return len(self.dispatched) < self.arrival.mandatory

    @property
    def has_mandatory_work(self) -> bool:
        """True if a slot could run mandatory work of it now."""
        return not self.decode_started or (self.decoded and self.needs_mandatory)

    @property
    def open(self) -> bool:
        """True if a slot could run an optional view of it now."""
        return not self.needs_mandatory and len(self.dispatched) < len(self.arrival.buckets)

    @property
    def next_bucket(self) -> Bucket:
        return self.arrival.buckets[len(self.dispatched)]


@dataclass(eq=False)
class Run:
    """A step on a slot; `until` is when the slot should be free again, the answers that it may make included."""

    step: "Step[Record]"
    started: float
    seconds: float
    until: float
    fails: bool = False

    @property
    def jobs(self) -> "list[Job[Record]]":
        return list(dict(self.step.items)) if isinstance(self.step, Batch) else [self.step.job]


@dataclass(frozen=True)
class Faults:
    """What goes wrong in a pool.

    `fails` and `hangs` are the numbers of batches that fail, and that do not end by themselves. `speeds` are
    (ms, factor): from that time on every true cost is multiplied by the factor.
    """

    fails: Container[int] = frozenset()
    hangs: Container[int] = frozenset()
    speeds: tuple[tuple[float, float], ...] = ()

    @property
    def truthful(self) -> bool:
        """True if all true costs are those of warm-up."""
        return not self.hangs and all(factor == 1 for _, factor in self.speeds)

    def factor(self, now: float) -> float:
        return next((factor for at, factor in reversed(self.speeds) if at / 1e3 <= now), 1.0)


class Pool:
    """Runs a history of arrivals to its end."""

    def __init__(
        self,
        curves: Curves,
        slots: int = 1,
        decode_ms: float = 0.0,
        finish_ms: float = 0.0,
        bounds: Bounds | None = None,
        faults: Faults = Faults(),
        scheduler: type[Scheduler[Any]] = Scheduler,
    ) -> None:
        self.truth = cost_model(curves, decode_ms, finish_ms)
        self.scheduler: Scheduler[Record] = scheduler(cost_model(curves, decode_ms, finish_ms), slots, bounds)
        self.slots = slots
        self.now = 0.0
        self.records: list[Record] = []
        self.live: dict[Record, None] = {}
        self.recent: dict[str, tuple[float, Job[Record]]] = {}
        self.refused_at = -math.inf
        self.batches: list[tuple[float, Batch[Record]]] = []
        self.steps: list[tuple[float, Step[Record]]] = []
        self.runs: dict[int, Run] = {}
        self.finishing: dict[int, float] = {}
        self.truthful = faults.truthful
        self.knee_is_one = all(self.truth.knee(bucket) == 1 for bucket in curves)
        self._free = set(range(slots))
        self._faults = faults
        self._events: list[tuple[float, int, Callable[[], None], bool]] = []
        self._order = count()

    def dispatched(self) -> list[list[tuple[int, int]]]:
        """Return the batches as lists of (number of the arrival, view)."""
        return [[(job.payload.number, view) for job, view in batch.items] for _, batch in self.batches]

    # ---- true costs ----

    def view_seconds(self, bucket: Bucket, n: int = 1) -> float:
        return self.truth.seconds(bucket, n, 0) * self._faults.factor(self.now)

    def stage_seconds(self, stage: str, job: "Job[Record]") -> float:
        return self.truth.stage_seconds(stage, job.model, job.pixels, 0) * self._faults.factor(self.now)

    def answer_seconds(self, jobs: "Sequence[Job[Record]]") -> float:
        return sum(self.stage_seconds(job.finish, job) for job in jobs)

    def lead(self, record: Record) -> float:
        """Return the seconds that a slot needs for a job's next step, the answer that it may make included."""
        if not record.decode_started:
            return self.stage_seconds("decode", record.job)
        seconds = self.view_seconds(record.next_bucket)
        last = len(record.dispatched) + 1 >= record.arrival.mandatory
        return seconds + last * self.stage_seconds(record.job.finish, record.job)

    @property
    def idle(self) -> bool:
        return bool(self._free)

    def recover(self, seconds: float) -> None:
        """Let `seconds` pass; from then on costs are those of warm-up and nothing fails."""
        self._faults = Faults()
        self.now += seconds

    # ---- the world ----

    def at(self, seconds: float, action: Callable[[], None], silently: bool = False) -> None:
        """Schedule an action; `silently`: idle slots do not request work after it."""
        heapq.heappush(self._events, (seconds, next(self._order), action, silently))

    def arrive(self, arrival: Arrival) -> Record:
        record = Record(arrival, number=len(self.records))
        self.records.append(record)
        self.at(arrival.at_ms / 1e3, lambda: self._admit(record))
        return record

    def quote(self, arrival: Arrival) -> Quote:
        return self.scheduler.quote(arrival.job(None, self.now), self.now)

    def run(self, arrivals: Sequence[Arrival] = ()) -> list[Record]:
        for arrival in arrivals:
            self.arrive(arrival)
        rounds = 0
        while (first := self._next_moment()) < math.inf:
            self.now = max(self.now, first)
            rounds += 1
            laws.check_rounds(rounds)
            if self._advance(first):
                self._fill()
                laws.check_between(self)
                self._poll()
        laws.check_end(self)
        return self.records

    def _next_moment(self) -> float:
        event = self._events[0][0] if self._events else None
        times = (event, self.scheduler.wake_at(), self.scheduler.watch_at())
        return min((time for time in times if time is not None), default=math.inf)

    def _advance(self, first: float) -> bool:
        """Run what is due at `first`; return whether idle slots request work after it."""
        if self._events and self._events[0][0] == first:
            _, _, action, silently = heapq.heappop(self._events)
            action()
            return not silently
        if self.scheduler.wake_at() == first:
            self._wake(first)
        else:
            self._end_overdue(first)
        return True

    def _poll(self) -> None:
        """Let an idle slot request work half-way to the next event."""
        wake = self.scheduler.wake_at()
        if self._free and self._events and wake is not None:
            laws.check_poll(self, min(self._free), (self.now + min(wake, self._events[0][0])) / 2)

    def _wake(self, wake: float) -> None:
        finished = self.scheduler.due(self.now)
        laws.check_due(self, finished)
        self._settle(finished)
        laws.check_progress(wake, self.scheduler.wake_at(), is_reported=bool(finished))

    def _end_overdue(self, watch: float) -> None:
        overdue = self.scheduler.overdue(self.now)
        stuck = self.scheduler.stuck(self.now)
        laws.check_progress(watch, self.scheduler.watch_at(), is_reported=bool(overdue or stuck))
        for step in overdue:
            run = self.runs[step.slot]
            laws.check_overdue(self, run)
            run.fails = True
            self._end(run)

    def _admit(self, record: Record) -> None:
        record.arrived_at = self.now
        record.job = record.arrival.job(record, self.now)
        fits = laws.fits(self, record)
        try:
            self.scheduler.admit(record.job, self.now)
        except TTAError as refusal:
            record.refused = refusal
        laws.check_admission(record, fits)
        if isinstance(record.refused, Overloaded) and record.refused.reason == "time":
            self.refused_at = self.now
        if record.refused is None:
            self.recent[record.job.model] = (self.now, record.job)
            self.live[record] = None
            if record.arrival.cancels_ms is not None:
                self.at(self.now + record.arrival.cancels_ms / 1e3, lambda: self._cancel(record))

    def _cancel(self, record: Record) -> None:
        record.left |= record.live
        finished = self.scheduler.cancel(record.job, self.now)
        laws.check_cancelled(record, finished)
        self._settle(finished)

    # ---- slots ----

    def _fill(self) -> None:
        for slot in sorted(self._free):
            while slot in self._free and self._ask(slot):
                pass

    def _ask(self, slot: int) -> bool:
        """Let a slot request work; return whether it got some."""
        wake, finished = self.scheduler.wake_at(), self.scheduler.due(self.now)
        laws.check_not_early(self, wake, finished)
        self._settle(finished)
        self.finishing.pop(slot, None)
        step = self.scheduler.next_batch(slot, self.now)
        laws.check_counts(self, step)
        if step is None:
            laws.check_idle(self)
        else:
            laws.check_step(self, step)
            self._start(step)
        return step is not None

    def _start(self, step: "Step[Record]") -> None:
        self._free.discard(step.slot)
        self.steps.append((self.now, step))
        if isinstance(step, Finish):
            self._settle([Finished(step.job, step.reason)])
            self._make_answers(step.slot, [step.job])
            return
        run = self._start_decode(step) if isinstance(step, Decode) else self._start_batch(step)
        self.runs[step.slot] = run
        if not (isinstance(step, Batch) and len(self.batches) - 1 in self._faults.hangs):
            self.at(self.now + run.seconds, lambda: self._end(run))

    def _start_decode(self, step: "Decode[Record]") -> Run:
        seconds = self.stage_seconds("decode", step.job)
        record = step.job.payload
        record.decode_started, record.decoded_at = True, self.now + seconds
        return Run(step, self.now, seconds, self.now + seconds)

    def _start_batch(self, step: "Batch[Record]") -> Run:
        seconds = self.view_seconds(step.bucket, len(step.items))
        fails = len(self.batches) in self._faults.fails
        run = Run(step, self.now, seconds, self.now + seconds, fails)
        views: dict[Job[Record], list[int]] = {}
        for job, view in step.items:
            views.setdefault(job, []).append(view)
        for job in views:
            self._answer_run(run, job, len(views[job])).until += self.answer_seconds([job])
        self.batches.append((self.now, step))
        for job, given in views.items():
            job.payload.dispatched += given
            job.payload.running += len(given)
        return run

    def _answer_run(self, run: Run, job: "Job[Record]", views: int) -> Run:
        """Return the batch after which a job's answer may be made.

        It is that of its last mandatory view, or an earlier one with mandatory views that ends later. While mandatory
        views wait, it is an empty run.
        """
        record = job.payload
        if len(record.dispatched) + views < job.mandatory:
            return Run(run.step, 0.0, 0.0, 0.0)
        if not record.needs_mandatory:
            return run
        others = [other for other in self.runs.values() if job in other.jobs]
        return max([run, *others], key=lambda run: run.started + run.seconds)

    def _end(self, run: Run) -> None:
        """Complete a run, unless it was ended before."""
        slot = run.step.slot
        if self.runs.get(slot) is not run:
            return
        del self.runs[slot]
        finished = self._complete_decode(run) if isinstance(run.step, Decode) else self._complete_batch(run.step, run)
        self._settle(finished)
        self._make_answers(slot, [done.job for done in finished if isinstance(done.outcome, StopReason)])

    def _make_answers(self, slot: int, jobs: "Sequence[Job[Record]]") -> None:
        """Let a slot make these answers, one after another, before it requests more work."""
        end = self.now
        for job in jobs:
            seconds = self.stage_seconds(job.finish, job)
            end += seconds
            laws.check_answer_time(self, job, end)
            self.scheduler.finished(job, seconds, self.now)
        if end > self.now:
            self.finishing[slot] = end
            self.at(end, lambda: self._free.add(slot))
        else:
            self._free.add(slot)

    def _complete_decode(self, run: Run) -> "list[Finished[Record]]":
        step = run.step
        assert isinstance(step, Decode)
        if run.fails:
            step.job.payload.hit_by_failure = True
            return self.scheduler.failed(step, BackendFailed("it took too long"), self.now)
        step.job.payload.decoded = True
        self.scheduler.ready(step, run.seconds, self.now)
        return []

    def _complete_batch(self, batch: "Batch[Record]", run: Run) -> "list[Finished[Record]]":
        for job, view in batch.items:
            job.payload.running -= 1
            job.payload.hit_by_failure |= run.fails and view < job.mandatory
        if run.fails:
            live = [job.payload for job in dict.fromkeys(job for job, _ in batch.items) if job.payload.live]
            finished = self.scheduler.failed(batch, BackendFailed("it broke"), self.now)
            laws.check_failed(live, finished)
            return finished
        outcomes = {job: job.payload.merge(views) for job, views in batch.views.items()}
        return self.scheduler.completed(batch, outcomes, run.seconds, self.now)

    def _settle(self, finished: "Sequence[Finished[Record]]") -> None:
        for done in finished:
            record = done.job.payload
            laws.check_answer(self, done)
            self.live.pop(record, None)
            record.answers.append((self.now, done.outcome))
