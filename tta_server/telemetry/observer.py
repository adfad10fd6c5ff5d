"""The events of requests and batches, and the interface of observers that count or log them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tta_server.telemetry.timings import StageTimes
from tta_server.telemetry.tracing import BatchTrace, RequestTrace

ModelKey = tuple[str, str]
"""A model's name and version."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An image was not admitted; `reason` is `time`, `jobs`, `bytes`, `api`, or `budget` if that is too small.

    `model` is empty if the request was refused before its model was known.
    """

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class ViewsRan:
    """A slot ran views of one model as a batch.

    `prepare`, `infer` and `merge` are seconds of the whole batch; `images` has each view's image's stage times.
    `batch` is the batch's span if one is recorded.
    """

    model: ModelKey
    prepare: float
    infer: float
    merge: float
    images: Sequence[StageTimes]
    batch: BatchTrace | None = None


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A batch took `seconds`, with `estimate` seconds expected; `is_risky` if it could make an arrival late."""

    model: str
    views: int
    seconds: float
    estimate: float
    is_risky: bool


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A batch failed; `kind` is `failed`, or `ended` if it took too long and was aborted."""

    model: str
    kind: str


@dataclass(frozen=True, slots=True)
class ViewDropped:
    """A view was left out: its output held NaN or infinity, or it could not be made or merged."""

    model: str


@dataclass(frozen=True, slots=True)
class DeclarationDoubted:
    """The output of a view is not what tta.yaml states, in the sentence of a check."""

    model: str
    check: str
    sentence: str


@dataclass(frozen=True, slots=True)
class ImageAnswered:
    """An image's answer was made `seconds` after its request arrived; `stages_ms` has the ms of each stage.

    `wanted` is the number of views that it would have had with time for all: `views` unless lack of time ended it.
    An answer that was shared has no stages.
    """

    model: str
    reason: str
    views: int
    seconds: float
    stages_ms: Mapping[str, float]
    wanted: int
    trace: RequestTrace | None = None


@dataclass(frozen=True, slots=True)
class CacheHit:
    """An image was answered without a run of its own, `seconds` after it was looked up.

    `is_shared` if it waited for the run of an equal request; else the answer was stored.
    """

    model: ModelKey
    seconds: float
    is_shared: bool


@dataclass(frozen=True, slots=True)
class CacheMiss:
    """An image was admitted, `seconds` after it was looked up, for no answer was stored or is under way."""

    model: ModelKey
    seconds: float


@dataclass(frozen=True, slots=True)
class CacheEvicted:
    """Stored answers, this many, were dropped for another one."""

    answers: int


@dataclass(frozen=True, slots=True)
class Expired:
    """An admitted image was not answered in time."""

    model: str


@dataclass(frozen=True, slots=True)
class ClientLeft:
    """A client left before its answer."""

    model: str


@dataclass(frozen=True, slots=True)
class RequestAnswered:
    """All images of a request were answered, `seconds` after it arrived; `stages_ms` are sums over its images.

    Empty if runs of other requests made all answers.
    """

    model: ModelKey
    seconds: float
    stages_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A request was refused or failed, or its client left, `seconds` after it arrived."""

    model: ModelKey
    seconds: float


@dataclass(frozen=True, slots=True)
class AnswerSent:
    """An image's answer is on its way to the client; `budget_ms` and the rest are as in its receipt."""

    request_id: str
    model: str
    views: int
    planned: int
    stop_reason: str | None
    budget_ms: float
    elapsed_ms: float
    stages_ms: Mapping[str, float]
    trace: RequestTrace | None = None
    cached: bool = False


@dataclass(frozen=True, slots=True)
class ErrorSent:
    """A request got an error.

    `model` is empty if it named no loaded one, and None if it concerns no model; `status` is that of the protocol;
    `path` is the HTTP path or the gRPC method.
    """

    request_id: str
    path: str
    model: str | None
    status: int | str
    code: str
    error: str
    trace: RequestTrace | None = None


Event = (
    Refused
    | ViewsRan
    | StepFinished
    | StepFailed
    | ViewDropped
    | DeclarationDoubted
    | ImageAnswered
    | CacheHit
    | CacheMiss
    | CacheEvicted
    | Expired
    | ClientLeft
    | RequestAnswered
    | RequestFailed
    | AnswerSent
    | ErrorSent
)


class Observer(Protocol):
    """Receives all events, on several threads at once."""

    def notify(self, event: Event) -> None:
        """Called on the thread of the event: returns at once, raises nothing, ignores events of no interest."""


class Observers:
    """Notifies several observers in order; with none it ignores every event."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def notify(self, event: Event) -> None:
        for observer in self._observers:
            observer.notify(event)


class ReceiptTimings:
    """An observer that divides a batch's seconds equally among its views' images, for their receipts."""

    def notify(self, event: Event) -> None:
        if isinstance(event, ViewsRan):
            counts: dict[StageTimes, int] = {}
            for times in event.images:
                counts[times] = counts.get(times, 0) + 1
            for times, views in counts.items():
                share = views / len(event.images)
                times.add(prepare=event.prepare * share, infer=event.infer * share, merge=event.merge * share)
