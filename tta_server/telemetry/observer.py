"""The seam between what happens and who counts or logs it: events, and observers that are notified of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tta_server.telemetry.timings import StageTimes

ModelKey = tuple[str, str]
"""A model's name and version."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An image was not admitted, for lack of `time`, `jobs` or `bytes`, or because its `budget` is too small."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class ViewsRan:
    """A slot ran views of one model as a batch; `prepare`, `infer` and `merge` are seconds of the whole batch.

    `images` has, for each view, the times of its image.
    """

    model: ModelKey
    prepare: float
    infer: float
    merge: float
    images: Sequence[StageTimes]


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A batch took `seconds` where `estimate` was expected; `is_risky` if a plain view may have had to wait for it."""

    model: str
    views: int
    seconds: float
    estimate: float
    is_risky: bool


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A batch `failed`, or was `ended` because it took too long."""

    model: str
    kind: str


@dataclass(frozen=True, slots=True)
class ViewDropped:
    """A view's output held NaN or infinity, or could not be used."""

    model: str


@dataclass(frozen=True, slots=True)
class ImageAnswered:
    """An image's answer is made, `seconds` after its request arrived, of which `stages_ms` were spent on each stage."""

    model: str
    reason: str
    views: int
    seconds: float
    stages_ms: Mapping[str, float]


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
    """All images of a request are answered, `seconds` after it arrived; `stages_ms` are added up over its images."""

    model: ModelKey
    seconds: float
    stages_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A request was refused, failed, or its client left."""

    model: ModelKey
    seconds: float


Event = (
    Refused
    | ViewsRan
    | StepFinished
    | StepFailed
    | ViewDropped
    | ImageAnswered
    | Expired
    | ClientLeft
    | RequestAnswered
    | RequestFailed
)


class Observer(Protocol):
    def notify(self, event: Event) -> None:
        """Is called on the thread where it happens; returns at once, raises nothing, ignores events of no interest."""


class Observers:
    """Notifies each of several observers, in their order; with none it ignores every event."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def notify(self, event: Event) -> None:
        for observer in self._observers:
            observer.notify(event)


class ReceiptTimings:
    """Shares a batch's seconds among the images whose views ran in it; their receipts list them."""

    def notify(self, event: Event) -> None:
        if isinstance(event, ViewsRan):
            views = len(event.images)
            for times in event.images:
                times.add(prepare=event.prepare / views, infer=event.infer / views, merge=event.merge / views)
