"""Runs batches of several jobs' views, each of which has an outcome of its own."""

import time
from collections.abc import Sequence

from tta_server.backends import Tensor
from tta_server.backends.cancel import Abort
from tta_server.errors import BackendFailed
from tta_server.scheduling.jobs import Failed, Merged, Outcome
from tta_server.serving.job import ImageJob
from tta_server.tasks import Outputs
from tta_server.telemetry.statistics import Statistics


class Executor:
    """Runs views: write, infer, merge."""

    def __init__(self, statistics: Statistics | None = None) -> None:
        self._statistics = statistics or Statistics()

    def run(self, items: Sequence[tuple[ImageJob, int]], abort: Abort | None = None) -> list[Outcome]:
        """All items have the same input size and one model's name: where that model has just been loaded anew, some
        are still of the old one, and either may fail alone. Raises BackendFailed."""
        models = dict.fromkeys(work.model for work, _ in items)
        if len(models) == 1:
            return self._run(items, abort)
        outcomes: dict[int, Outcome] = {}
        failed: dict[int, Exception] = {}
        for model in models:
            own = [i for i, (work, _) in enumerate(items) if work.model is model]
            try:
                outcomes |= zip(own, self._run([items[i] for i in own], abort), strict=True)
            except Exception as error:
                if abort is not None and abort.requested:
                    raise
                failed |= dict.fromkeys(own, error)
        if not outcomes:
            raise failed[0]
        for i, reason in failed.items():
            work, view = items[i]
            outcomes[i] = work.drop(view, reason, "the model failed on this image")
        return [outcomes[i] for i in range(len(items))]

    def _run(self, items: Sequence[tuple[ImageJob, int]], abort: Abort | None) -> list[Outcome]:
        lifetime = items[0][0].model.lifetime
        if not lifetime.begin():  # unloaded: then all of these jobs are settled, and nothing is to be done
            return [Merged() for _ in items]
        try:
            return self._run_open(items, abort)
        finally:
            lifetime.end()

    def _run_open(self, items: Sequence[tuple[ImageJob, int]], abort: Abort | None) -> list[Outcome]:
        start = time.monotonic()
        batch = self._empty(items)
        failed = self._write(items, batch)
        written = time.monotonic()
        model = items[0][0].model
        outputs = model.backend.infer(batch, abort)
        inferred = time.monotonic()
        outcomes = [failed.get(i) or work.merge(view, outputs, i) for i, (work, view) in enumerate(items)]
        _check_rows(outputs, outcomes)
        merged = time.monotonic()
        self._statistics.batch(model.key, len(items), written - start, inferred - written, merged - inferred)
        for work, _ in items:
            work.times.add(
                prepare=(written - start) / len(items),
                infer=(inferred - written) / len(items),
                merge=(merged - inferred) / len(items),
            )
        for work in dict.fromkeys(work for work, _ in items):
            work.notify_progress()
        return outcomes

    def _write(self, items: Sequence[tuple[ImageJob, int]], batch: Tensor) -> dict[int, Failed]:
        """Writes each view into its row; the row of one that can't be made is zeros, and its outcome returned."""
        failed: dict[int, Failed] = {}
        for i, (work, index) in enumerate(items):
            try:
                work.write(index, batch[i])
            except Exception as error:  # noqa: BLE001 - logged by `drop`
                batch[i].fill(0)
                failed[i] = work.drop(index, error, "a view of the image could not be made")
        return failed

    def infer(self, items: Sequence[tuple[ImageJob, int]]) -> Outputs:
        """The model's raw outputs for these views, merged nowhere."""
        batch = self._empty(items)
        for row, (work, index) in zip(batch, items, strict=True):
            work.write(index, row)
        return items[0][0].model.backend.infer(batch)

    def _empty(self, items: Sequence[tuple[ImageJob, int]]) -> Tensor:
        work, index = items[0]
        return work.model.preprocessing.empty(len(items), work.layout.placements[index].tensor)


def _check_rows(outputs: Outputs, outcomes: Sequence[Outcome]) -> None:
    """Raises BackendFailed where a view could not be read since the model gave another number of rows than it was
    given: none of them can be trusted."""
    failure = next((outcome.error for outcome in outcomes if isinstance(outcome, Failed)), None)
    if failure and any(not values.ndim or len(values) != len(outcomes) for values in outputs.values()):
        raise BackendFailed("the model gave another number of outputs than it was given views") from failure.__cause__
