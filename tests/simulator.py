"""A pool in virtual time: asks a Scheduler as the engine's threads would, and takes exactly as long as costs say."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from tta_server.costs import MARGIN, Bucket, CostModel
from tta_server.errors import BackendFailed, TTAError
from tta_server.jobs import LOST, Batch, Bounds, Decode, Finished, Job, Merged, Outcome
from tta_server.scheduler import Scheduler
from tta_server.stopping import StopReason

TOLERANCE = 1e-6
PIXELS = 10_000
A = Bucket("m", 128, 128)
B = Bucket("m", 256, 128)
C = Bucket("n", 64, 64)


def linear(ms: float, upto: int = 8) -> dict[int, float]:
    """A CPU: n views cost n times one. Batch size -> milliseconds."""
    return {n: ms * n for n in (1, 2, 4, 8) if n <= upto}


def flat(ms: float) -> dict[int, float]:
    """A GPU: eight views cost little more than one."""
    return {1: ms, 2: ms * 1.05, 4: ms * 1.1, 8: ms * 1.2}


def cost_model(
    curves: Mapping[Bucket, Mapping[int, float]], decode_ms: float = 0.0, finish_ms: float = 0.0
) -> CostModel:
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
    """One request: when it comes, what it wants, when its client leaves (ms after arrival), which views are lost."""

    at_ms: float
    budget_ms: float
    buckets: tuple[Bucket, ...] = (A,)
    mandatory: int = 1
    leaves_ms: float | None = None
    lost: frozenset[int] = frozenset()
    nbytes: int = 1000


@dataclass(eq=False)
class Record:
    """What became of one arrival."""

    arrival: Arrival
    job: "Job[Record]" = field(init=False)
    refused: TTAError | None = None
    refused_at: float = 0.0
    answers: list[tuple[float, StopReason | TTAError]] = field(default_factory=list)
    decode_started: bool = False
    decoded: bool = False
    handed: list[int] = field(default_factory=list)
    merged: int = 0
    merged_mandatory: int = 0
    left: bool = False
    hit_by_failure: bool = False
    answered_merged: int = 0

    @property
    def live(self) -> bool:
        return self.refused is None and not self.answers

    @property
    def outcome(self) -> StopReason | TTAError:
        ((_, outcome),) = self.answers
        return outcome

    @property
    def spoiled(self) -> bool:
        """Whether it may fail through no fault of the scheduler's."""
        return self.left or self.hit_by_failure or any(v < self.arrival.mandatory for v in self.arrival.lost)

    @property
    def waits(self) -> bool:
        """Whether a slot could do mandatory work for it right now."""
        if not self.live:
            return False
        return not self.decode_started or (self.decoded and len(self.handed) < self.arrival.mandatory)


