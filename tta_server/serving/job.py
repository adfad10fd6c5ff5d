"""What a job carries through the scheduler: one image's pixels, its accumulator, and the future of its answer."""

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tta_server.errors import BackendFailed, TTAError
from tta_server.imaging.decoding import Pixels
from tta_server.imaging.samples import Levels
from tta_server.repository.lifetime import Lifetime
from tta_server.scheduling.jobs import LOST, Failed, Job, Lost, Merged, Outcome, Priority
from tta_server.scheduling.progress import Progress, entries
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.answer import Answer
from tta_server.serving.answer_builder import AnswerBuilder, Snapshot
from tta_server.serving.deadline import Deadline
from tta_server.serving.image import ImageViews, Source, ViewError
from tta_server.serving.plan import Plan, make_layout
from tta_server.tasks import Accumulator
from tta_server.tasks.render.rendering import DRAWING
from tta_server.telemetry.observer import ImageAnswered, Observer, ViewDropped
from tta_server.telemetry.timings import StageTimes
from tta_server.views.geometry import Size

log = logging.getLogger(__name__)

Listener = Callable[[], None]
"""Called on a slot's thread, which it must not block, when `ImageJob.partial` has a new answer."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: `listener` is called after each batch of views but the last; the protocol needs `reserve` seconds of
    the budget to send the answer. The budget counts from `received` on, else from now."""

    request_id: str
    listener: Listener | None = None
    reserve: float = 0.0
    received: float | None = None


class Recorder(Protocol):
    """Records in a job's progress what happens to its views, under the lock that guards it."""

    def merge(self, job: Job[Any], view: int) -> Progress | None:
        """A view is about to be merged. Returns the progress with it; None if the job is settled, and then the view
        must not be merged."""

    def lose(self, job: Job[Any], view: int) -> None:
        """A view has no usable output."""


