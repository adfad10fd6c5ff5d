"""Runs views of one model through graphs around it: one makes its input from canvases, others sum its outputs."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tta_server.backends import Outputs
from tta_server.backends.cancel import Abort
from tta_server.compiled.rows import FrontRow
from tta_server.errors import BackendFailed
from tta_server.repository.model import Model
from tta_server.repository.pipeline import Pipeline
from tta_server.serving.ensemble_executor import EnsembleExecutor
from tta_server.serving.executor import (
    BatchOfViews,
    Entries,
    Executor,
    ViewExecutor,
    check_rows,
    padded,
    read_row,
)
from tta_server.serving.image import NOT_MADE, ImageViews, ViewError
from tta_server.serving.slab import Slab
from tta_server.serving.slot_thread import Call, call_here
from tta_server.serving.summing import SumsOf, sum_batch, sums_of
from tta_server.tasks.sums import Sums, SumSpec


class ModelExecutor:
    """An Executor that runs each model by the one that `backend.views` in its tta.yaml asks for."""

    def __init__(self, sums_of: SumsOf = sums_of) -> None:
        """`sums_of` says how the views of an image may be summed; see `no_sums`."""
        self._local = ViewExecutor()
        self._sums_of = sums_of

    def run(self, items: Entries, abort: Abort | None = None, call: Call = call_here) -> BatchOfViews:
        return self._executor(items[0][0].model).run(items, abort, call)

    def _executor(self, model: Model) -> Executor:
        if model.ensemble is not None:
            return EnsembleExecutor(model.ensemble, self._sums_of)
        return self._local if model.pipeline is None else GraphExecutor(model.pipeline, self._sums_of)


class GraphExecutor:
    """An Executor that makes all views of a batch, and sums outputs, where the model runs."""

    def __init__(self, pipeline: Pipeline, sums_of: SumsOf = sums_of) -> None:
        self._pipeline = pipeline
        self._sums_of = sums_of

    def run(self, items: Entries, abort: Abort | None = None, call: Call = call_here) -> BatchOfViews:
        start = time.monotonic()
        prepared, failed = self._prepare(items)
        made = time.monotonic()
        ran = call(lambda: self._pipeline.call(lambda: self._run(items, prepared, failed, abort)))
        inferred = time.monotonic()
        read = {row: read_row(*items[row], ran.outputs, row) for row in ran.unread}
        found = {**failed, **ran.predictions, **read}
        predictions = [found[row] for row in range(len(items))]
        check_rows(items[0][0].model.task, ran.outputs, predictions, padded(items))
        return BatchOfViews(predictions, made - start, inferred - made, time.monotonic() - inferred, ran.sums)

    def _prepare(self, items: Entries) -> tuple[Any, dict[int, ViewError]]:
        """What the pipeline takes, with rows of zeros for views that can't be made, and their errors by row."""
        slab, rows, failed = Slab(), list[FrontRow | None](), dict[int, ViewError]()
        for i, (views, entry) in enumerate(items):
            try:
                canvas = views.canvas(entry)
            except Exception as error:  # noqa: BLE001 - logged by the job
                failed[i] = ViewError(error, NOT_MADE)
                canvas = None
            placement = views.layout.placements[entry]
            rows.append(None if canvas is None else slab.row(canvas, views.view(entry), placement))
        rows += [None] * (padded(items) - len(items))
        views, entry = items[0]
        try:
            return self._pipeline.prepare(slab.planes, rows, views.input_size(entry)), failed
        except BackendFailed:
            raise
        except Exception as error:
            raise BackendFailed(NOT_MADE) from error

    def _run(self, items: Entries, prepared: Any, failed: Mapping[int, ViewError], abort: Abort | None) -> "_Ran":
        """Run the model, and sum the rows of images whose plans merge by sums."""
        outputs = self._pipeline.infer(prepared, abort)
        predictions, sums = dict[int, Any](), dict[ImageViews, Sums]()
        for spec, rows in self._rows_by_sums(items, failed).items():
            summed = sum_batch(outputs, spec, [(items[row], row) for row in rows])
            predictions |= summed.predictions
            sums |= summed.sums
        unread = [row for row in range(len(items)) if row not in predictions and row not in failed]
        is_read = unread or not sums or any(isinstance(each, ViewError) for each in predictions.values())
        return _Ran(predictions, sums, unread, outputs.fetch() if is_read else {})

    def _rows_by_sums(self, items: Entries, failed: Mapping[int, ViewError]) -> dict[SumSpec, list[int]]:
        """The rows that a graph may sum, by how."""
        found: dict[SumSpec, list[int]] = {}
        for row, (views, _) in enumerate(items):
            if row not in failed and (spec := self._sums_of(views)):
                found.setdefault(spec, []).append(row)
        return found


class _Ran(NamedTuple):
    """What came of a run: predictions by row and sums; rows that are to be read, and outputs if any row needs them."""

    predictions: Mapping[int, Any]
    sums: Mapping[ImageViews, Sums]
    unread: Sequence[int]
    outputs: Outputs
