"""The payload of a job: one image's pixels, its accumulator, and the future of its answer."""

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np

from tta_server.errors import BackendFailed, TTAError, WrongDeclaration
from tta_server.imaging.decoding import Pixels
from tta_server.imaging.formats.samples import Levels
from tta_server.repository.lifetime import Lifetime
from tta_server.scheduling.jobs import Job, Outcome, Priority
from tta_server.scheduling.progress import Progress, as_set, entries
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.answer import Answer
from tta_server.serving.answer_builder import AnswerBuilder, Snapshot
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.evidence import MergeEvidence
from tta_server.serving.image import SUMMED, ImageViews, Source, ViewError
from tta_server.serving.layout import make_layout
from tta_server.serving.merged_views import MergedViews
from tta_server.serving.plan import Plan
from tta_server.serving.recorder import Recorder
from tta_server.tasks.render.rendering import DRAWING
from tta_server.tasks.sums import Sums
from tta_server.telemetry.observer import DeclarationDoubted, ImageAnswered, Observer, ViewDropped
from tta_server.telemetry.timings import StageTimes
from tta_server.views.geometry import Size

log = logging.getLogger(__name__)


class ImageJob:
    """One image on its way to an answer: decodes it, merges its views, settles `future` exactly once.

    Thread-safe: slots and readers of partial answers call it at the same time. `_lock` is held from before a view is
    recorded as merged until the accumulator has it; a thread that holds it finds in the accumulator exactly the views
    that the job's progress names. The engine's lock may be taken under `_lock`, never the other way round.
    """

    def __init__(
        self, views: ImageViews, source: Source, deadline: Deadline, caller: Caller, observer: Observer
    ) -> None:
        self.future: Future[Answer] = Future()
        self.views = views
        self.plan = plan = views.plan
        self.model = plan.model
        self.times = StageTimes(deadline.start, caller.trace)
        self._source: Source | None = source
        self._builder = AnswerBuilder(plan, views.layout, views.frame, deadline, caller.request_id)
        self._observer = observer
        self._listener = caller.listener
        self._lock = threading.Lock()
        self._picture: Pixels | None = None
        self._merged = MergedViews(views, self._builder.keeps_view_results)
        self._warnings: dict[str, str] = {}
        self._levels: Levels | None = None
        self._closed = False
        self._has_logged = False
        self._backend_hold: Lifetime | None = None

    def hold_backend(self) -> bool:
        """Keeps the model's backend open until the job is settled or releases it; False if it is closed already."""
        lifetime = self.model.lifetime
        self._backend_hold = lifetime if lifetime.begin() else None
        return self._backend_hold is not None

    def release_backend(self) -> None:
        """Lets the backend be closed; does nothing the second time."""
        with self._lock:
            held, self._backend_hold = self._backend_hold, None
        if held is not None:
            held.end()

    # ---- steps, on slots' threads ----

    def decode(self) -> None:
        """Decodes the image and makes the plain view's canvas; does nothing once settled. Raises TTAError."""
        start = self.times.mark_dequeued()
        with self._lock:
            source, self._source = self._source, None
        if source is None:
            return
        picture = self.views.decode(source)
        with self._lock:
            self._levels = picture.levels
            self._picture = picture.pixels if DRAWING in self.plan.wanted.include and not self._closed else None
        self.times.mark_decoded(start)

    def merge(
        self,
        job: Job[Any],
        found: Sequence[tuple[int, Any | ViewError]],
        recorder: Recorder,
        sums: Sums | None = None,
    ) -> Outcome:
        """Merges the predictions of a batch, each with its view, then asks the stop rule.

        With `sums` the predictions that are no errors are SUMMED. Raises nothing, for the batch holds other jobs' views
        too.
        """
        problems = {view: problem for view, prediction in found if (problem := self._problem(prediction))}
        with self._lock:
            usable = [(view, prediction) for view, prediction in found if view not in problems]
            if usable and recorder.merge(job, as_set(view for view, _ in usable)) is not None:
                problems |= self._merged.add(usable) if sums is None else self._merged.add_sums(usable, sums)
            if problems:
                recorder.lose(job, as_set(problems))
                self._log_once(problems)
            outcome = self._judge(job.progress)
        for _ in problems:
            self._observer.notify(ViewDropped(self.model.name))
        if not problems:
            return outcome
        return replace(outcome, lost=as_set(problems), error=problems[min(problems)].failure)

    def _problem(self, prediction: Any | ViewError) -> ViewError | None:
        """Why a prediction can't be used. Notes for receipt, metric and log what it shows to be wrong in tta.yaml."""
        if isinstance(prediction, ViewError):
            return prediction
        if prediction is SUMMED:
            return None
        remarks = self.model.remarks(prediction)
        if not remarks:
            return None
        with self._lock:
            self._warnings |= {remark.check: remark.sentence for remark in remarks}
        for remark in remarks:
            self._observer.notify(DeclarationDoubted(self.model.name, remark.check, remark.sentence))
        refusal = next((remark for remark in remarks if remark.refuses), None)
        return ViewError(WrongDeclaration(refusal.sentence, refusal.check), refusal.sentence) if refusal else None

    def _judge(self, progress: Progress) -> Outcome:
        """Asks the stop rule after a merge; one that raises is logged and stops nothing. Under the lock."""
        views = progress.whole_views(self.views.layout.tiles)
        if not views or progress.settled or progress.has_returned_first(len(self.views.layout.buckets)):
            return Outcome()
        evidence = MergeEvidence(self._merged.accumulator, self.views, progress)
        try:
            gain = self.plan.expected_gain(evidence.margin(), views)
            stop = self.plan.rule.decide(evidence)
            expected = self.plan.rule.expected_views(evidence, views, len(self.plan.views))
        except Exception as error:  # noqa: BLE001
            self._log_once({0: ViewError(error, "the stop rule failed")})
            return Outcome()
        return Outcome(
            expected_gain=gain,
            expected=expected * self.views.layout.tiles,
            stop=stop,
            open_share=evidence.open_share,
        )

    def _log_once(self, problems: Mapping[int, ViewError]) -> None:
        """Logs the first problem of a job, with its traceback if it has one; wrong declarations have their own log."""
        logged = [each for each in problems.values() if not isinstance(each.error, WrongDeclaration)]
        if logged and not self._has_logged:
            error = logged[0].error
            log.error("%s: %s", self.model.name, logged[0].sentence, exc_info=error if error.__traceback__ else None)
        self._has_logged |= bool(logged)

    # ---- answers ----

    def notify_progress(self, progress: Progress) -> None:
        """Calls the listener if there is a partial answer; a listener that raises is not called again."""
        listener = self._listener
        if listener is None or not self._has_partial(progress):
            return
        try:
            listener()
        except Exception:
            log.exception("a listener to %s failed", self.model.name)
            self._listener = None

    def partial(self, job: Job[Any], seen: int) -> tuple[int, Answer] | None:
        """The number of merged entries, and the answer from them; `seen` is the caller's last number.

        None if no more entries are merged, if the final answer follows at once, or if making the answer fails, which is
        logged.
        """
        start = time.monotonic()
        try:
            with self._lock:
                progress = job.progress
                if not self._has_partial(progress) or progress.merged_count <= seen:
                    return None
                snapshot = self._snapshot(progress)
            answer = self._builder.answer(snapshot, None, start)
        except Exception:
            log.exception("a partial answer of %s could not be made", self.model.name)
            return None
        self.times.add(merge=time.monotonic() - start)
        return len(snapshot.views), answer

    def _has_partial(self, progress: Progress) -> bool:
        """True if the plain view is merged and the final answer does not follow at once."""
        if progress.settled or progress.stop:
            return False
        layout = self.views.layout
        return progress.has_merged_first(layout.tiles) and not progress.has_returned_first(len(layout.buckets))

    def _snapshot(self, progress: Progress) -> Snapshot:
        """What the answer is made of. Under the lock, or once the job is settled and nothing is merged any more."""
        return Snapshot(
            merged=self._merged.accumulator.result(),
            views=[(entry, self._merged.result_of(entry)) for entry in entries(progress.merged)],
            started=-(-progress.dispatched // self.views.layout.tiles),
            dropped=progress.lost.bit_count(),
            open=progress.open_share,
            stages=self.times.seconds_so_far(),
            levels=self._levels,
            warnings=tuple(self._warnings.values()),
            pixels=self._picture,
        )

    def settle(self, outcome: StopReason | TTAError, job: Job[Any]) -> None:
        """Resolves the future with the answer from the merged views, or with the error, and frees all resources.

        The job's progress is settled already.
        """
        with self._lock:  # a view that was being merged is in the accumulator now, or recorded as lost
            progress = job.progress
            self._closed, self._source = True, None
        self.views.close()
        try:
            result = self._answer(outcome, progress) if isinstance(outcome, StopReason) else outcome
        except Exception:
            log.exception("an answer of %s could not be made", self.model.name)
            result = BackendFailed("the answer could not be made from the model's output")
        with self._lock:  # a future that is kept keeps this job: its pixels and maps go now
            self._picture = None
            self._merged.close()
        self.release_backend()
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
        views = len(receipt.views)
        wanted = receipt.planned if reason.is_lack_of_time else views
        self._observer.notify(
            ImageAnswered(
                answer.model, reason, views, receipt.elapsed_ms / 1e3, receipt.stages_ms, wanted, self.times.trace
            )
        )
        return answer


def make_job(
    plan: Plan,
    source: Source,
    deadline: Deadline,
    caller: Caller,
    observer: Observer,
    priority: Priority = Priority.INTERACTIVE,
) -> Job[ImageJob]:
    """A job for one image, not admitted yet. Raises TooLarge if views times tiles exceed MAX_ENTRIES."""
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
        expected=plan.rule.expected_views(None, 0, len(plan.views)) * layout.tiles,
    )


def _tensor_bytes(plan: Plan, image: Size) -> int:
    """Bytes of the requested tensors with a value for every pixel: the arrays and their encoded copies."""
    specs = [s for s in plan.model.task.tensor_specs if s.per_pixel and s.name in plan.wanted.tensors]
    return sum(2 * np.dtype(s.dtype).itemsize * image.area * math.prod(d for d in s.shape if d) for s in specs)