class ImageJob:
    """Settles `future` exactly once.

    Methods run on slots' threads and on readers' of partial answers, several at a time. `_lock` is held from before a
    view is recorded as merged until the accumulator has it, so that whoever holds it finds in the accumulator exactly
    the views that the job's progress names. The engine's lock may be taken under it, never the other way.
    """

    def __init__(
        self, views: ImageViews, source: Source, deadline: Deadline, caller: Caller, observer: Observer
    ) -> None:
        self.future: Future[Answer] = Future()
        self.views = views
        self.plan = plan = views.plan
        self.model = model = plan.model
        self.times = StageTimes(deadline.start)
        self._source: Source | None = source
        self._builder = AnswerBuilder(plan, views.layout, views.frame, deadline, caller.request_id)
        self._observer = observer
        self._listener = caller.listener
        self._lock = threading.Lock()
        self._picture: Pixels | None = None
        self._accumulator = model.task.accumulator(plan.merge, plan.wanted, views.frame)
        self._view_results: dict[int, Any] = {}
        self._levels: Levels | None = None
        self._closed = False
        self._has_logged = False
        self._held: Lifetime | None = None

    def hold(self) -> bool:
        """Keeps the model's backend open until the job is settled, or `release`; False where it is closed already."""
        lifetime = self.model.lifetime
        self._held = lifetime if lifetime.begin() else None
        return self._held is not None

    def release(self) -> None:
        """Once; then it does nothing."""
        with self._lock:
            held, self._held = self._held, None
        if held is not None:
            held.end()

    # ---- on slots ----

    def decode(self) -> None:
        """Decodes the image and makes the plain view's canvas. Raises TTAError."""
        start = self.times.dequeued()
        with self._lock:
            source, self._source = self._source, None
        if source is None:
            return
        picture = self.views.decode(source)
        with self._lock:
            self._levels = picture.levels
            self._picture = picture.pixels if DRAWING in self.plan.wanted.include and not self._closed else None
        self.times.decoded(start)

    def merge(self, job: Job[Any], view: int, found: Any | Lost | ViewError, recorder: Recorder) -> Outcome:
        """Merges a view's prediction: LOST where it holds NaN or infinity, Failed where it can't be merged. Raises
        nothing, since others' views came back in the same batch."""
        if found is LOST:
            log.warning(
                "the output of %s for view %r holds NaN or infinity", self.model.name, self.views.view(view).name
            )
            self._lose(job, view, recorder)
            return LOST
        if isinstance(found, ViewError):
            return self._fail(job, view, found, recorder)
        try:
            result = self.model.task.view_result(found) if self._builder.keeps_view_results else None
        except Exception as error:  # noqa: BLE001 - logged by `_fail`
            return self._fail(job, view, ViewError(error, "the model's output for a view could not be read"), recorder)
        with self._lock:
            progress = recorder.merge(job, view)
            if progress is None:
                return Merged()
            try:
                self._accumulator.add(found, self.views.view(view).weight)
            except Exception as error:  # noqa: BLE001 - logged by `_fail`
                recorder.lose(job, view)
                problem = ViewError(error, "the model's output for a view could not be merged")
            else:
                self._view_results[view] = result
                return self._judge(progress)
        return self._fail(job, view, problem, recorder)

    def _judge(self, progress: Progress) -> Merged:
        """What the views so far say of those to come; a stop rule that raises stops nothing. Under the lock."""
        views = progress.whole_views(self.views.layout.tiles)
        if not views or progress.has_returned_first(len(self.views.layout.buckets)):
            return Merged()
        evidence = MergeEvidence(self._accumulator, self.views, progress)
        try:
            gain = self.plan.expected_gain(evidence.margin(), views)
            stop = self.plan.rule.decide(evidence)
        except Exception as error:  # noqa: BLE001
            self._log_once("whether to stop could not be decided", error)
            return Merged()
        return Merged(gain, stop, evidence.open_share)

    def _fail(self, job: Job[Any], view: int, problem: ViewError, recorder: Recorder) -> Failed:
        """A view that is not merged for an error of its own: counted, and logged with its traceback, once a job."""
        self._lose(job, view, recorder)
        with self._lock:
            self._log_once(problem.sentence, problem.error)
        if isinstance(problem.error, BackendFailed):
            return Failed(problem.error)
        failure = BackendFailed(problem.sentence)
        failure.__cause__ = problem.error
        return Failed(failure)

    def _lose(self, job: Job[Any], view: int, recorder: Recorder) -> None:
        self._observer.notify(ViewDropped(self.model.name))
        recorder.lose(job, view)

    def _log_once(self, sentence: str, error: Exception) -> None:
        if not self._has_logged:
            log.error("%s: %s", self.model.name, sentence, exc_info=error)
        self._has_logged = True

    # ---- answers ----

    def notify_progress(self, progress: Progress) -> None:
        """After each batch: calls the listener if there is a partial answer. One that raises is not called again."""
        listener = self._listener
        if listener is None or not self._has_news(progress):
            return
        try:
            listener()
        except Exception:
            log.exception("a listener to %s failed", self.model.name)
            self._listener = None

    def partial(self, job: Job[Any], seen: int) -> tuple[int, Answer] | None:
        """The answer so far, with how many entries of the layout are merged in it.

        None where these are no more than `seen`, where the answer itself follows, and where it can't be made, which is
        logged.
        """
        start = time.monotonic()
        try:
            with self._lock:
                progress = job.progress
                if not self._has_news(progress) or progress.merged_count <= seen:
                    return None
                snapshot = self._snapshot(progress)
            answer = self._builder.answer(snapshot, None, start)
        except Exception:
            log.exception("a partial answer of %s could not be made", self.model.name)
            return None
        self.times.add(merge=time.monotonic() - start)
        return len(snapshot.views), answer

    def _has_news(self, progress: Progress) -> bool:
        """True if a partial answer may be given: the plain view is merged and the answer does not follow at once."""
        if progress.settled or progress.stop or not progress.merged:
            return False
        layout = self.views.layout
        return progress.has_returned_first(layout.tiles) and not progress.has_returned_first(len(layout.buckets))

    def _snapshot(self, progress: Progress) -> Snapshot:
        """Under the lock; or once the job is settled, when nothing is merged any more."""
        return Snapshot(
            merged=self._accumulator.result(),
            views=[(entry, self._view_results[entry]) for entry in entries(progress.merged)],
            dropped=progress.lost.bit_count(),
            open=progress.open_share,
            stages=self.times.so_far(),
            levels=self._levels,
            pixels=self._picture,
        )

    def settle(self, outcome: StopReason | TTAError, progress: Progress) -> None:
        """Answers with what is merged, or fails; a client that has left gets nothing."""
        with self._lock:  # a view that was recorded as merged before is in the accumulator now
            self._closed, self._source = True, None
        self.views.close()
        try:
            result = self._answer(outcome, progress) if isinstance(outcome, StopReason) else outcome
        except Exception:
            log.exception("an answer of %s could not be made", self.model.name)
            result = BackendFailed("the answer could not be made from the model's output")
        with self._lock:
            self._picture = None
        self.release()
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, Answer):
            self.future.set_result(result)
        else:
            self.future.set_exception(result)

    def _answer(self, reason: StopReason, progress: Progress) -> Answer:
        start = time.monotonic()
        answer = self._builder.answer(self._snapshot(progress), reason, start)
        receipt = answer.receipt
        self._observer.notify(
            ImageAnswered(answer.model, reason, len(receipt.views), receipt.elapsed_ms / 1e3, receipt.stages_ms)
        )
        return answer


