"""Boxes of several views of one image, merged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.base import NoEvidence
from tta_server.tasks.boxes.frames import Visibility
from tta_server.tasks.boxes.fusion import Boxes, FusedBoxes, merge_boxes
from tta_server.tasks.boxes.results import CLEAR
from tta_server.tasks.checks import Finding
from tta_server.views.view import Weight


@dataclass(frozen=True, slots=True)
class ViewBoxes:
    """One view's boxes in the image's pixels, clipped to it, without those that the view cuts.

    `visibility` is what the view shows; `sound` is whether its scores and boxes were all numbers. `remarks` say where
    its boxes are not what tta.yaml states.
    """

    boxes: Boxes
    visibility: Visibility
    sound: bool
    remarks: Sequence[Finding] = ()


@dataclass(frozen=True, slots=True)
class MergedBoxes:
    """Fused boxes, and how many boxes of at least CLEAR score each view had (K,)."""

    boxes: FusedBoxes
    counts: NDArray[np.intp]


class BoxAccumulator(NoEvidence):
    """Keeps every view's few boxes: fusing needs them all. One view alone is not changed."""

    def __init__(self, merge: str, iou: float, max_boxes: int) -> None:
        self._merge = merge
        self._iou = iou
        self._max_boxes = max_boxes
        self._views: list[ViewBoxes] = []
        self._weights: list[Weight] = []

    def add(self, prediction: ViewBoxes, weight: Weight) -> None:
        self._views.append(prediction)
        self._weights.append(weight)

    def result(self) -> MergedBoxes:
        counts = np.array([np.count_nonzero(view.boxes.score >= CLEAR) for view in self._views])
        merged = self._alone() if len(self._views) == 1 else self._fused()
        return MergedBoxes(_best(merged, self._max_boxes), counts)

    def _alone(self) -> FusedBoxes:
        boxes = self._views[0].boxes
        ones = np.ones(len(boxes.score), np.intp)
        return FusedBoxes(boxes.xyxy, boxes.score, boxes.label, ones, ones, np.zeros(len(ones), np.float32))

    def _fused(self) -> FusedBoxes:
        views = [view.boxes for view in self._views]
        if not any(isinstance(weight, tuple) for weight in self._weights):
            return self._fuse(views, 0)
        labels = np.unique(np.concatenate([boxes.label for boxes in views]))
        parts = [self._fuse([_of_class(boxes, label) for boxes in views], int(label)) for label in labels]
        return _joined(parts) if parts else self._fuse(views, 0)

    def _fuse(self, views: Sequence[Boxes], label: int) -> FusedBoxes:
        def visible(xyxy: NDArray[np.float32]) -> NDArray[np.bool_]:
            return np.stack([view.visibility.shows(xyxy.astype(np.float64)) for view in self._views])

        weights = [weight[label] if isinstance(weight, tuple) else weight for weight in self._weights]
        return merge_boxes(self._merge, views, weights, visible, self._iou)


def _of_class(boxes: Boxes, label: int) -> Boxes:
    own = boxes.label == label
    return Boxes(boxes.xyxy[own], boxes.score[own], boxes.label[own])


def _joined(parts: Sequence[FusedBoxes]) -> FusedBoxes:
    return FusedBoxes(*(np.concatenate([getattr(part, name) for part in parts]) for name in FusedBoxes.__slots__))


def _best(merged: FusedBoxes, max_boxes: int) -> FusedBoxes:
    order = np.argsort(-merged.score, kind="stable")[:max_boxes]
    return FusedBoxes(*(getattr(merged, name)[order] for name in FusedBoxes.__slots__))
