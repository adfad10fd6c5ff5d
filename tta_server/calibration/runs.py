"""Runs images through all views of a model's own policy, and records the merged answer after each view."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from tta_server.calibration.fit import Run
from tta_server.errors import BackendFailed, InvalidInput, TTAError
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import read_file, unreadable
from tta_server.imaging.preprocessing import Placement
from tta_server.repository.loader import Model
from tta_server.scheduling.costs import Bucket
from tta_server.serving.deadline import Deadline
from tta_server.serving.executor import Executor
from tta_server.serving.plan import Options, Plan, make_plan
from tta_server.serving.predictor import Caller, make_job, read_source
from tta_server.tasks import ImageFrame
from tta_server.telemetry.prometheus import Metrics


@dataclass(frozen=True, slots=True)
class ViewPredictions:
    """Each view's prediction of one image, in the image's frame, not merged."""

    frame: ImageFrame
    placements: Sequence[Placement]
    predictions: Sequence[Any]


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
    job = make_job(plan, source, Deadline.after(model.config.budget.max_ms), Caller("calibrate"), Metrics()).payload
    job.decode()
    placements = job.layout.placements
    frame, predictions = ImageFrame(source.size, placements[0]), list[Any]()
    for batch in _batches(job.layout.buckets, 1 if model.backend.signature.shape[0] == 1 else len(plan.views)):
        outputs = Executor().infer([(job, index) for index in batch])
        predictions += [model.task.decode(outputs, row, placements[index], frame) for row, index in enumerate(batch)]
    for view, prediction in zip(plan.views, predictions, strict=True):
        if not model.task.is_sound(prediction):
            raise BackendFailed(f"the model's output for view {view.name!r} holds NaN or infinity")
    return ViewPredictions(frame, placements, predictions)


def _batches(buckets: Sequence[Bucket], most: int) -> Iterator[list[int]]:
    """Indices of consecutive views of one bucket, at most `most` at a time."""
    for _, group in groupby(range(len(buckets)), key=lambda index: buckets[index]):
        indices = list(group)
        yield from (indices[start : start + most] for start in range(0, len(indices), most))


def merge_views(plan: Plan, predicted: ViewPredictions) -> Run:
    """Merges the views one by one, and records margin and top class after each."""
    merged = plan.model.task.accumulator(plan.merge, plan.wanted, predicted.frame)
    margins, labels = [], []
    for view, prediction in zip(plan.views, predicted.predictions, strict=True):
        merged.add(prediction, view.weight)
        margins.append(merged.margin())
        labels.append(int(merged.result().argmax()))
    return Run(margins, labels)
