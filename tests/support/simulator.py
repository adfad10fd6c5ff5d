"""A pool in virtual time: asks a Scheduler as the engine's threads would, and takes as long as the truth says.

Each decision is held against the laws (`tests.support.laws`) as it is made.
"""

import heapq
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tests.support import laws
from tta_server.errors import BackendFailed, TTAError
from tta_server.scheduling.costs import MARGIN, Bucket, CostModel
from tta_server.scheduling.jobs import (
    LOST,
    Batch,
    Bounds,
    Decode,
    Finish,
    Finished,
    Job,
    Merged,
    Outcome,
    Priority,
    Quote,
    Step,
)
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
    """A GPU: eight views cost little more than one."""
    return {1: ms, 2: ms * 1.05, 4: ms * 1.1, 8: ms * 1.2}


def cost_model(curves: Curves, decode_ms: float = 0.0, finish_ms: float = 0.0) -> CostModel:
    """Whose estimates are exactly these milliseconds: warm-up's margin is taken out first."""
    costs = CostModel()
    for bucket, curve in curves.items():
        costs.warm(bucket, {n: ms / 1e3 / MARGIN for n, ms in curve.items()})
    for model in {bucket.model for bucket in curves}:
        costs.warm_stage("decode", model, PIXELS, decode_ms / 1e3 / MARGIN)
        costs.warm_stage("finish", model, PIXELS, finish_ms / 1e3 / MARGIN)
    return costs


@dataclass(frozen=True)
class Arrival:
    """One request: when it comes, what it wants, when its client leaves (ms after arrival), which views are lost.

    `worths` has what its views are worth after the first, the second, ... is merged, the last for all beyond; it stops
    as `certain` once `stops_after` are.
    """

    at_ms: float
    budget_ms: float
    buckets: tuple[Bucket, ...] = (A,)
    mandatory: int = 1
    leaves_ms: float | None = None
    lost: frozenset[int] = frozenset()
    nbytes: int = 1000
    priority: Priority = Priority.INTERACTIVE
    patience_ms: float = math.inf
    worths: tuple[float, ...] = (1.0,)
    stops_after: int | None = None

    def job(self, work: Any, now: float) -> Job[Any]:
        return Job(
            payload=work,
            model=self.buckets[0].model,
            buckets=self.buckets,
            mandatory=self.mandatory,
            deadline=now + self.budget_ms / 1e3,
            pixels=PIXELS,
            nbytes=self.nbytes,
            priority=self.priority,
            default_budget=self.patience_ms / 1e3,
        )

    def merged(self, number: int) -> Merged:
        """What is reported with its view that is merged as that number, from 1 on."""
        stop = StopReason.CERTAIN if self.stops_after is not None and number >= self.stops_after else None
        return Merged(self.worths[min(number, len(self.worths)) - 1], stop)


@dataclass(eq=False)
class Record:
    """What became of one arrival."""

    arrival: Arrival
    job: "Job[Record]" = field(init=False)
    number: int = -1
    refused: TTAError | None = None
    came_at: float = 0.0
    answers: list[tuple[float, StopReason | TTAError]] = field(default_factory=list)
    decode_started: bool = False
    decoded: bool = False
    decoded_at: float = math.inf
    handed: list[int] = field(default_factory=list)
    running: int = 0
    merged: int = 0
    merged_mandatory: int = 0
    worth: float = 1.0
    left: bool = False
    hit_by_failure: bool = False

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
    def spoiled(self) -> bool:
        """Whether it may fail through no fault of the scheduler's."""
        return self.left or self.hit_by_failure or any(v < self.arrival.mandatory for v in self.arrival.lost)

    @property
    def lines_up(self) -> bool:
        """Whether some of its mandatory work has not started."""
        return len(self.handed) < self.arrival.mandatory

    @property
    def waits(self) -> bool:
        """Whether a slot could do mandatory work for it right now."""
        return not self.decode_started or (self.decoded and self.lines_up)

    @property
    def open(self) -> bool:
        """Whether a slot could do optional work for it right now."""
        return not self.lines_up and len(self.handed) < len(self.arrival.buckets)

    @property
    def next_bucket(self) -> Bucket:
        return self.arrival.buckets[len(self.handed)]


@dataclass(eq=False)
class Run:
    """A step on a slot; `until` is when that is expected to be free again, with the answers that it may make."""

    step: "Step[Record]"
    started: float
    seconds: float
    until: float
    fails: bool = False

    @property
    def jobs(self) -> "list[Job[Record]]":
        return list(dict(self.step.items)) if isinstance(self.step, Batch) else [self.step.job]


