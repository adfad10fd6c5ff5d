"""The values that the scheduler and the engine exchange: jobs, steps of slots, outcomes. Pure."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import Generic, TypeVar

from tta_server.errors import TTAError
from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.progress import NOTHING_DONE, Progress
from tta_server.scheduling.stopping import StopReason

W = TypeVar("W")


EVERY_ENTRY = 1 << 30
"""More entries than a job has."""


class Priority(StrEnum):
    """Batch jobs run after interactive mandatory work, and before optional views only if late otherwise."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Phase(Enum):
    """Whether a job's image waits to be decoded, is being decoded, or is decoded."""

    WAITING = auto()
    DECODING = auto()
    READY = auto()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch brought for one job in it.

    `lost` is the set of its views in the batch that have no usable output, bit i for view i, and `error` the reason for
    the first of these; the others are merged. `expected_gain` is how much one more view is expected to change the
    answer; `stop` is the reason why no more views are needed, None if more are; `open_share` is the undecided share of
    the answer, None if no stop rule computed it. Before `expected` entries are merged, the stop rule is not expected to
    stop.
    """

    lost: int = 0
    error: TTAError | None = None
    expected_gain: float = 1.0
    expected: int = EVERY_ENTRY
    stop: StopReason | None = None
    open_share: float | None = None

    def then(self, later: "Outcome") -> "Outcome":
        """Both, of two parts of a batch: the stop rule's findings are those after the later part."""
        return replace(later, lost=self.lost | later.lost, error=self.error or later.error)


MERGED = Outcome()
"""All views of a job are merged and more are needed."""


def join_outcomes(first: "Mapping[Job[W], Outcome]", second: "Mapping[Job[W], Outcome]") -> "dict[Job[W], Outcome]":
    """The outcomes of two parts of a batch, which may both have views of a job."""
    joined = dict(first)
    for job, outcome in second.items():
        joined[job] = joined[job].then(outcome) if job in joined else outcome
    return joined


@dataclass(eq=False, slots=True)
class Job(Generic[W]):
    """One image of one request.

    `buckets` has one entry for each of the `tiles` of each view, in policy order; `mandatory` counts entries.
    `default_budget` is the model's default budget in seconds; `finish` is the cost model's stage for making the answer;
    `deadline` already leaves `reserve` seconds for the protocol. Before `expected` entries are merged, the stop rule is
    not expected to stop. The fields from `phase` on belong to the scheduler.
    `load` is the price of its mandatory work on a slot; if workers decode and answer, these have their own prices.
    """

    payload: W
    model: str
    buckets: tuple[Bucket, ...]
    mandatory: int
    deadline: float
    pixels: int
    nbytes: int = 0
    priority: Priority = Priority.INTERACTIVE
    default_budget: float = math.inf
    finish: str = "finish"
    reserve: float = 0.0
    tiles: int = 1
    expected: int = EVERY_ENTRY
    phase: Phase = Phase.WAITING
    progress: Progress = NOTHING_DONE
    expected_gain: float = 1.0
    load: float = 0.0
    decode_seconds: float = 0.0
    answer_seconds: float = 0.0
    rank: tuple[bool, float, int] = (False, 0.0, 0)
    ready_at: float = 0.0
    last_slot: int = -1
    last_end: float = 0.0

    @property
    def is_batch(self) -> bool:
        return self.priority is Priority.BATCH

    @property
    def dispatched(self) -> int:
        return self.progress.dispatched

    @property
    def running(self) -> int:
        return self.progress.running

    @property
    def next_bucket(self) -> Bucket:
        return self.buckets[self.progress.dispatched]

    @property
    def all_dispatched(self) -> bool:
        return self.progress.dispatched == len(self.buckets)

    @property
    def mandatory_dispatched(self) -> bool:
        return self.progress.dispatched >= self.mandatory

    @property
    def is_open(self) -> bool:
        """True while only optional views can still be dispatched; the only mandatory work left is the answer."""
        return self.mandatory_dispatched and self.progress.stop is None

    @property
    def end_of_batch(self) -> int:
        """The first entry that a batch with the next entry leaves for later, since the job may have stopped by then.

        A batch takes all entries before which the stop rule is not expected to stop, or else one view.
        """
        return min(len(self.buckets), max(self.mandatory, self.expected, self.progress.dispatched + self.tiles))

    def is_ahead(self, views: int) -> bool:
        """True if the job may stop before its next view, and that many views before it have not returned in order."""
        dispatched = self.progress.dispatched
        if dispatched < max(self.mandatory, self.expected):
            return False
        return dispatched - self.progress.returned_in_order >= views * self.tiles

    @property
    def is_answerable(self) -> bool:
        """True once every mandatory view is merged; optional views may be merged before them."""
        return self.progress.has_merged_first(self.mandatory)

    @property
    def is_complete(self) -> bool:
        """True once all views are merged, lost or failed, and none runs."""
        return not self.progress.running and self.progress.has_returned_first(len(self.buckets))

    def is_mandatory(self, views: int) -> bool:
        """True if one of a set of views is mandatory."""
        return views & (1 << self.mandatory) - 1 != 0

    def merge(self, views: int) -> Progress | None:
        """Records a set of views as merged. Returns the new progress; None, without a record, if the job is settled."""
        if self.progress.settled:
            return None
        self.progress = self.progress.merge(views)
        return self.progress

    def lose(self, views: int) -> None:
        """Records that these views have no usable output, also if they were recorded as merged just before."""
        self.progress = self.progress.lose(views)


