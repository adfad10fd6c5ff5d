"""Runs views of one model through graphs around it: one makes its input from canvases, others sum its outputs."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.backends import Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.compiled.rows import FrontRow
from tta_server.errors import BackendFailed
from tta_server.imaging.placement import Placement
from tta_server.imaging.preprocessing import Canvas
from tta_server.imaging.resampling import Part, visible_part
from tta_server.repository.graphs import ViewGraphs
from tta_server.serving.executor import (
    BatchOfViews,
    Entries,
    Executor,
    ViewExecutor,
    check_rows,
    empty_batch,
    read_row,
)
from tta_server.serving.image import NOT_MADE, ImageViews, ViewError
from tta_server.serving.slot_thread import Call, call_here
from tta_server.serving.summing import sum_batch
from tta_server.tasks.sums import Sums, SumSpec
from tta_server.views.view import View

SumsOf = Callable[[ImageViews], SumSpec | None]


def sums_of(views: ImageViews) -> SumSpec | None:
    """How a graph may sum the views of an image; None for tiles, which are blended into a part of the grid."""
    spec = views.plan.sums
    return None if spec is None or (spec.offset is not None and views.layout.tiles > 1) else spec


def no_sums(views: ImageViews) -> SumSpec | None:
    """For those who need the prediction of each view."""
    return None


class ModelExecutor:
    """An Executor that runs each model by the one that `backend.views` in its tta.yaml asks for."""

    def __init__(self, sums_of: SumsOf = sums_of) -> None:
        """`sums_of` says how the views of an image may be summed; see `no_sums`."""
        self._local = ViewExecutor()
        self._sums_of = sums_of

    def run(self, items: Entries, abort: Abort | None = None, call: Call = call_here) -> BatchOfViews:
        graphs = items[0][0].model.graphs
        executor: Executor = self._local if graphs is None else GraphExecutor(graphs, self._sums_of)
        return executor.run(items, abort, call)


class GraphExecutor:
    """An Executor that makes all views of a batch by one run of a graph."""

    def __init__(self, graphs: ViewGraphs, sums_of: SumsOf = sums_of) -> None:
        self._graphs = graphs
        self._sums_of = sums_of

    def run(self, items: Entries, abort: Abort | None = None, call: Call = call_here) -> BatchOfViews:
        start = time.monotonic()
        batch, failed = self._make_batch(items)
        made = time.monotonic()
        backend = items[0][0].model.backend
        outputs = call(lambda: backend.infer(batch, abort))
        inferred = time.monotonic()
        predictions, sums = self._read(items, outputs, failed)
        check_rows(outputs, predictions, len(batch))
        return BatchOfViews(predictions, made - start, inferred - made, time.monotonic() - inferred, sums)

    def _read(
        self, items: Entries, outputs: Outputs, failed: Mapping[int, ViewError]
    ) -> tuple[Sequence[Any], Mapping[ImageViews, Sums]]:
        """Sum the rows of images whose plans merge by sums; read the others."""
        found: dict[int, Any] = dict(failed)
        sums: dict[ImageViews, Sums] = {}
        for spec, rows in self._rows_by_sums(items, failed).items():
            summed = sum_batch(self._graphs, spec, [(items[row], row) for row in rows], outputs)
            found |= summed.predictions
            sums |= summed.sums
        for row, (views, entry) in enumerate(items):
            if row not in found:
                found[row] = read_row(views, entry, outputs, row)
        return [found[row] for row in range(len(items))], sums

    def _rows_by_sums(self, items: Entries, failed: Mapping[int, ViewError]) -> dict[SumSpec, list[int]]:
        """The rows that a graph may sum, by how."""
        found: dict[SumSpec, list[int]] = {}
        for row, (views, _) in enumerate(items):
            if row not in failed and (spec := self._sums_of(views)):
                found.setdefault(spec, []).append(row)
        return found

    def _make_batch(self, items: Entries) -> tuple[Tensor, dict[int, ViewError]]:
        """A batch with one row an entry, padded; rows of views that can't be made are zeros, with errors by row."""
        slab, rows, failed = Slab(), dict[int, FrontRow](), dict[int, ViewError]()
        for i, (views, entry) in enumerate(items):
            try:
                canvas = views.canvas(entry)
            except Exception as error:  # noqa: BLE001 - logged by the job
                failed[i] = ViewError(error, NOT_MADE)
                continue
            if canvas is not None:
                rows[i] = slab.row(canvas, views.view(entry), views.layout.placements[entry])
        made = self._make_rows(items, slab, list(rows.values())) if rows else None
        if made is not None and len(rows) == len(items) and not _is_padded(items):
            return made, failed
        batch = empty_batch(items)
        batch[: len(items)].fill(0)
        if made is not None:
            batch[list(rows)] = made
        return batch, failed

    def _make_rows(self, items: Entries, slab: "Slab", rows: list[FrontRow]) -> Tensor:
        views, entry = items[0]
        try:
            return self._graphs.make_input(slab.planes, rows, views.input_size(entry))
        except Exception as error:
            raise BackendFailed(NOT_MADE) from error


class Slab:
    """The canvases of a batch, each once; of one that is much larger than a view, the part that the view needs."""

    def __init__(self) -> None:
        self.planes: list[NDArray[np.uint8]] = []
        self._index: dict[tuple[Canvas, Part], int] = {}

    def row(self, canvas: Canvas, view: View, placement: Placement) -> FrontRow:
        """The row for a view of a canvas, which is added if it is new."""
        part = visible_part(placement.canvas, placement.to_canvas, placement.frame)
        key = canvas, part
        if key not in self._index:
            self._index[key] = len(self.planes)
            self.planes.append(part.of(canvas.planes))
        on_part = replace(placement, canvas=part.size, to_canvas=placement.to_canvas.then(part.from_whole))
        return FrontRow(view, on_part, self._index[key])


def _is_padded(items: Entries) -> bool:
    ladder = items[0][0].model.backend.ladder
    return bool(ladder) and len(items) not in ladder
