"""Runs views of one model by an ensemble in the server that has the model: canvases travel, not views."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tta_server.backends import Outputs
from tta_server.backends.cancel import Abort
from tta_server.repository.triton_ensemble import Ensemble
from tta_server.serving.ensemble_requests import Item, make_request, read_sums
from tta_server.serving.executor import BatchOfViews, Entries, ViewExecutor, check_rows, read_row, unsound
from tta_server.serving.image import NOT_MADE, SUMMED, ImageViews, ViewError
from tta_server.serving.slot_thread import Call, call_here
from tta_server.serving.summing import SumsOf
from tta_server.tasks.sums import Sums


class EnsembleExecutor:
    """An Executor that has an ensemble make the views of a batch and sum its outputs.

    Views whose own predictions are needed, or whose merge or weights the ensemble does not sum, are made here, and the
    model in the ensemble is called by itself.
    """

    def __init__(self, ensemble: Ensemble, sums_of: SumsOf) -> None:
        self._ensemble = ensemble
        self._sums_of = sums_of
        self._local = ViewExecutor()

    def run(self, items: Entries, abort: Abort | None = None, call: Call = call_here) -> BatchOfViews:
        spec = self._ensemble.spec
        fits = [spec is None or spec == self._sums_of(views) for views, _ in items]
        if all(fits):
            return self._run(items, abort, call)
        if not any(fits):
            return self._local.run(items, abort, call)
        found, parts = dict[int, Any](), list[BatchOfViews]()
        for run, wanted in ((self._run, True), (self._local.run, False)):
            rows = [row for row, fit in enumerate(fits) if fit is wanted]
            parts.append(run([items[row] for row in rows], abort, call))
            found |= zip(rows, parts[-1].predictions, strict=True)
        prepare, infer, read = (
            sum(times) for times in zip(*((p.prepare, p.infer, p.read) for p in parts), strict=True)
        )
        return BatchOfViews([found[row] for row in range(len(items))], prepare, infer, read, parts[0].sums)

    def _run(self, items: Entries, abort: Abort | None, call: Call) -> BatchOfViews:
        start = time.monotonic()
        found, usable = _usable(items)
        if not usable:
            return BatchOfViews([found[row] for row in range(len(items))], time.monotonic() - start, 0.0, 0.0)
        request = make_request(list(usable.values()), self._ensemble.spec, abort)
        made = time.monotonic()
        outputs = call(lambda: self._ensemble.infer(request.inputs, request.outputs, abort))
        inferred = time.monotonic()
        predictions, sums = self._read(list(usable.values()), outputs)
        found |= zip(usable, predictions, strict=True)
        return BatchOfViews(
            [found[row] for row in range(len(items))], made - start, inferred - made, time.monotonic() - inferred, sums
        )

    def _read(self, items: Sequence[Item], outputs: Outputs) -> tuple[Sequence[Any], Mapping[ImageViews, Sums]]:
        if self._ensemble.spec is None:
            predictions = [read_row(views, entry, outputs, row) for row, (views, entry, _) in enumerate(items)]
            check_rows(items[0][0].model.task, outputs, predictions, len(items))
            return predictions, {}
        sound, sums = read_sums(items, self._ensemble.spec, outputs)
        return [SUMMED if ok else unsound(views, e) for (views, e, _), ok in zip(items, sound, strict=True)], sums


def _usable(items: Entries) -> tuple[dict[int, Any], dict[int, Item]]:
    """The rows that can't be made, with what counts as their predictions, and those that can."""
    found, usable = dict[int, Any](), dict[int, Item]()
    for row, (views, entry) in enumerate(items):
        try:
            canvas = views.canvas(entry)
        except Exception as error:  # noqa: BLE001 - logged by the job
            found[row] = ViewError(error, NOT_MADE)
            continue
        if canvas is None:
            found[row] = SUMMED  # its job is settled, and merges nothing
        else:
            usable[row] = Item(views, entry, canvas)
    return found, usable
