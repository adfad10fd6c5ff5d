"""Images through all views of a model's own policy, and what the merged answer was after each."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from tta_server.calibration.fit import Trail
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
class Seen:
    """What each view of a plan says of one image, moved back but not merged."""

    scene: ImageFrame
    placements: Sequence[Placement]
    predictions: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that taught nothing."""

    path: Path
    reason: str


def full_plan(model: Model) -> Plan:
    """All views of the model's own policy, merged its own way; raises InvalidInput where there is nothing to learn."""
    if "epsilon" not in model.task.stops:
        raise InvalidInput(
            f"{model.name} can't be calibrated: {model.task.name} has no one margin to stop at; "
            f"it knows stop {', '.join(model.task.stops)}"
        )
    plan = make_plan(model, Options(min_views="all", stop="all"))
    if len(plan.views) == 1:
        raise InvalidInput(f"{model.name} can't be calibrated: its policy has only the plain view, none to leave out")
    return plan


def logged(plan: Plan, paths: Sequence[Path], threads: int, limits: Limits | None = None) -> Iterator[Trail | Skipped]:
    """Each image through all views, in the order of the paths."""

    def log(path: Path) -> Trail | Skipped:
        try:
            return trail(plan, look(plan, read_file(path, limits or Limits()), limits))
        except TTAError as error:
            return Skipped(path, str(error))
        except OSError as error:
            return Skipped(path, unreadable(error))

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(log, paths)


def look(plan: Plan, encoded: bytes, limits: Limits | None = None) -> Seen:
    """Through every view, by the code that requests run. Raises TTAError, for NaN too."""
    model, limits = plan.model, limits or Limits()
    source = read_source(encoded, limits, model.preprocessing.rendering)
    model.preprocessing.check(plan.views, source.size, limits)
    work = make_job(plan, source, Deadline.after(model.config.budget.max_ms), Caller("calibrate"), Metrics()).payload
    work.decode()
    placements = work.layout.placements
    seen = Seen(ImageFrame(source.size, placements[0]), placements, found := [])
    for batch in _batches(work.layout.buckets, 1 if model.backend.signature.shape[0] == 1 else len(plan.views)):
        outputs = Executor().infer([(work, index) for index in batch])
        found += [model.task.decode(outputs, row, placements[index], seen.scene) for row, index in enumerate(batch)]
    for view, prediction in zip(plan.views, found, strict=True):
        if not model.task.is_sound(prediction):
            raise BackendFailed(f"the model's output for view {view.name!r} holds NaN or infinity")
    return seen


def _batches(buckets: Sequence[Bucket], most: int) -> Iterator[list[int]]:
    """Indices of views that follow one another and share a bucket, at most so many at a time."""
    for _, group in groupby(range(len(buckets)), key=lambda index: buckets[index]):
        run = list(group)
        yield from (run[start : start + most] for start in range(0, len(run), most))


def trail(plan: Plan, seen: Seen) -> Trail:
    """What the views come to, merged one after the other."""
    merged = plan.model.task.accumulator(plan.merge, plan.wanted, seen.scene)
    margins, labels = [], []
    for view, prediction in zip(plan.views, seen.predictions, strict=True):
        merged.add(prediction, view.weight)
        margins.append(merged.margin())
        labels.append(int(merged.result().argmax()))
    return Trail(margins, labels)
