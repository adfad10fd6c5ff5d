"""Runs views of several jobs through their models' executors, and merges each job's predictions."""

import time
from collections.abc import Mapping, Sequence

from tta_server.backends.cancel import Abort
from tta_server.errors import DeviceLost
from tta_server.repository.model import Model
from tta_server.scheduling.jobs import MERGED, Job, Outcome, join_outcomes
from tta_server.serving.executor import Executor
from tta_server.serving.image import ImageViews, ViewError
from tta_server.serving.job import ImageJob
from tta_server.serving.recorder import Recorder
from tta_server.serving.slot_thread import Call, call_here
from tta_server.tasks.sums import Sums
from tta_server.telemetry.observer import Observer, ViewsRan
from tta_server.telemetry.tracing import NO_TRACER, BatchTrace, TracedView, Tracer

Items = Sequence[tuple[Job[ImageJob], int]]
Outcomes = dict[Job[ImageJob], Outcome]
NO_SUMS: Mapping[ImageViews, Sums] = {}


class ImageRunner:
    """Runs batches of a pool, each on the calling thread."""

    def __init__(self, executor: Executor, observer: Observer, tracer: Tracer = NO_TRACER) -> None:
        self._executor = executor
        self._tracer = tracer
        self._observer = observer

    def run(self, items: Items, recorder: Recorder, abort: Abort | None = None, call: Call = call_here) -> Outcomes:
        """Runs (job, entry) items of one model and input size; returns one outcome a job. `call` calls the model.

        Just after a reload, items may belong to the old or the new model, of which one may be unable to run several
        rows; each part is a batch that may fail alone. Raises BackendFailed if all fail.
        """
        batches = _split(items)
        if len(batches) == 1:
            return self._run(items, recorder, abort, call)
        outcomes: Outcomes = {}
        failed: list[tuple[Items, Exception]] = []
        for batch in batches:
            try:
                outcomes = join_outcomes(outcomes, self._run(batch, recorder, abort, call))
            except DeviceLost:
                raise
            except Exception as error:  # noqa: BLE001 - logged by the jobs
                failed.append((batch, error))
        if not outcomes:
            raise failed[0][1]
        for batch, reason in failed:
            problem = ViewError(reason, "the model failed on this image")
            outcomes = join_outcomes(outcomes, _merge(batch, [problem] * len(batch), recorder))
        return outcomes

    def _run(self, items: Items, recorder: Recorder, abort: Abort | None, call: Call) -> Outcomes:
        lifetime = items[0][0].payload.model.lifetime
        if not lifetime.begin():  # unloaded, so all of these jobs are settled already
            return {job: MERGED for job, _ in items}
        trace = self._begin_trace(items) if self._tracer.is_on else None
        if self._tracer.is_on and abort is not None:
            abort.headers = trace.headers if trace is not None else ()
        try:
            return self._run_on_open_model(items, recorder, abort, call, trace)
        except BaseException as error:
            if trace is not None:
                trace.failed(error)
            raise
        finally:
            lifetime.end()

    def _begin_trace(self, items: Items) -> BatchTrace | None:
        """The span of a batch with views of recorded requests; None without."""
        views = [
            TracedView(trace, job.payload.views.view(entry).name, job.payload.views.tile(entry))
            for job, entry in items
            if (trace := job.payload.times.trace) is not None and trace.is_recorded
        ]
        return self._tracer.begin_batch(items[0][0].payload.model.key, views) if views else None

    def _run_on_open_model(
        self, items: Items, recorder: Recorder, abort: Abort | None, call: Call, trace: BatchTrace | None
    ) -> Outcomes:
        for job, _ in items:
            job.payload.times.mark_dequeued()
        batch = self._executor.run([(job.payload.views, view) for job, view in items], abort, call)
        start = time.monotonic()
        outcomes = _merge(items, batch.predictions, recorder, batch.sums)
        merging = batch.read + time.monotonic() - start
        key, times = items[0][0].payload.model.key, [job.payload.times for job, _ in items]
        self._observer.notify(ViewsRan(key, batch.prepare, batch.infer, merging, times, trace))
        return outcomes


def _merge(
    items: Items,
    predictions: Sequence[object | ViewError],
    recorder: Recorder,
    sums: Mapping[ImageViews, Sums] = NO_SUMS,
) -> Outcomes:
    """Merges one prediction an item, and the sums of those that are SUMMED."""
    found: dict[Job[ImageJob], list[tuple[int, object]]] = {}
    for (job, view), prediction in zip(items, predictions, strict=True):
        found.setdefault(job, []).append((view, prediction))
    return {job: job.payload.merge(job, own, recorder, sums.get(job.payload.views)) for job, own in found.items()}


def _split(items: Items) -> list[Items]:
    """The items of each batch: one batch a model, or one an item for a model that can't run several rows."""
    batches: dict[tuple[Model, int], list[tuple[Job[ImageJob], int]]] = {}
    for index, (job, view) in enumerate(items):
        model = job.payload.model
        batches.setdefault((model, 0 if model.can_batch else index), []).append((job, view))
    return list(batches.values())
