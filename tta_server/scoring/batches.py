"""Scores images without deadlines: the code of requests, in batches that depend on images and options alone."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tta_server.errors import BackendFailed, BackendUnavailable, DeviceLost, TTAError
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import unreadable
from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.jobs import Job, Outcome, join_outcomes
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.answer import Answer
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.graph_executor import ModelExecutor
from tta_server.serving.image import Image, ViewError, read_source
from tta_server.serving.job import ImageJob, make_job
from tta_server.serving.plan import Plan
from tta_server.serving.recorder import LockedRecorder
from tta_server.serving.runner import ImageRunner, Items, Outcomes
from tta_server.telemetry.observer import Observers, ReceiptTimings

log = logging.getLogger(__name__)

WINDOW_BYTES = 256_000_000
"""Images are decoded together until they take this much memory, or are as many as a batch has rows."""
ENDS_THE_RUN = (BackendUnavailable, DeviceLost)
"""Failures of what runs the model, which say nothing about an image."""


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image to score. `read` returns its encoded bytes or pixels; it may raise TTAError or OSError."""

    id: str
    read: Callable[[], Image]


@dataclass(frozen=True, slots=True)
class Scored:
    """An image's answer, or the sentence that says why it has none."""

    id: str
    outcome: Answer | str


def why_not_open(image: InputImage, error: Exception) -> str:
    """The sentence of an image that can't be read or decoded."""
    if isinstance(error, TTAError):
        return str(error)
    if isinstance(error, OSError):
        return unreadable(error)
    log.error("decoding %s failed", image.id, exc_info=error)
    return "the image could not be prepared"


class BatchScorer:
    """Scores images on the calling thread; several threads may use it.

    The same images in the same order, with the same plan and batch size, run in the same batches.
    """

    def __init__(self, plan: Plan, batch: int, limits: Limits) -> None:
        self.plan = plan
        self._batch = batch
        self._limits = limits
        self._runner = ImageRunner(ModelExecutor(), ReceiptTimings())

    def score(self, images: Iterable[InputImage]) -> Iterator[Scored]:
        """Each image's outcome, in their order. Raises BackendUnavailable or DeviceLost if no image can be scored."""
        window: list[_Opened] = []
        for image in images:
            window.append(self._open(image))
            jobs = [opened.job for opened in window if opened.job]
            if len(jobs) == self._batch or sum(job.nbytes for job in jobs) > WINDOW_BYTES:
                yield from self._run(window)
                window = []
        yield from self._run(window)

    def _open(self, image: InputImage) -> "_Opened":
        """The image decoded, or why it can't be."""
        try:
            job = self._job(image.read())
            job.payload.decode()
        except Exception as error:  # noqa: BLE001 - logged where it is not about the image
            return _Opened(image.id, error=why_not_open(image, error))
        return _Opened(image.id, job)

    def _job(self, image: Image) -> Job[ImageJob]:
        """A job whose budget counts for nothing."""
        model = self.plan.model
        source = read_source(image, self._limits, model.preprocessing.rendering)
        model.preprocessing.check(self.plan.views, source.size, self._limits)
        deadline = Deadline.after(model.config.budget.max_ms)
        return make_job(self.plan, source, deadline, Caller("score"), Observers())

    def _run(self, window: Sequence["_Opened"]) -> Iterator[Scored]:
        recorder = LockedRecorder(threading.Lock())
        live = [opened.job for opened in window if opened.job]
        try:
            while live:
                outcomes = self._round(live, recorder)
                live = [job for job in live if not _settle(job, outcomes[job])]
        finally:
            for job in live:
                _end(job, BackendFailed("scoring was stopped"))
        for opened in window:
            yield opened.scored

    def _round(self, jobs: Sequence[Job[ImageJob]], recorder: LockedRecorder) -> Outcomes:
        """Run each job's views up to the first before which its stop rule may stop, in batches of one bucket."""
        waiting: dict[Bucket, list[tuple[Job[ImageJob], int]]] = {}
        for job in jobs:
            first, end = job.dispatched, job.end_of_batch
            for entry in range(first, end):
                waiting.setdefault(job.buckets[entry], []).append((job, entry))
            job.progress = job.progress.dispatch(end - first)
        outcomes: Outcomes = {}
        for items in waiting.values():
            for start in range(0, len(items), self._batch):
                outcomes = join_outcomes(outcomes, self._run_batch(items[start : start + self._batch], recorder))
        return outcomes

    def _run_batch(self, items: Items, recorder: LockedRecorder) -> Outcomes:
        """Run a batch; of one that fails, each row alone, so that an image fails for itself only."""
        try:
            return self._runner.run(items, recorder)
        except ENDS_THE_RUN:
            raise
        except Exception as error:  # noqa: BLE001 - the row's sentence
            if len(items) == 1:
                return _failed(*items[0], error, recorder)
        outcomes: Outcomes = {}
        for item in items:
            outcomes = join_outcomes(outcomes, self._run_batch([item], recorder))
        return outcomes


@dataclass(frozen=True, slots=True)
class _Opened:
    """An image with its job, or why it has none."""

    id: str
    job: Job[ImageJob] | None = None
    error: str = ""

    @property
    def scored(self) -> Scored:
        """The outcome of a settled job."""
        if self.job is None:
            return Scored(self.id, self.error)
        future = self.job.payload.future
        failure = future.exception()
        return Scored(self.id, future.result() if failure is None else str(failure))


def _failed(job: Job[ImageJob], entry: int, error: Exception, recorder: LockedRecorder) -> Outcomes:
    """The outcome of a view on which the model failed."""
    return {job: job.payload.merge(job, [(entry, ViewError(error, "the model failed on this image"))], recorder)}


def _settle(job: Job[ImageJob], outcome: Outcome) -> bool:
    """Settle a job after a round, if it needs no other; return whether it is settled."""
    job.progress = job.progress.end_run(job.running).set_open_share(outcome.open_share)
    job.expected = outcome.expected
    if outcome.error and job.is_mandatory(outcome.lost):
        _end(job, outcome.error)
    elif outcome.stop or job.all_dispatched:
        _end(job, outcome.stop or StopReason.ALL_VIEWS)
    else:
        return False
    return True


def _end(job: Job[ImageJob], end: StopReason | TTAError) -> None:
    job.progress = job.progress.settle()
    job.payload.settle(end, job)
