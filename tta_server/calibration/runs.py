"""Runs images through all views of a model's own policy, and records the merged answer after each view."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tta_server.calibration.fit import Run
from tta_server.errors import InvalidInput, TTAError
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import read_file, unreadable
from tta_server.repository.model import Model
from tta_server.serving.image import read_source
from tta_server.serving.plan import Options, Plan, make_plan
from tta_server.serving.run_views import ViewPredictions, run_views


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """An image that could not be run."""

    path: Path
    reason: str


def full_plan(model: Model) -> Plan:
    """All views of the model's own policy, merged its own way.

    Raises InvalidInput for a task without a margin, and for a policy of one view.
    """
    if "epsilon" not in model.task.stops:
        raise InvalidInput(
            f"{model.name} can't be calibrated: {model.task.name} has no one margin to stop at; "
            f"it knows stop {', '.join(model.task.stops)}"
        )
    plan = make_plan(model, Options(min_views="all", stop="all"))
    if len(plan.views) == 1:
        raise InvalidInput(f"{model.name} can't be calibrated: its policy has only the plain view, none to leave out")
    return plan


def run_images(
    plan: Plan, paths: Sequence[Path], threads: int, limits: Limits | None = None
) -> Iterator[Run | SkippedImage]:
    """The run of each image through all views, in the order of the paths."""

    def run_image(path: Path) -> Run | SkippedImage:
        try:
            return merge_views(plan, predict_views(plan, read_file(path, limits or Limits()), limits))
        except TTAError as error:
            return SkippedImage(path, str(error))
        except OSError as error:
            return SkippedImage(path, unreadable(error))

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(run_image, paths)


def predict_views(plan: Plan, encoded: bytes, limits: Limits | None = None) -> ViewPredictions:
    """Every view's prediction, made by the code that serves requests. Raises TTAError, for NaN too."""
    model, limits = plan.model, limits or Limits()
    source = read_source(encoded, limits, model.preprocessing.rendering)
    model.preprocessing.check(plan.views, source.size, limits)
    return run_views(plan, source)


def merge_views(plan: Plan, seen: ViewPredictions) -> Run:
    """Merges the views one by one, and records margin and top class after each."""
    merged = plan.model.task.accumulator(plan.merge, plan.wanted, seen.views.frame)
    margins, labels = [], []
    for view, prediction in zip(plan.views, seen.predictions, strict=True):
        merged.add(prediction, view.weight)
        margins.append(merged.margin())
        labels.append(int(merged.result().argmax()))
    return Run(margins, labels)
