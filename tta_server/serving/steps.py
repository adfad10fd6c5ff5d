"""Runs the scheduler's steps on a slot's thread and returns their results."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tta_server.backends.cancel import Abort
from tta_server.errors import (
    BackendFailed,
    BackendUnavailable,
    DeviceLost,
    OutOfDeviceMemory,
    TTAError,
    WrongDeclaration,
)
from tta_server.scheduling.jobs import Batch, Decode, Job, Outcome, join_outcomes, views_by_job
from tta_server.scheduling.progress import Progress
from tta_server.serving.health import Health
from tta_server.serving.recorder import Recorder
from tta_server.serving.slot_thread import Call, call_here
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
T = TypeVar("T")


class Runner(Protocol[W]):
    """Runs views of several jobs through one model as one batch, and merges them."""

    def run(
        self, items: Sequence[tuple[Job[W], int]], recorder: Recorder, abort: Abort, call: Call
    ) -> Mapping[Job[W], Outcome]:
        """Returns one outcome a job. `call` calls the model. Raises TTAError if all failed or were aborted."""


@dataclass(frozen=True, slots=True)
class DecodeResult(Generic[W]):
    """An image was decoded in `seconds`."""

    step: Decode[W]
    seconds: float


@dataclass(frozen=True, slots=True)
class BatchResult(Generic[W]):
    """A batch kept its slot busy for `seconds`, with one outcome a job; its input was made in `prepare` seconds.

    `limit` is the size up to which batches of the model are run from now on, if the device had no memory for this one.
    """

    step: Batch[W]
    outcomes: Mapping[Job[W], Outcome]
    seconds: float
    prepare: float
    limit: int = 0


@dataclass(frozen=True, slots=True)
class StepFailure(Generic[W]):
    """A step failed as a whole."""

    step: Decode[W] | Batch[W]
    error: TTAError


class TimedCall:
    """Calls as another Call does; knows when it was made, and how long after that it was first called."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.made = time.monotonic()
        self.waited = 0.0

    def __call__(self, function: Callable[[], T], /) -> T:
        self.waited = self.waited or time.monotonic() - self.made
        return self._call(function)


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
        self._ended: dict[int, float] = {}
        """When the last batch of each slot ended."""

    def run(
        self, step: Decode[W] | Batch[W], abort: Abort, call: Call = call_here
    ) -> DecodeResult[W] | BatchResult[W] | StepFailure[W]:
        """Decodes an image, or runs and merges a batch, for which `call` calls the model."""
        return self._decode(step) if isinstance(step, Decode) else self._run_batch(step, abort, call)

    def _decode(self, step: Decode[W]) -> DecodeResult[W] | StepFailure[W]:
        start = time.monotonic()
        try:
            step.job.payload.decode()
        except TTAError as error:
            return StepFailure(step, error)
        except Exception:
            log.exception("decoding failed")
            return StepFailure(step, BackendFailed("the image could not be prepared"))
        return DecodeResult(step, time.monotonic() - start)

    def _run_batch(self, step: Batch[W], abort: Abort, call: Call) -> BatchResult[W] | StepFailure[W]:
        """Also reports the batch to the observer and the model's health.

        A slot is busy with a batch from the end of the batch before it, if that is later than its start.
        """
        model, timed = step.bucket.model, TimedCall(call)
        try:
            outcomes, limit = self._merge(step.items, step.rows or len(step.items), abort, timed)
        except TTAError as error:
            return self._failure(step, error, abort)
        except Exception:
            log.exception("a batch of %s failed", model)
            return self._failure(step, BackendFailed("the model failed on this image"), abort)
        finally:
            before, now = self._ended.get(step.slot, 0.0), time.monotonic()
            self._ended[step.slot] = now
        seconds = now - max(timed.made, before)
        self._observer.notify(StepFinished(model, len(step.items), seconds, step.estimate, step.is_risky))
        if any(outcomes[job].lost != views for job, views in step.views.items()):
            self._health.worked(model)
        elif not all(isinstance(outcome.error, WrongDeclaration) for outcome in outcomes.values()):
            self._health.failed(model)
        return BatchResult(step, outcomes, seconds, timed.waited, limit)

    def _merge(
        self, items: Sequence[tuple[Job[W], int]], rows: int, abort: Abort, call: Call
    ) -> tuple[Mapping[Job[W], Outcome], int]:
        """One outcome a job, from halves if the device has no memory for `rows` views; the most that it has, or 0."""
        runner = self._runners[items[0][0].model]
        try:
            return runner.run(items, self._recorder, abort, call), 0
        except OutOfDeviceMemory as error:
            if len(items) == 1:
                raise
            log.warning("%s: the device has no memory for %d views at once: %s", items[0][0].model, rows, error)
        half, failures, limit = (len(items) + 1) // 2, list[TTAError](), rows - 1
        outcomes: dict[Job[W], Outcome] = {}
        for part in (items[:half], items[half:]):
            try:
                found, own_limit = self._merge(part, len(part), abort, call)
            except DeviceLost:
                raise
            except TTAError as error:
                failures.append(error)
                lost = {job: Outcome(views, error) for job, views in views_by_job(part).items()}
                outcomes = join_outcomes(lost, outcomes)  # what was found after the other part counts
            else:
                outcomes = join_outcomes(outcomes, found)
                limit = min(limit, own_limit or limit)
        if len(failures) == 2:
            raise failures[0]
        return outcomes, limit

    def _failure(self, step: Batch[W], error: TTAError, abort: Abort) -> StepFailure[W]:
        if self._is_stopping() or (abort.is_unwanted and not isinstance(error, DeviceLost)):
            return StepFailure(step, error)
        model = step.bucket.model
        if error.__cause__:
            log.error("a batch of %s failed: %r", model, error.__cause__)
        if abort.requested and not isinstance(error, DeviceLost):
            error = BackendFailed("the model took far too long on this image and was stopped")
        self._observer.notify(StepFailed(model, "ended" if abort.requested else "failed"))
        if isinstance(error, BackendUnavailable):
            self._health.suspect(model)
        else:
            self._health.failed(model)
        return StepFailure(step, error)
