"""Makes the answers for one image from snapshots of its merge."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_server.imaging.decoding import Pixels
from tta_server.imaging.formats.samples import Levels
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.answer import Answer, Receipt, view_entry
from tta_server.serving.deadline import Deadline
from tta_server.serving.layout import Layout
from tta_server.serving.plan import Plan
from tta_server.tasks import ImageFrame, Result
from tta_server.tasks.render.rendering import render, renderer_of


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a merge at one moment; it does not change later.

    `merged` is the merged prediction. `views` has, in order, each merged entry's index in the layout and its view
    result; `started` counts the views that were given to slots. `open` is the share of the answer that is undecided.
    `stages` are the seconds spent on each stage. `levels` are those that decoding applied. `warnings` say what looks
    wrong in tta.yaml. `pixels` is the image to draw on, None unless a drawing is included.
    """

    merged: Any
    views: Sequence[tuple[int, Any]]
    started: int
    dropped: int
    open: float | None
    stages: Mapping[str, float]
    levels: Levels | None = None
    warnings: Sequence[str] = ()
    pixels: Pixels | None = None


@dataclass(frozen=True, slots=True)
class AnswerBuilder:
    """Makes answers for one image."""

    plan: Plan
    layout: Layout
    frame: ImageFrame
    deadline: Deadline
    request_id: str

    @property
    def keeps_view_results(self) -> bool:
        """False for an image in tiles: each view's own result would be in as many parts."""
        return self.plan.keeps_view_results and self.layout.tiles == 1

    def answer(self, snapshot: Snapshot, reason: StopReason | None, start: float) -> Answer:
        """The answer of a snapshot, rendered in the request's format; a partial answer has no reason.

        `start`, in seconds of the monotonic clock, is when making it began.
        """
        model, spec = self.plan.model, self.plan.wanted
        kept = [own for _, own in snapshot.views] if self.keeps_view_results else []
        result = model.task.result(snapshot.merged, kept, self.frame, spec)
        rendering = render(result, spec, snapshot.pixels)
        views = self._entries([index for index, _ in snapshot.views])
        if kept and "views" in spec.include:
            views = [view | own for view, own in zip(views, renderer_of(result).views(result), strict=True)]
        receipt = self._receipt(snapshot, reason, views, result, start)
        return Answer(model.name, model.version, model.task.name, receipt, rendering, time.monotonic())

    def _receipt(
        self,
        snapshot: Snapshot,
        reason: StopReason | None,
        views: list[dict[str, Any]],
        result: Result,
        start: float,
    ) -> Receipt:
        plan = self.plan
        confidence = plan.model.task.confidence(snapshot.merged)
        now = time.monotonic()
        stages = {**snapshot.stages, "merge": snapshot.stages["merge"] + now - start}
        return Receipt(
            views=views,
            planned=len(plan.views),
            started=snapshot.started,
            dropped=snapshot.dropped,
            merge=plan.merge,
            stop=plan.stop.to_json(),
            stop_reason=reason,
            confidence=None if confidence is None else round(confidence, 6),
            budget_ms=self.deadline.budget_ms,
            elapsed_ms=round((now - self.deadline.start) * 1e3, 3),
            stages_ms={stage: round(seconds * 1e3, 3) for stage, seconds in stages.items()},
            policy=plan.policy,
            request_id=self.request_id,
            open=snapshot.open if reason is StopReason.SETTLED else None,
            tiles=self.layout.tiles,
            uncertainty=result.uncertainty,
            levels=snapshot.levels,
            warnings=snapshot.warnings,
        )

    def _entries(self, merged: Sequence[int]) -> list[dict[str, Any]]:
        """The views of these entries of the layout; one that lacks tiles has the number that it has."""
        tiles = self.layout.tiles
        counts = Counter(index // tiles for index in merged)
        return [
            view_entry(self.plan.views[view]) | ({} if count == tiles else {"tiles": count})
            for view, count in sorted(counts.items())
        ]
