"""Runs all views of one image without engine, deadline or metrics."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tta_server.errors import WrongDeclaration
from tta_server.serving.graph_executor import ModelExecutor
from tta_server.serving.image import ImageViews, Source, ViewError
from tta_server.serving.layout import make_layout
from tta_server.serving.plan import Plan
from tta_server.serving.summing import no_sums


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
    executor, found = ModelExecutor(no_sums), list[Any]()
    for entries in _batches(views, max_rows):
        found += (_checked(views, each) for each in executor.run([(views, i) for i in entries]).predictions)
    views.close()
    return ViewPredictions(views, found)


def _batches(views: ImageViews, max_rows: int) -> Iterator[list[int]]:
    """Consecutive entries that share a bucket, at most `max_rows` at a time."""
    buckets = views.layout.buckets
    for _, group in groupby(range(len(buckets)), key=lambda entry: buckets[entry]):
        run = list(group)
        yield from (run[start : start + max_rows] for start in range(0, len(run), max_rows))


def _checked(views: ImageViews, prediction: Any | ViewError) -> Any:
    """Returns a prediction; raises BackendFailed for a ViewError, or what tta.yaml can't mean."""
    if isinstance(prediction, ViewError):
        raise prediction.failure
    for remark in views.model.remarks(prediction):
        if remark.refuses:
            raise WrongDeclaration(remark.sentence, remark.check)
    return prediction
