"""What a scheduler and its shell pass to one another: jobs, what a slot is to do, what is finished. Pure."""

import math
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Generic, TypeVar

from tta_server.errors import TTAError
from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.progress import NOTHING_DONE, Progress
from tta_server.scheduling.stopping import StopReason

W = TypeVar("W")


class Priority(StrEnum):
    """Batch jobs come after all interactive mandatory work, and before optional views only as far as their own
    deadlines need."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Phase(Enum):
    WAITING = auto()
    DECODING = auto()
    READY = auto()


@dataclass(frozen=True, slots=True)
class Merged:
    """One view of a batch is merged, with what a slot found out of the merge after it.

    `expected_gain` is how much one more view of its job is expected to change; `stop` is set when no more are needed;
    `open_share` is the share of the answer that is undecided, None where no stop rule asked.
    """

    expected_gain: float = 1.0
    stop: StopReason | None = None
    open_share: float | None = None


class Lost(Enum):
    """One view's output held NaN or infinity."""

    LOST = auto()


LOST = Lost.LOST


@dataclass(frozen=True, slots=True)
class Failed:
    """One view could not be made, or its output not be merged: a matter of its own job, not of its batch."""

    error: TTAError


Outcome = Merged | Lost | Failed
"""What became of one view of a batch."""


@dataclass(eq=False, slots=True)
class Job(Generic[W]):
    """One image of one request.

    `buckets` has one entry a view, in policy order, or one for each of its `tiles`; `mandatory` counts entries.
    `default_budget` is its model's default budget in seconds; `finish` names what making its answer costs; `reserve`
    seconds are taken off the deadline already, for its protocol. The fields from `phase` on belong to the scheduler.
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
    phase: Phase = Phase.WAITING
    progress: Progress = NOTHING_DONE
    expected_gain: float = 1.0
    load: float = 0.0
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
        """True while only optional views could still run for it; then nothing but its answer is mandatory work."""
        return self.mandatory_dispatched and self.progress.stop is None

    @property
    def is_answerable(self) -> bool:
        """True once every mandatory view is merged; optional ones may come back before them."""
        return self.progress.has_merged_first(self.mandatory)

    @property
    def is_complete(self) -> bool:
        """True once nothing more is to come of any view, nor from a slot."""
        return not self.progress.running and self.progress.has_returned_first(len(self.buckets))

    def merge(self, view: int) -> Progress | None:
        """Records a view as merged; returns the progress then, None if the job is settled."""
        if self.progress.settled:
            return None
        self.progress = self.progress.merge(view)
        return self.progress

    def lose(self, view: int) -> None:
        """Records that a view is not merged, for lack of a usable output; nothing once the job is settled."""
        if not self.progress.settled:
            self.progress = self.progress.lose(view)


@dataclass(frozen=True, slots=True)
class Decode(Generic[W]):
    """A slot decodes a job's image."""

    slot: int
    job: Job[W]
    estimate: float = 0.0


@dataclass(frozen=True, slots=True)
class Batch(Generic[W]):
    """A slot runs views of one bucket: (job, index of the view) in order, in about `estimate` seconds. `risky`: a plain
    view that arrives now could come too late for it."""

    slot: int
    bucket: Bucket
    items: tuple[tuple[Job[W], int], ...]
    estimate: float = 0.0
    risky: bool = False


@dataclass(frozen=True, slots=True)
class Finish(Generic[W]):
    """A slot makes a job's answer from what is merged, in about `estimate` seconds; `reason` is why no more views run.
    The job is not live any more."""

    slot: int
    job: Job[W]
    reason: StopReason
    estimate: float = 0.0


Step = Decode[W] | Batch[W] | Finish[W]
"""What a slot does next."""


@dataclass(frozen=True, slots=True)
class Finished(Generic[W]):
    """A job that is to be answered now: with what is merged and a reason, or with an error."""

    job: Job[W]
    outcome: StopReason | TTAError


@dataclass(frozen=True, slots=True)
class Quote:
    """What a job would get now: `ends` has, for each number of views from the mandatory ones on, the seconds until its
    answer if no deadline cut it short; `views` as many as end in time; `wait` is 0, or when it would be admitted."""

    views: int
    wait: float
    ends: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait in a pool."""

    jobs: int = 1024
    nbytes: int = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is live in a pool: jobs, seconds of one slot for the mandatory work that waits, bytes."""

    jobs: int
    seconds: float
    nbytes: int
