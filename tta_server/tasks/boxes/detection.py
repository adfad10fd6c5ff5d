"""Objects in boxes: a model's boxes, scores and labels -> fused boxes, how many views saw each, how far they differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.imaging.preprocessing import Placement
from tta_server.tasks import uncertainty
from tta_server.tasks.base import ImageFrame, NoEvidence, Outputs, ResponseSpec, TaskDefaults, TensorSpec
from tta_server.tasks.boxes import frames
from tta_server.tasks.boxes.fusion import MERGES, Boxes, FusedBoxes, merge_boxes
from tta_server.tasks.boxes.output import BoxesOutput, BoxReader
from tta_server.tasks.boxes.results import CLEAR, DetectionResult
from tta_server.tasks.shapes import Shapes
from tta_server.views.geometry import Size
from tta_server.views.view import Weight

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Found:
    """One view's boxes in the image's own pixels, clipped to it, without those that the view cut; what it shows; and
    whether its scores and boxes were all numbers."""

    boxes: Boxes
    sight: frames.Visibility
    sound: bool


@dataclass(frozen=True, slots=True)
class Objects:
    """Fused boxes, and how many boxes of some score each view had (K,)."""

    merged: FusedBoxes
    counts: NDArray[np.intp]


class BoxAccumulator(NoEvidence):
    """Keeps every view's few boxes: fusing needs them all. One view alone is answered as it is."""

    def __init__(self, merge: str, iou: float, most: int) -> None:
        self._merge = merge
        self._iou = iou
        self._most = most
        self._found: list[Found] = []
        self._weights: list[Weight] = []

    def add(self, prediction: Found, weight: Weight) -> None:
        self._found.append(prediction)
        self._weights.append(weight)

    def result(self) -> Objects:
        counts = np.array([np.count_nonzero(found.boxes.score >= CLEAR) for found in self._found])
        merged = self._alone() if len(self._found) == 1 else self._fused()
        return Objects(_best(merged, self._most), counts)

    def _alone(self) -> FusedBoxes:
        boxes = self._found[0].boxes
        ones = np.ones(len(boxes.score), np.intp)
        return FusedBoxes(boxes.xyxy, boxes.score, boxes.label, ones, ones, np.zeros(len(ones), np.float32))

    def _fused(self) -> FusedBoxes:
        views = [found.boxes for found in self._found]
        if not any(isinstance(weight, tuple) for weight in self._weights):
            return self._fuse(views, 0)
        labels = np.unique(np.concatenate([boxes.label for boxes in views]))
        parts = [self._fuse([_of_class(boxes, label) for boxes in views], int(label)) for label in labels]
        return _joined(parts) if parts else self._fuse(views, 0)

    def _fuse(self, views: Sequence[Boxes], label: int) -> FusedBoxes:
        def seen(xyxy: NDArray[np.float32]) -> NDArray[np.bool_]:
            return np.stack([found.sight.sees(xyxy.astype(np.float64)) for found in self._found])

        weights = [weight[label] if isinstance(weight, tuple) else weight for weight in self._weights]
        return merge_boxes(self._merge, views, weights, seen, self._iou)


def _of_class(boxes: Boxes, label: int) -> Boxes:
    own = boxes.label == label
    return Boxes(boxes.xyxy[own], boxes.score[own], boxes.label[own])


def _joined(parts: Sequence[FusedBoxes]) -> FusedBoxes:
    return FusedBoxes(*(np.concatenate([getattr(part, name) for part in parts]) for name in FusedBoxes.__slots__))


def _best(merged: FusedBoxes, most: int) -> FusedBoxes:
    order = np.argsort(-merged.score, kind="stable")[:most]
    return FusedBoxes(*(getattr(merged, name)[order] for name in FusedBoxes.__slots__))


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
        self._form = output
        self._reader = BoxReader(len(labels), output, outputs)
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
        """Raises ConfigError unless a run gave what is stated: shapes, classes, units, probabilities."""
        self._reader.check(outputs, tensor)

    def decode(self, outputs: Outputs, row: int, placement: Placement, frame: ImageFrame) -> Found:
        written, score, label = self._reader.read(outputs, row)
        counts = score >= self._form.min_score
        sound = not np.isnan(score).any() and all(np.isfinite(v[counts]).all() for v in (written, score, label))
        counts &= (label >= 0) & (label < len(self.labels)) & sound
        xyxy = frames.CORNERS[self._form.format](written[counts])
        if self._form.units == "normalized":
            xyxy = xyxy * np.tile(placement.tensor, 2)
        whole = ~frames.are_cut(xyxy, placement)
        plain = frames.to_plain(xyxy[whole], placement)
        corners = frames.clipped(frame.to_image.apply(plain.reshape(-1, 2)).reshape(-1, 4), frame.image)
        some = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        boxes = Boxes(
            corners[some].astype(np.float32),
            np.minimum(score[counts][whole][some], 1).astype(np.float32),
            label[counts][whole][some].astype(np.intp),
        )
        return Found(self._surest(boxes), frames.Visibility(placement, frame), sound)

    def _surest(self, boxes: Boxes) -> Boxes:
        """By score, and where asked for without doubles."""
        if self._form.nms is not None:
            kept = merge_boxes("nms", [boxes], [1.0], lambda xyxy: np.ones((1, len(xyxy)), np.bool_), self._form.nms)
            boxes = Boxes(kept.xyxy, kept.score, kept.label)
        order = np.argsort(-boxes.score, kind="stable")[: self._form.max_boxes]
        return Boxes(boxes.xyxy[order], boxes.score[order], boxes.label[order])

    def is_sound(self, prediction: Found) -> bool:
        return prediction.sound

    def accumulator(self, merge: str, spec: ResponseSpec, frame: ImageFrame) -> BoxAccumulator:
        return BoxAccumulator(merge, self._form.iou, self._form.max_boxes)

    def confidence(self, merged: Objects) -> float | None:
        """The mean score of the boxes, each counting by its score; None without boxes."""
        score = merged.merged.score.astype(np.float64)
        return float((score**2).sum() / score.sum()) if score.sum() > 0 else None

    def keeps_view_results(self, spec: ResponseSpec) -> bool:
        return "views" in spec.include

    def view_result(self, prediction: Found) -> Boxes:
        return prediction.boxes

    def view_result_bytes(self, plain: Placement) -> int:
        return 28 * self._form.max_boxes

    def result(self, merged: Objects, views: Sequence[Boxes], frame: ImageFrame, spec: ResponseSpec) -> DetectionResult:
        fused = merged.merged
        return DetectionResult(
            labels=self.labels,
            size=frame.image,
            boxes=fused.xyxy,
            scores=fused.score,
            class_ids=fused.label,
            found_by=fused.votes,
            visible_in=fused.voters,
            spread=fused.spread,
            view_boxes=views,
            uncertainty=_uncertainty(merged) if "uncertainty" in spec.include else {},
        )


def _uncertainty(merged: Objects) -> dict[str, Any]:
    """Over the boxes, each counting by its score: the share of the views that could see it that did, and how far their
    corners lie from it in pixels. And how much the views' numbers of boxes differ."""
    found, spread = merged.merged, float(uncertainty.deviation(merged.counts.astype(np.float64)))
    by = found.score.astype(np.float64)
    total = max(float(by.sum()), 1e-12)
    return {
        "vote_share": uncertainty.rounded((by * found.votes / np.maximum(found.voters, 1)).sum() / total),
        "mean_spread": uncertainty.rounded((by * found.spread).sum() / total),
        "count_std": uncertainty.rounded(spread),
    }
