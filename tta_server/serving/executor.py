"""Runs views through a model: writes them into a batch, infers, maps the predictions back to the plain view."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tta_server.backends import Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.errors import BackendFailed, DeviceLost, WrongDeclaration
from tta_server.repository.model import Model
from tta_server.scheduling.jobs import LOST, Job, Lost, Merged, Outcome
from tta_server.serving.image import ImageViews, Source, ViewError
from tta_server.serving.job import ImageJob
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Plan
from tta_server.serving.recorder import Recorder
from tta_server.serving.slot_thread import Call, call_here
from tta_server.telemetry.observer import Observer, ViewsRan

UNREADABLE = "the model's output for a view could not be read"


class Executor:
    """Runs views of several jobs as one batch, on the calling thread, and merges each into its job."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def run(
        self,
        items: Sequence[tuple[Job[ImageJob], int]],
        recorder: Recorder,
        abort: Abort | None = None,
        call: Call = call_here,
    ) -> list[Outcome]:
        """Runs (job, entry) items of one model and input size; returns one outcome an item. `call` calls the model.

        Just after a reload, items may belong to the old or the new model, of which one may be unable to run several
        rows; each part is a batch that may fail alone. Raises BackendFailed if all fail.
        """
        batches = _split(items)
        if len(batches) == 1:
            return self._run(items, recorder, abort, call)
        outcomes: dict[int, Outcome] = {}
        failed: dict[int, Exception] = {}
        for own in batches:
            try:
                outcomes |= zip(own, self._run([items[i] for i in own], recorder, abort, call), strict=True)
            except DeviceLost:
                raise
            except Exception as error:  # noqa: BLE001 - logged by the jobs
                failed |= dict.fromkeys(own, error)
        if not outcomes:
            raise failed[0]
        for i, reason in failed.items():
            job, view = items[i]
            outcomes[i] = job.payload.merge(job, view, ViewError(reason, "the model failed on this image"), recorder)
        return [outcomes[i] for i in range(len(items))]

    def _run(
        self, items: Sequence[tuple[Job[ImageJob], int]], recorder: Recorder, abort: Abort | None, call: Call
    ) -> list[Outcome]:
        lifetime = items[0][0].payload.model.lifetime
        if not lifetime.begin():  # unloaded, so all of these jobs are settled already
            return [Merged() for _ in items]
        try:
            return self._run_on_open_model(items, recorder, abort, call)
        finally:
            lifetime.end()

    def _run_on_open_model(
        self, items: Sequence[tuple[Job[ImageJob], int]], recorder: Recorder, abort: Abort | None, call: Call
    ) -> list[Outcome]:
        for job, _ in items:
            job.payload.times.mark_dequeued()
        batch = run_batch([(job.payload.views, view) for job, view in items], abort, call)
        rows = zip(items, batch.predictions, strict=True)
        start = time.monotonic()
        outcomes = [job.payload.merge(job, view, found, recorder) for (job, view), found in rows]
        merging = batch.read + time.monotonic() - start
        key, times = items[0][0].payload.model.key, [job.payload.times for job, _ in items]
        self._observer.notify(ViewsRan(key, batch.prepare, batch.infer, merging, times))
        return outcomes


def _split(items: Sequence[tuple[Job[ImageJob], int]]) -> list[list[int]]:
    """Indices of the items of each batch: one batch a model, or one an item for a model that can't run several rows."""
    batches: dict[tuple[Model, int], list[int]] = {}
    for index, (job, _) in enumerate(items):
        model = job.payload.model
        batches.setdefault((model, 0 if model.can_batch else index), []).append(index)
    return list(batches.values())


@dataclass(frozen=True, slots=True)
class BatchOfViews:
    """The predictions of one batch and its times in seconds.

    `predictions` has one entry a row: a prediction in the frame of the image's plain view, LOST if it holds NaN or
    infinity, or a ViewError.
    """

    predictions: Sequence[Any | Lost | ViewError]
    prepare: float
    infer: float
    read: float


def run_batch(
    items: Sequence[tuple[ImageViews, int]], abort: Abort | None = None, call: Call = call_here
) -> BatchOfViews:
    """Runs (image, entry) pairs of one model and one input size as one batch, padded to a size that the backend takes.

    Raises BackendFailed if the model fails, or if a row can not be read because it returns another number of rows.
    """
    start = time.monotonic()
    batch, failed = _write_batch(items)
    written = time.monotonic()
    backend = items[0][0].model.backend
    outputs = call(lambda: backend.infer(batch, abort))
    inferred = time.monotonic()
    predictions = [failed.get(i) or _read_row(views, entry, outputs, i) for i, (views, entry) in enumerate(items)]
    _check_rows(outputs, predictions, len(batch))
    return BatchOfViews(predictions, written - start, inferred - written, time.monotonic() - inferred)


