"""Objects in boxes: a model's boxes, scores and labels -> fused boxes, how many views found each, how they differ."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tta_server.imaging.placement import Placement
from tta_server.tasks import uncertainty
from tta_server.tasks.base import ImageFrame, ResponseSpec, TaskDefaults, TensorSpec
from tta_server.tasks.boxes import frames
from tta_server.tasks.boxes.accumulator import BoxAccumulator, MergedBoxes, ViewBoxes
from tta_server.tasks.boxes.checks import find
from tta_server.tasks.boxes.evidence import SeenBoxes
from tta_server.tasks.boxes.fusion import MERGES, Boxes, merge_boxes
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.boxes.reader import BoxReader
from tta_server.tasks.boxes.remarks import BoxRemarks
from tta_server.tasks.boxes.results import DetectionResult
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.shapes import Outputs, Shapes
from tta_server.views.geometry import Size


class Detection(TaskDefaults):
    name = "detection"
    Output = BoxesOutput
    sees_crops = False
    labels_are = "class"
    merges: Sequence[str] = tuple(MERGES)
    stops: Sequence[str] = ("all",)
    includes: Sequence[str] = ("views", "uncertainty", "drawing")

    def __init__(self, labels: Sequence[str], output: BoxesOutput, outputs: Shapes) -> None:
        self.labels: Sequence[str] = tuple(labels)
        self._output = output
        self._reader = BoxReader(len(labels), output, outputs)
        self.can_batch = output.shape.is_batched
        self.is_joined = output.shape.joined is not None
        self.reads: Sequence[str] = tuple(self._reader.names.values())
        self._remarks = BoxRemarks(output, len(labels), self._reader.background_label)
        self.tensor_specs: Sequence[TensorSpec] = (
            TensorSpec("COUNT", np.int32, (1,)),
            TensorSpec("BOXES", np.float32, (None, 4), padding=0),
            TensorSpec("SCORES", np.float32, (None,), padding=0),
            TensorSpec("LABELS", np.object_, (None,), padding=""),
            TensorSpec("INDICES", np.int32, (None,), padding=-1),
            TensorSpec("VIEWS", np.int32, (None,), padding=0),
            TensorSpec("OF", np.int32, (None,), padding=0),
            TensorSpec("SPREAD", np.float32, (None,), padding=0),
        )

    def check(self, outputs: Outputs, tensor: Size) -> None:
        """Raises ConfigError unless a run's outputs have the shapes that are stated."""
        self._reader.check(outputs, tensor)

    def part(self, outputs: Outputs, row: int) -> Outputs:
        return self._reader.part(outputs, row)

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        return find(self.labels, self._output, self._reader, runs)

    def remarks(self, prediction: ViewBoxes) -> Sequence[Finding]:
        return prediction.remarks

    def decode(self, outputs: Outputs, row: int, placement: Placement, frame: ImageFrame) -> ViewBoxes:
        boxes, score, label = self._reader.read(outputs, row, placement.tensor)
        counts = np.flatnonzero(score >= self._output.min_score)
        seen = SeenBoxes(boxes[counts], score[counts], label[counts], placement.tensor)
        sound = not np.isnan(score).any() and seen.are_finite()
        remarks = self._remarks.of(seen) if sound else ()
        named = np.flatnonzero((seen.label >= 0) & (seen.label < len(self.labels))) if sound else counts[:0]
        xyxy = frames.CORNERS[self._output.format](seen.boxes[named])
        if self._output.units == "normalized":
            xyxy = xyxy * (*placement.tensor, *placement.tensor)
        whole = np.flatnonzero(~frames.are_cut(xyxy, placement))
        plain = frames.to_plain(xyxy[whole], placement)
        corners = frames.clip_boxes(frame.to_image.apply(plain.reshape(-1, 2)).reshape(-1, 4), frame.image)
        some = np.flatnonzero((corners[:, 2:] > corners[:, :2]).all(axis=1))
        rows = named[whole[some]]
        kept = Boxes(
            corners[some].astype(np.float32),
            np.minimum(seen.score[rows], 1).astype(np.float32),
            seen.label[rows].astype(np.intp),
        )
        return ViewBoxes(self._best(kept), frames.Visibility(placement, frame), sound, remarks)

    def _best(self, boxes: Boxes) -> Boxes:
        """At most `max_boxes` by falling score; without overlapping ones if `output.nms` is set."""
        if self._output.nms is not None:
            kept = merge_boxes("nms", [boxes], [1.0], lambda xyxy: np.ones((1, len(xyxy)), np.bool_), self._output.nms)
            boxes = Boxes(kept.xyxy, kept.score, kept.label)
        order = np.argsort(-boxes.score, kind="stable")[: self._output.max_boxes]
        return Boxes(boxes.xyxy[order], boxes.score[order], boxes.label[order])

    def is_sound(self, prediction: ViewBoxes) -> bool:
        return prediction.sound

    def accumulator(self, merge: str, spec: ResponseSpec, frame: ImageFrame) -> BoxAccumulator:
        return BoxAccumulator(merge, self._output.fusion_iou, self._output.max_boxes)

    def confidence(self, merged: MergedBoxes) -> float | None:
        """Mean score of the boxes, weighted by score; None without boxes."""
        score = merged.boxes.score.astype(np.float64)
        return float((score**2).sum() / score.sum()) if score.sum() > 0 else None

    def keeps_view_results(self, spec: ResponseSpec) -> bool:
        return "views" in spec.include

    def view_result(self, prediction: ViewBoxes) -> Boxes:
        return prediction.boxes

    def view_result_bytes(self, plain: Placement) -> int:
        return 28 * self._output.max_boxes

    def result(
        self, merged: MergedBoxes, views: Sequence[Boxes], frame: ImageFrame, spec: ResponseSpec
    ) -> DetectionResult:
        fused = merged.boxes
        return DetectionResult(
            labels=self.labels,
            size=frame.image,
            boxes=fused.xyxy,
            scores=fused.score,
            class_ids=fused.label,
            found_by=fused.found_by,
            visible_in=fused.visible_in,
            spread=fused.spread,
            view_boxes=views,
            uncertainty=_uncertainty(merged) if "uncertainty" in spec.include else {},
        )


def _uncertainty(merged: MergedBoxes) -> dict[str, Any]:
    """Means over the boxes, weighted by score, and the standard deviation of the views' numbers of boxes.

    The means are of the share of the views that show a box that found it, and of its spread in pixels.
    """
    boxes = merged.boxes
    weight = boxes.score.astype(np.float64)
    total = max(float(weight.sum()), 1e-12)
    return {
        "vote_share": uncertainty.rounded((weight * boxes.found_by / np.maximum(boxes.visible_in, 1)).sum() / total),
        "mean_spread": uncertainty.rounded((weight * boxes.spread).sum() / total),
        "count_std": uncertainty.rounded(float(uncertainty.deviation(merged.counts.astype(np.float64)))),
    }