class MergeEvidence:
    """What stop rules may ask of a merge, together with the progress that it stands at."""

    def __init__(self, accumulator: Accumulator[Any, Any], views: ImageViews, progress: Progress) -> None:
        self._accumulator = accumulator
        self._views = views
        self._progress = progress
        self.open_share: float | None = None

    def margin(self) -> float:
        return self._accumulator.margin()

    def views_in_order(self) -> int:
        return self._progress.views_in_order(self._views.layout.tiles)

    def undecided(self) -> float:
        layout = self._views.layout
        waiting = self._progress.waiting(len(layout.buckets))
        remaining = [(layout.placements[entry], self._views.view(entry).weight) for entry in waiting]
        self.open_share = self._accumulator.undecided(remaining)
        return self.open_share

    def standard_error(self) -> float:
        return self._accumulator.standard_error()


def make_job(
    plan: Plan,
    source: Source,
    deadline: Deadline,
    caller: Caller,
    observer: Observer,
    priority: Priority = Priority.INTERACTIVE,
) -> Job[ImageJob]:
    """Raises TooLarge for an image that takes too many views and tiles."""
    layout = make_layout(plan, source.size)
    return Job(
        payload=ImageJob(ImageViews(plan, layout, source.size), source, deadline, caller, observer),
        model=plan.model.name,
        buckets=layout.buckets,
        mandatory=plan.mandatory * layout.tiles,
        deadline=deadline.at,
        pixels=source.size.area,
        nbytes=source.nbytes + layout.nbytes(plan) + _tensor_bytes(plan, source.size),
        priority=priority,
        default_budget=plan.model.config.budget.default_ms / 1e3,
        finish="+".join(["finish", *sorted(plan.wanted.include | plan.wanted.tensors)]),
        reserve=deadline.reserve,
        tiles=layout.tiles,
    )


def _tensor_bytes(plan: Plan, image: Size) -> int:
    """What those take that have a value for every pixel, as an array and as what is sent."""
    specs = [s for s in plan.model.task.tensor_specs if s.per_pixel and s.name in plan.wanted.tensors]
    return sum(2 * np.dtype(s.dtype).itemsize * image.area * math.prod(d for d in s.shape if d) for s in specs)