def infer(items: Sequence[tuple[ImageViews, int]]) -> Outputs:
    """A model's raw outputs for these entries. Raises any error of writing a view or of the model."""
    batch, failed = _write_batch(items)
    for problem in failed.values():
        raise problem.error
    outputs = items[0][0].model.backend.infer(batch)
    is_padded = len(batch) > len(items)
    return {name: values[: len(items)] for name, values in outputs.items()} if is_padded else outputs


@dataclass(frozen=True, slots=True)
class ViewPredictions:
    """One prediction for each entry of an image's layout, in the plain view's frame, not merged."""

    views: ImageViews
    predictions: Sequence[Any]


def run_views(plan: Plan, source: Source) -> ViewPredictions:
    """Runs all views of a plan on one image, with the code of requests, but without engine, deadline or metrics.

    Raises InvalidInput, UnsupportedMedia or TooLarge for the image, and BackendFailed that names the view for an output
    that holds NaN or infinity.
    """
    views = ImageViews(plan, make_layout(plan, source.size), source.size)
    views.decode(source)
    max_rows = min([len(plan.views), *plan.model.backend.ladder[-1:]]) if plan.model.can_batch else 1
    found: list[Any] = []
    for entries in _batches(views, max_rows):
        for entry, prediction in zip(entries, run_batch([(views, i) for i in entries]).predictions, strict=True):
            found.append(_checked(views, entry, prediction))
    views.close()
    return ViewPredictions(views, found)


def _batches(views: ImageViews, max_rows: int) -> Iterator[list[int]]:
    """Consecutive entries that share a bucket, at most `max_rows` at a time."""
    buckets = views.layout.buckets
    for _, group in groupby(range(len(buckets)), key=lambda entry: buckets[entry]):
        run = list(group)
        yield from (run[start : start + max_rows] for start in range(0, len(run), max_rows))


def _checked(views: ImageViews, entry: int, prediction: Any | Lost | ViewError) -> Any:
    """Returns a prediction; raises BackendFailed for LOST, a ViewError, or what tta.yaml can't mean."""
    if prediction is LOST:
        raise BackendFailed(f"the model's output for view {views.view(entry).name!r} holds NaN or infinity")
    if isinstance(prediction, ViewError):
        raise BackendFailed(prediction.sentence) from prediction.error
    for remark in views.model.remarks(prediction):
        if remark.refuses:
            raise WrongDeclaration(remark.sentence, remark.check)
    return prediction


def _write_batch(items: Sequence[tuple[ImageViews, int]]) -> tuple[Tensor, dict[int, ViewError]]:
    """A batch with one row an entry, and zeros after them up to a size that the backend takes.

    If an entry can't be made, its row is zeros too and its error is returned by row.
    """
    views, entry = items[0]
    rows = next((size for size in views.model.backend.ladder if size >= len(items)), len(items))
    batch = views.model.preprocessing.empty(rows, views.input_size(entry))
    batch[len(items) :].fill(0)
    failed: dict[int, ViewError] = {}
    for i, (views, entry) in enumerate(items):
        try:
            views.write(entry, batch[i])
        except Exception as error:  # noqa: BLE001 - logged by the job
            batch[i].fill(0)
            failed[i] = ViewError(error, "a view of the image could not be made")
    return batch, failed


def _read_row(views: ImageViews, entry: int, outputs: Outputs, row: int) -> Any | Lost | ViewError:
    try:
        prediction = views.read(entry, outputs, row)
        return prediction if views.model.task.is_sound(prediction) else LOST
    except Exception as error:  # noqa: BLE001 - logged by the job
        return ViewError(error, UNREADABLE)


def _check_rows(outputs: Outputs, predictions: Iterable[Any | Lost | ViewError], rows: int) -> None:
    """Raises BackendFailed if a row could not be read and the number of rows is wrong, for then no row is valid."""
    failure = next((each.error for each in predictions if isinstance(each, ViewError)), None)
    if failure and any(not values.ndim or len(values) != rows for values in outputs.values()):
        raise BackendFailed("the model returned another number of rows than the batch has views") from failure