@dataclass(frozen=True, slots=True)
class Decode(Generic[W]):
    """A slot decodes a job's image."""

    slot: int
    job: Job[W]
    estimate: float = 0.0

    @property
    def model(self) -> str:
        return self.job.model


@dataclass(frozen=True, slots=True)
class Batch(Generic[W]):
    """A slot runs views of one bucket, (job, index of the view) in order, in about `estimate` seconds.

    `is_risky` is true if it could make the plain view of an expected arrival late. A device pads the batch to `rows`
    views; 0 if it is not padded.
    """

    slot: int
    bucket: Bucket
    items: tuple[tuple[Job[W], int], ...]
    estimate: float = 0.0
    is_risky: bool = False
    rows: int = 0

    @property
    def model(self) -> str:
        return self.bucket.model

    @property
    def views(self) -> Mapping[Job[W], int]:
        """The set of its views in the batch, for each job."""
        return views_by_job(self.items)

    @property
    def deadline(self) -> float:
        """The latest of its jobs' deadlines."""
        return max(job.deadline for job, _ in self.items)


def views_by_job(items: Iterable[tuple[Job[W], int]]) -> dict[Job[W], int]:
    """For each job the set of its views among (job, view) pairs, bit i for view i, in the order of the first ones."""
    found: dict[Job[W], int] = {}
    for job, view in items:
        found[job] = found.get(job, 0) | 1 << view
    return found


@dataclass(frozen=True, slots=True)
class Finish(Generic[W]):
    """A slot makes the answer of a job, which is no longer live, from its merged views in about `estimate` seconds.

    `reason` is why no more views run.
    """

    slot: int
    job: Job[W]
    reason: StopReason
    estimate: float = 0.0

    @property
    def model(self) -> str:
        return self.job.model


Step = Decode[W] | Batch[W] | Finish[W]
"""What a slot does next."""


@dataclass(frozen=True, slots=True)
class Finished(Generic[W]):
    """A job to settle now: an answer from the merged views with a stop reason, or an error."""

    job: Job[W]
    outcome: StopReason | TTAError


@dataclass(frozen=True, slots=True)
class Quote:
    """What a job would get now.

    `views` is the number of views that end in time, `wait` the seconds until it would be admitted, and `ends` the
    seconds until its answer without a deadline, for each number of views from the mandatory ones on.
    """

    views: int
    wait: float
    ends: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most jobs and bytes that may be live in a pool."""

    jobs: int = 1024
    nbytes: int = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """The live jobs of a pool: their number, slot seconds of waiting mandatory work, and bytes."""

    jobs: int
    seconds: float
    nbytes: int
