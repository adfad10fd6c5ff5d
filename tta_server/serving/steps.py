"""Runs the scheduler's steps on a slot's thread and returns their results."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tta_server.backends.cancel import Abort
from tta_server.errors import BackendFailed, TTAError, WrongDeclaration
from tta_server.scheduling.jobs import Batch, Decode, Failed, Job, Merged, Outcome
from tta_server.scheduling.progress import Progress
from tta_server.serving.health import Health
from tta_server.serving.recorder import Recorder
from tta_server.serving.unsettled import Settleable
from tta_server.telemetry.observer import Observer, StepFailed, StepFinished

log = logging.getLogger(__name__)


class Payload(Settleable, Protocol):
    """What the engine needs of a job's payload. Methods run on slots' threads; `settle` on any thread."""

    def decode(self) -> None:
        """Decodes the image. Raises TTAError."""

    def notify_progress(self, progress: Progress) -> None:
        """Called after each batch with views of the job. Raises nothing."""


W = TypeVar("W", bound=Payload)


class Runner(Protocol[W]):
    """Runs views of several jobs through one model as one batch, and merges them."""

    def run(self, items: Sequence[tuple[Job[W], int]], recorder: Recorder, abort: Abort) -> Sequence[Outcome]:
        """Returns one outcome a view. Raises TTAError if the whole batch failed or was aborted."""


@dataclass(frozen=True, slots=True)
class DecodeResult(Generic[W]):
    """An image was decoded in `seconds`."""

    step: Decode[W]
    seconds: float


@dataclass(frozen=True, slots=True)
class BatchResult(Generic[W]):
    """A batch ran in `seconds`, with one outcome a view."""

    step: Batch[W]
    outcomes: Sequence[Outcome]
    seconds: float


@dataclass(frozen=True, slots=True)
class StepFailure(Generic[W]):
    """A step failed as a whole."""

    step: Decode[W] | Batch[W]
    error: TTAError


class StepRunner(Generic[W]):
    """Runs steps. An error of a step is logged and returned as `StepFailure`, never raised."""

    def __init__(
        self,
        runners: Mapping[str, Runner[W]],
        recorder: Recorder,
        observer: Observer,
        health: Health,
        is_stopping: Callable[[], bool],
    ) -> None:
        """`is_stopping` is true once the engine aborts running steps, which does not count against a model."""
        self._runners = runners
        self._recorder = recorder
        self._observer = observer
        self._health = health
        self._is_stopping = is_stopping

    def decode(self, step: Decode[W]) -> DecodeResult[W] | StepFailure[W]:
        """Decodes a job's image."""
        start = time.monotonic()
        try:
            step.job.payload.decode()
        except TTAError as error:
            return StepFailure(step, error)
        except Exception:
            log.exception("decoding failed")
            return StepFailure(step, BackendFailed("the image could not be prepared"))
        return DecodeResult(step, time.monotonic() - start)

    def run(self, step: Batch[W], abort: Abort) -> BatchResult[W] | StepFailure[W]:
        """Runs and merges a batch, and reports it to the observer and the model's health."""
        start = time.monotonic()
        model = step.bucket.model
        try:
            outcomes = self._runners[model].run(step.items, self._recorder, abort)
        except TTAError as error:
            return self._failure(step, error, abort)
        except Exception:
            log.exception("a batch of %s failed", model)
            return self._failure(step, BackendFailed("the model failed on this image"), abort)
        seconds = time.monotonic() - start
        self._observer.notify(StepFinished(model, len(step.items), seconds, step.estimate, step.is_risky))
        if any(isinstance(outcome, Merged) for outcome in outcomes):
            self._health.worked(model)
        elif not all(map(_is_wrong_declaration, outcomes)):
            self._health.failed(model)
        return BatchResult(step, outcomes, seconds)

    def _failure(self, step: Batch[W], error: TTAError, abort: Abort) -> StepFailure[W]:
        if self._is_stopping():
            return StepFailure(step, error)
        model = step.bucket.model
        if error.__cause__:
            log.error("a batch of %s failed: %r", model, error.__cause__)
        if abort.requested:
            error = BackendFailed("the model took far too long on this image and was stopped")
        self._observer.notify(StepFailed(model, "ended" if abort.requested else "failed"))
        self._health.failed(model)
        return StepFailure(step, error)


def _is_wrong_declaration(outcome: Outcome) -> bool:
    """Whether the model worked, but its output is not what tta.yaml states."""
    return isinstance(outcome, Failed) and isinstance(outcome.error, WrongDeclaration)
