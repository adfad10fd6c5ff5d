"""One job outside of an engine, which records and settles it as the engine does."""

import threading
from collections.abc import Sequence
from typing import Any

from tta_server.errors import BackendFailed, TTAError
from tta_server.scheduling.jobs import Job, Outcome, views_by_job
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.answer import Answer
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.graph_executor import ModelExecutor
from tta_server.serving.image import UNREADABLE, ImageViews, Source, ViewError
from tta_server.serving.job import ImageJob
from tta_server.serving.layout import Layout
from tta_server.serving.plan import Plan
from tta_server.serving.recorder import LockedRecorder
from tta_server.serving.runner import ImageRunner
from tta_server.telemetry.observer import Observers, ReceiptTimings

LOCK = threading.Lock()
RECORDER = LockedRecorder(LOCK)


def run(items: Sequence[tuple["SingleJob", int]], abort: Any = None) -> list[Outcome]:
    """These views as one batch: the outcome of each job, in the order of its first view."""
    runner = ImageRunner(ModelExecutor(), ReceiptTimings())
    outcomes = runner.run([(single.job, view) for single, view in items], RECORDER, abort)
    for single in dict.fromkeys(single for single, _ in items):
        single.notify()
    return [outcomes[job] for job in views_by_job((single.job, view) for single, view in items)]


def job_of(plan: Plan, layout: Layout, source: Source, caller: Caller | None = None) -> "SingleJob":
    """With a minute's budget and a layout that need not be that of the plan."""
    deadline = Deadline.after(60_000)
    views = ImageViews(plan, layout, source.size)
    payload = ImageJob(views, source, deadline, caller or Caller("test"), Observers())
    mandatory = plan.mandatory * layout.tiles
    job = Job(payload, plan.model.name, layout.buckets, mandatory, deadline.at, source.size.area, tiles=layout.tiles)
    return SingleJob(job)


class SingleJob:
    def __init__(self, job: Job[ImageJob]) -> None:
        self.job = job
        self.payload = job.payload
        self.future = job.payload.future

    def decode(self) -> None:
        self.payload.decode()

    def merge(self, view: int, outputs: dict[str, Any], row: int = 0) -> Outcome:
        """A view whose batch gave these outputs."""
        views = self.payload.views
        found: Any
        try:
            found = views.read(view, outputs, row)
            if not views.model.task.is_sound(found):
                found = ViewError(BackendFailed("it holds NaN"), "it holds NaN")
        except Exception as error:  # noqa: BLE001 - as the executor does
            found = ViewError(error, UNREADABLE)
        outcome = self.payload.merge(self.job, [(view, found)], RECORDER)
        if outcome.stop and self.job.is_answerable:
            with LOCK:
                self.job.progress = self.job.progress.close(outcome.stop)
        return outcome

    def partial(self, seen: int) -> tuple[int, Answer] | None:
        return self.payload.partial(self.job, seen)

    def notify(self) -> None:
        self.payload.notify_progress(self.job.progress)

    def settle(self, outcome: StopReason | TTAError) -> None:
        with LOCK:
            self.job.progress = self.job.progress.settle()
        self.payload.settle(outcome, self.job)