class Pool:
    """Runs a history of arrivals to its end, and checks each decision as it is made."""

    def __init__(
        self,
        curves: Mapping[Bucket, Mapping[int, float]],
        slots: int = 1,
        decode_ms: float = 0.0,
        finish_ms: float = 0.0,
        bounds: Bounds | None = None,
        fails: Callable[[int], bool] = lambda number: False,
    ) -> None:
        self.truth = cost_model(curves, decode_ms, finish_ms)
        costs = cost_model(curves, decode_ms, finish_ms)
        self.scheduler: Scheduler[Record] = Scheduler(costs, slots, bounds or Bounds())
        self.now = 0.0
        self.records: list[Record] = []
        self.batches: list[tuple[float, Batch[Record]]] = []
        self.steps: list[Decode[Record] | Batch[Record]] = []
        self._free = set(range(slots))
        self._fails = fails
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    # ---- the world ----

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (seconds, next(self._order), action))

    def arrive(self, arrival: Arrival) -> Record:
        record = Record(arrival)
        self.records.append(record)
        self.at(arrival.at_ms / 1e3, lambda: self._admit(record))
        return record

    def run(self, arrivals: Sequence[Arrival] = ()) -> list[Record]:
        for arrival in arrivals:
            self.arrive(arrival)
        while (wake := self.scheduler.wake_at()) is not None or self._events:
            if self._events and (wake is None or self._events[0][0] <= wake):
                self.now, _, action = heapq.heappop(self._events)
                action()
            else:
                assert wake is not None
                self._wake(wake)
            self._fill()
        assert len(self.scheduler) == 0
        return self.records

    def _wake(self, wake: float) -> None:
        self.now = max(self.now, wake)
        finished = self.scheduler.due(self.now)
        self._answered(finished)
        after = self.scheduler.wake_at()
        assert finished or after is None or after > wake, "asking at wake_at() neither answered nor moved it: a spin"

    def _admit(self, record: Record) -> None:
        arrival = record.arrival
        record.job = Job(
            work=record,
            model=arrival.buckets[0].model,
            buckets=arrival.buckets,
            mandatory=arrival.mandatory,
            deadline=self.now + arrival.budget_ms / 1e3,
            pixels=PIXELS,
            nbytes=arrival.nbytes,
        )
        try:
            self.scheduler.admit(record.job, self.now)
        except TTAError as refusal:
            record.refused, record.refused_at = refusal, self.now
            return
        if arrival.leaves_ms is not None:
            self.at(self.now + arrival.leaves_ms / 1e3, lambda: self._leave(record))

    def _leave(self, record: Record) -> None:
        if record.live:
            record.left = True
            self._answered(self.scheduler.cancel(record.job, self.now))
        else:
            assert self.scheduler.cancel(record.job, self.now) == [], "a job that is answered can't be cancelled"

    # ---- slots ----

    def _fill(self) -> None:
        for slot in sorted(self._free):
            self._answered(self.scheduler.due(self.now))
            step = self.scheduler.next_batch(slot, self.now)
            self._check_wake()
            if step is not None:
                self._free.discard(slot)
                self.steps.append(step)
                self._start(step)

    def _start(self, step: Decode[Record] | Batch[Record]) -> None:
        if isinstance(step, Decode):
            self._check_order(step.job.work, decode=True)
            step.job.work.decode_started = True
            seconds = self.truth.stage_seconds("decode", step.job.model, PIXELS, 0)
            self.at(self.now + seconds, lambda: self._decoded(step, seconds))
            return
        self._check_batch(step)
        seconds = self.truth.seconds(step.bucket, len(step.items), 0)
        number = len(self.batches)
        self.batches.append((self.now, step))
        for job, view in step.items:
            job.work.handed.append(view)
        self.at(self.now + seconds, lambda: self._ran(step, seconds, self._fails(number)))

    def _decoded(self, step: Decode[Record], seconds: float) -> None:
        step.job.work.decoded = True
        self.scheduler.ready(step, seconds, self.now)
        self._free.add(step.slot)

    def _ran(self, batch: Batch[Record], seconds: float, fails: bool) -> None:
        if fails:
            for job, _ in batch.items:
                job.work.hit_by_failure |= job.work.live
            finished = self.scheduler.failed(batch, BackendFailed("it broke"), self.now)
            self._check_failed(finished)
        else:
            finished = self._merged(batch, seconds)
        self._answered(finished)
        busy = sum(self._finishing() for done in finished if isinstance(done.outcome, StopReason))
        for done in finished:
            if isinstance(done.outcome, StopReason):
                self.scheduler.finished(done.job, self._finishing(), self.now)
        if busy:
            self.at(self.now + busy, lambda: self._free.add(batch.slot))
        else:
            self._free.add(batch.slot)

    def _merged(self, batch: Batch[Record], seconds: float) -> list[Finished[Record]]:
        outcomes: list[Outcome] = []
        for job, view in batch.items:
            lost = view in job.work.arrival.lost
            outcomes.append(LOST if lost else Merged())
            if job.work.live and not lost:
                job.work.merged += 1
                job.work.merged_mandatory += view < job.work.arrival.mandatory
        return self.scheduler.completed(batch, outcomes, seconds, self.now)

    def _finishing(self) -> float:
        return self.truth.stage_seconds("finish", "m", PIXELS, 0)

    def _answered(self, finished: Sequence[Finished[Record]]) -> None:
        for done in finished:
            record = done.job.work
            record.answers.append((self.now, done.outcome))
            record.answered_merged = record.merged

    # ---- laws that hold at every decision ----

    def _check_wake(self) -> None:
        live = any(record.live and hasattr(record, "job") for record in self.records)
        assert (self.scheduler.wake_at() is not None) == live, "wake_at() is None only if nothing is live"
        assert len(self.scheduler) == sum(r.live and hasattr(r, "job") for r in self.records)

    def _check_order(self, head: Record, decode: bool) -> None:
        waiting = [r for r in self.records if hasattr(r, "job") and r.waits]
        if not waiting:
            return
        assert decode or len(head.handed) < head.arrival.mandatory, "an optional view ran while a mandatory one waited"
        assert head.job.deadline <= min(r.job.deadline for r in waiting), "mandatory work runs in deadline order"

    def _check_batch(self, batch: Batch[Record]) -> None:
        self._check_order(batch.items[0][0].work, decode=False)
        seconds = self.truth.seconds(batch.bucket, len(batch.items), 0)
        given: dict[Job[Record], list[int]] = {}
        for job, view in batch.items:
            assert job.work.live, "a job that is answered gets no more views"
            assert job.work.decoded, "views run after decoding"
            assert job.buckets[view] == batch.bucket, "only views of one bucket share a batch"
            given.setdefault(job, []).append(view)
            if view >= job.mandatory:
                end = self.now + seconds + self._finishing()
                assert end <= job.deadline + TOLERANCE, "an optional view that can't end in time ran"
        for job, views in given.items():
            first = len(job.work.handed)
            assert views == list(range(first, first + len(views))), "views are handed out once, in policy order"

    def _check_failed(self, finished: Sequence[Finished[Record]]) -> None:
        for done in finished:
            record = done.job.work
            complete = record.merged_mandatory == record.arrival.mandatory
            expected = StopReason if complete else BackendFailed
            assert isinstance(done.outcome, expected), "only jobs without their mandatory views fail with a batch"


def check_settled(pool: Pool) -> None:
    """Every admitted job is answered once, by its deadline, and with all its mandatory views or an error."""
    for record in pool.records:
        if record.refused is not None:
            assert record.answers == [], "a refused job is never answered"
            continue
        assert len(record.answers) == 1, "an admitted job is answered exactly once"
        ((time, outcome),) = record.answers
        assert time <= record.job.deadline + TOLERANCE, "an answer came after its deadline"
        if isinstance(outcome, StopReason):
            assert record.answered_merged >= 1, "nobody is answered with nothing"
            assert record.merged_mandatory == record.arrival.mandatory, "answered without a mandatory view"


def check_promises(pool: Pool) -> None:
    """Nobody admitted fails through the scheduler's own fault while costs are truthful."""
    for record in pool.records:
        if record.refused is None and not record.spoiled:
            assert isinstance(record.outcome, StopReason), f"an admitted job failed: {record.outcome!r}"
