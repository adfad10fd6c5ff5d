"""The merged views of one image: its accumulator, and the views' own results where the answer is made of them too."""

from collections.abc import Sequence
from typing import Any

from tta_server.serving.image import UNREADABLE, ImageViews, ViewError
from tta_server.tasks.sums import Sums

UNMERGED = "the model's output for a view could not be merged"


class MergedViews:
    """Merges views; an exception of the task is the error of a view. Not thread-safe.

    `accumulator` is None after `close`.
    """

    def __init__(self, views: ImageViews, keeps_results: bool) -> None:
        plan = views.plan
        self.accumulator: Any = plan.model.task.accumulator(plan.merge, plan.wanted, views.frame)
        self._views = views
        self._keeps_results = keeps_results
        self._results: dict[int, Any] = {}

    def add(self, found: Sequence[tuple[int, Any]]) -> dict[int, ViewError]:
        """Merge predictions, each with its view; return the errors of those that can't be merged."""
        return {view: problem for view, prediction in found if (problem := self._add(view, prediction))}

    def add_sums(self, found: Sequence[tuple[int, Any]], sums: Sums) -> dict[int, ViewError]:
        """Merge the sums over these views; return the error of each if that is impossible."""
        try:
            self.accumulator.add_sums(sums)
        except Exception as error:  # noqa: BLE001 - logged by the job
            return dict.fromkeys((view for view, _ in found), ViewError(error, UNMERGED))
        return {}

    def _add(self, view: int, prediction: Any) -> ViewError | None:
        """Merge a prediction; return why that is impossible, and then merge nothing."""
        try:
            result = self._views.model.task.view_result(prediction) if self._keeps_results else None
        except Exception as error:  # noqa: BLE001 - logged by the job
            return ViewError(error, UNREADABLE)
        try:
            self.accumulator.add(prediction, self._views.view(view).weight)
        except Exception as error:  # noqa: BLE001 - logged by the job
            return ViewError(error, UNMERGED)
        if self._keeps_results:
            self._results[view] = result
        return None

    def result_of(self, view: int) -> Any:
        """Return a view's own result; None if it is not kept."""
        return self._results.get(view)

    def close(self) -> None:
        """Free all results."""
        self.accumulator = None
        self._results.clear()