@dataclass(frozen=True)
class Trouble:
    """`fails` and `hangs` are the numbers of batches that break, and that do not end by themselves; `speeds` are
    (ms, factor): what every true cost is multiplied by from then on."""

    fails: Container[int] = frozenset()
    hangs: Container[int] = frozenset()
    speeds: tuple[tuple[float, float], ...] = ()

    @property
    def truthful(self) -> bool:
        """Whether everything takes as long as warm-up says."""
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
        trouble: Trouble = Trouble(),
        scheduler: type[Scheduler[Any]] = Scheduler,
    ) -> None:
        self.truth = cost_model(curves, decode_ms, finish_ms)
        self.scheduler: Scheduler[Record] = scheduler(cost_model(curves, decode_ms, finish_ms), slots, bounds)
        self.slots = slots
        self.now = 0.0
        self.records: list[Record] = []
        self.live: dict[Record, None] = {}
        self.met: dict[str, tuple[float, Job[Record]]] = {}
        self.batches: list[tuple[float, Batch[Record]]] = []
        self.steps: list[tuple[float, Step[Record]]] = []
        self.runs: dict[int, Run] = {}
        self.finishing: dict[int, float] = {}
        self.truthful = trouble.truthful
        self.knee_is_one = all(self.truth.knee(bucket) == 1 for bucket in curves)
        self._free = set(range(slots))
        self._trouble = trouble
        self._events: list[tuple[float, int, Callable[[], None], bool]] = []
        self._order = count()

    def handed(self) -> list[list[tuple[int, int]]]:
        """Batches as (number of the arrival, view)."""
        return [[(job.payload.number, view) for job, view in batch.items] for _, batch in self.batches]

    # ---- true costs ----

    def view_seconds(self, bucket: Bucket, n: int = 1) -> float:
        return self.truth.seconds(bucket, n, 0) * self._trouble.factor(self.now)

    def stage_seconds(self, stage: str, job: "Job[Record]") -> float:
        return self.truth.stage_seconds(stage, job.model, job.pixels, 0) * self._trouble.factor(self.now)

    def answer_seconds(self, jobs: "Sequence[Job[Record]]") -> float:
        return sum(self.stage_seconds(job.finish, job) for job in jobs)

    def lead(self, record: Record) -> float:
        """Seconds of a slot for what comes next for a job, with the answer that it may make."""
        if not record.decode_started:
            return self.stage_seconds("decode", record.job)
        seconds = self.view_seconds(record.next_bucket)
        last = len(record.handed) + 1 >= record.arrival.mandatory
        return seconds + last * self.stage_seconds(record.job.finish, record.job)

    @property
    def idle(self) -> bool:
        return bool(self._free)

    def calm(self, seconds: float) -> None:
        """From now on costs are as warm-up found them and nothing fails; so much time goes by."""
        self._trouble = Trouble()
        self.now += seconds

    # ---- the world ----

    def at(self, seconds: float, action: Callable[[], None], quietly: bool = False) -> None:
        """`quietly`: no slot is asked then."""
        heapq.heappush(self._events, (seconds, next(self._order), action, quietly))

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
            if self._happens(first):
                self._fill()
                laws.check_between(self)
                self._poll()
        laws.check_end(self)
        return self.records

    def _next_moment(self) -> float:
        event = self._events[0][0] if self._events else None
        times = (event, self.scheduler.wake_at(), self.scheduler.watch_at())
        return min((time for time in times if time is not None), default=math.inf)

    def _happens(self, first: float) -> bool:
        """What happens at `first`; whether slots are asked then."""
        if self._events and self._events[0][0] == first:
            _, _, action, quietly = heapq.heappop(self._events)
            action()
            return not quietly
        if self.scheduler.wake_at() == first:
            self._wake(first)
        else:
            self._end_overdue(first)
        return True

    def _poll(self) -> None:
        """An idle slot asks half-way to what happens next."""
        wake = self.scheduler.wake_at()
        if self._free and self._events and wake is not None:
            laws.check_poll(self, min(self._free), (self.now + min(wake, self._events[0][0])) / 2)

    def _wake(self, wake: float) -> None:
        finished = self.scheduler.due(self.now)
        laws.check_due(self, finished)
        self._answered(finished)
        laws.check_moved(wake, self.scheduler.wake_at(), is_reported=bool(finished))

    def _end_overdue(self, watch: float) -> None:
        overdue = self.scheduler.overdue(self.now)
        stuck = self.scheduler.stuck(self.now)
        laws.check_moved(watch, self.scheduler.watch_at(), is_reported=bool(overdue or stuck))
        for step in overdue:
            run = self.runs[step.slot]
            laws.check_overdue(self, run)
            run.fails = True
            self._ended(run)

    def _admit(self, record: Record) -> None:
        record.came_at = self.now
        record.job = record.arrival.job(record, self.now)
        fits = laws.fits(self, record)
        try:
            self.scheduler.admit(record.job, self.now)
        except TTAError as refusal:
            record.refused = refusal
        laws.check_admission(record, fits)
        if record.refused is None:
            self.met[record.job.model] = (self.now, record.job)
            self.live[record] = None
            if record.arrival.leaves_ms is not None:
                self.at(self.now + record.arrival.leaves_ms / 1e3, lambda: self._leave(record))

    def _leave(self, record: Record) -> None:
        record.left |= record.live
        finished = self.scheduler.cancel(record.job, self.now)
        laws.check_left(record, finished)
        self._answered(finished)

    # ---- slots ----

    def _fill(self) -> None:
        for slot in sorted(self._free):
            while slot in self._free and self._ask(slot):
                pass

    def _ask(self, slot: int) -> bool:
        """Whether it found something to do."""
        wake, finished = self.scheduler.wake_at(), self.scheduler.due(self.now)
        laws.check_undue(self, wake, finished)
        self._answered(finished)
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
            self._answered([Finished(step.job, step.reason)])
            self._make(step.slot, [step.job])
            return
        run = self._decoding(step) if isinstance(step, Decode) else self._running(step)
        self.runs[step.slot] = run
        if not (isinstance(step, Batch) and len(self.batches) - 1 in self._trouble.hangs):
            self.at(self.now + run.seconds, lambda: self._ended(run))

    def _decoding(self, step: "Decode[Record]") -> Run:
        seconds = self.stage_seconds("decode", step.job)
        record = step.job.payload
        record.decode_started, record.decoded_at = True, self.now + seconds
        return Run(step, self.now, seconds, self.now + seconds)

    def _running(self, step: "Batch[Record]") -> Run:
        seconds = self.view_seconds(step.bucket, len(step.items))
        fails = len(self.batches) in self._trouble.fails
        run = Run(step, self.now, seconds, self.now + seconds, fails)
        views: dict[Job[Record], list[int]] = {}
        for job, view in step.items:
            views.setdefault(job, []).append(view)
        for job in views:
            self._answering(run, job, len(views[job])).until += self.answer_seconds([job])
        self.batches.append((self.now, step))
        for job, given in views.items():
            job.payload.handed += given
            job.payload.running += len(given)
        return run

    def _answering(self, run: Run, job: "Job[Record]", views: int) -> Run:
        """The batch after which a job's answer may be made: one with its last mandatory view, or an earlier one with
        other mandatory views that ends later; none while mandatory views wait."""
        record = job.payload
        if len(record.handed) + views < job.mandatory:
            return Run(run.step, 0.0, 0.0, 0.0)
        if not record.lines_up:
            return run
        others = [other for other in self.runs.values() if job in other.jobs]
        return max([run, *others], key=lambda run: run.started + run.seconds)

    def _ended(self, run: Run) -> None:
        """Unless it was ended before."""
        slot = run.step.slot
        if self.runs.get(slot) is not run:
            return
        del self.runs[slot]
        finished = self._decoded(run) if isinstance(run.step, Decode) else self._ran(run.step, run)
        self._answered(finished)
        self._make(slot, [done.job for done in finished if isinstance(done.outcome, StopReason)])

    def _make(self, slot: int, jobs: "Sequence[Job[Record]]") -> None:
        """A slot makes these answers, one after another, before it asks for more."""
        end = self.now
        for job in jobs:
            seconds = self.stage_seconds(job.finish, job)
            end += seconds
            laws.check_made(self, job, end)
            self.scheduler.finished(job, seconds, self.now)
        if end > self.now:
            self.finishing[slot] = end
            self.at(end, lambda: self._free.add(slot))
        else:
            self._free.add(slot)

    def _decoded(self, run: Run) -> "list[Finished[Record]]":
        step = run.step
        assert isinstance(step, Decode)
        if run.fails:
            step.job.payload.hit_by_failure = True
            return self.scheduler.failed(step, BackendFailed("it took too long"), self.now)
        step.job.payload.decoded = True
        self.scheduler.ready(step, run.seconds, self.now)
        return []

    def _ran(self, batch: "Batch[Record]", run: Run) -> "list[Finished[Record]]":
        for job, view in batch.items:
            job.payload.running -= 1
            job.payload.hit_by_failure |= run.fails and view < job.mandatory
        if run.fails:
            live = [job.payload for job in dict.fromkeys(job for job, _ in batch.items) if job.payload.live]
            finished = self.scheduler.failed(batch, BackendFailed("it broke"), self.now)
            laws.check_failed(live, finished)
            return finished
        outcomes = [self._merge(job.payload, view) for job, view in batch.items]
        return self.scheduler.completed(batch, outcomes, run.seconds, self.now)

    def _merge(self, record: Record, view: int) -> Outcome:
        if view in record.arrival.lost:
            return LOST
        if not record.live:
            return Merged()
        record.merged += 1
        record.merged_mandatory += view < record.arrival.mandatory
        merged = record.arrival.merged(record.merged)
        record.worth = merged.expected_gain
        return merged

    def _answered(self, finished: "Sequence[Finished[Record]]") -> None:
        for done in finished:
            record = done.job.payload
            laws.check_answer(self, done)
            self.live.pop(record, None)
            record.answers.append((self.now, done.outcome))
