"""The figures of merged views that stop rules decide by."""

from typing import Any

from tta_server.scheduling.progress import Progress
from tta_server.serving.image import ImageViews
from tta_server.tasks import Accumulator


class MergeEvidence:
    """Evidence from an accumulator and the progress that names its views; each figure is computed on demand.

    `open_share` is the last result of `undecided`, None before.
    """

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
        """Also stored as `open_share`."""
        layout = self._views.layout
        waiting = self._progress.waiting(len(layout.buckets))
        remaining = [(layout.placements[entry], self._views.view(entry).weight) for entry in waiting]
        self.open_share = self._accumulator.undecided(remaining)
        return self.open_share

    def standard_error(self) -> float:
        return self._accumulator.standard_error()
