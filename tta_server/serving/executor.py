"""Runs views of one model as one batch: writes them, infers, maps the predictions back to the plain view."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from tta_server.backends import Frame, FramedBackend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.errors import BackendFailed
from tta_server.serving.image import NOT_MADE, UNREADABLE, ImageViews, ViewError
from tta_server.serving.slot_thread import Call, call_here
from tta_server.tasks import Task
from tta_server.tasks.sums import Sums

Entries = Sequence[tuple[ImageViews, int]]
"""Views of one model and one input size: (image, index of the entry in its layout)."""


@dataclass(frozen=True, slots=True)
class BatchOfViews:
    """The predictions of one batch and its times in seconds.

    `predictions` has one entry a row: a prediction in the frame of the image's plain view, a ViewError, or SUMMED for a
    view that is part of its image's `sums`.
    """

    predictions: Sequence[Any | ViewError]
    prepare: float
    infer: float
    read: float
    sums: Mapping[ImageViews, Sums] = field(default_factory=dict)


class Executor(Protocol):
    """How the views of a model are run on its pool: on the CPU one by one, or by graphs around the model."""

    def run(self, items: Entries, abort: Abort | None = None, call: Call = call_here) -> BatchOfViews:
        """Runs these entries as one batch; `call` calls the model.

        Raises BackendFailed if the model fails, or if a row can not be read because it returns another number of rows.
        """


class ViewExecutor:
    """An Executor that makes each view on the CPU, on the calling thread, and maps each prediction back there."""

    def run(self, items: Entries, abort: Abort | None = None, call: Call = call_here) -> BatchOfViews:
        start = time.monotonic()
        batch, failed = _write_batch(items)
        written = time.monotonic()
        outputs = call(lambda: _run_model(items, batch, abort))
        inferred = time.monotonic()
        predictions = [failed.get(i) or read_row(views, entry, outputs, i) for i, (views, entry) in enumerate(items)]
        check_rows(items[0][0].model.task, outputs, predictions, len(batch))
        return BatchOfViews(predictions, written - start, inferred - written, time.monotonic() - inferred)


def infer(items: Entries) -> Outputs:
    """A model's raw outputs for these entries. Raises any error of writing a view or of the model."""
    batch, failed = _write_batch(items)
    for problem in failed.values():
        raise problem.error
    outputs = _run_model(items, batch, None)
    is_whole = len(batch) == len(items) or items[0][0].model.task.is_joined
    return outputs if is_whole else {name: values[: len(items)] for name, values in outputs.items()}


def _run_model(items: Entries, batch: Tensor, abort: Abort | None) -> Outputs:
    """The model's outputs for a batch of these entries."""
    backend = items[0][0].model.backend
    if not backend.signature.takes_mask:
        return backend.infer(batch, abort)
    placements = [views.layout.placements[entry] for views, entry in items]
    frames = [Frame(*placement.inset, *placement.frame) for placement in placements]
    return cast("FramedBackend", backend).infer_framed(batch, frames, abort)


def _write_batch(items: Entries) -> tuple[Tensor, dict[int, ViewError]]:
    """A batch with one row an entry, and zeros after them up to a size that the backend takes.

    If an entry can't be made, its row is zeros too and its error is returned by row.
    """
    batch = _empty_batch(items)
    failed: dict[int, ViewError] = {}
    for i, (views, entry) in enumerate(items):
        try:
            views.write(entry, batch[i])
        except Exception as error:  # noqa: BLE001 - logged by the job
            batch[i].fill(0)
            failed[i] = ViewError(error, NOT_MADE)
    return batch, failed


def padded(items: Entries) -> int:
    """The rows of a batch of these entries: a size that the backend takes."""
    return next((size for size in items[0][0].model.backend.ladder if size >= len(items)), len(items))


def _empty_batch(items: Entries) -> Tensor:
    """A batch with one row an entry, not initialised, and zeros after them up to a size that the backend takes."""
    views, entry = items[0]
    batch = views.model.preprocessing.empty(padded(items), views.input_size(entry))
    batch[len(items) :].fill(0)
    return batch


def read_row(views: ImageViews, entry: int, outputs: Outputs, row: int) -> Any | ViewError:
    """The prediction of an entry from its row of a model's outputs, or why there is none."""
    try:
        prediction = views.read(entry, outputs, row)
        if views.model.task.is_sound(prediction):
            return prediction
    except Exception as error:  # noqa: BLE001 - logged by the job
        return ViewError(error, UNREADABLE)
    return unsound(views, entry)


def unsound(views: ImageViews, entry: int) -> ViewError:
    """The error of an entry whose output holds NaN or infinity."""
    sentence = f"the model's output for view {views.view(entry).name!r} holds NaN or infinity"
    return ViewError(BackendFailed(sentence), sentence)


def check_rows(task: Task[Any, Any], outputs: Outputs, predictions: Iterable[Any | ViewError], rows: int) -> None:
    """Raises BackendFailed if a row could not be read and the number of rows is wrong, for then no row is valid."""
    if not task.can_batch or task.is_joined:
        return
    failure = next((each.error for each in predictions if isinstance(each, ViewError)), None)
    if failure and any(not values.ndim or len(values) != rows for values in outputs.values()):
        raise BackendFailed("the model returned another number of rows than the batch has views") from failure
