"""What merged maps come to at the image's own size: one class a pixel, or any of several labels."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.base import Floats, ImageFrame, TensorSpec
from tta_server.tasks.masks.maps import OutputGrid, image_strips
from tta_server.tasks.masks.results import MaskResult, MultilabelSegmentationResult, SegmentationResult
from tta_server.tasks.scores.merging import SLACK

Bools = NDArray[np.bool_]
Mask = NDArray[Any]


@dataclass(frozen=True, slots=True)
class ScoreMaps:
    """Scores or probabilities (C, h, w) on the plain view's grid, or on the part of it that starts at the cell `corner`
    (x, y).

    `coverage` (h, w) says how much each cell counts, None where all count 1. `votes` (C, h, w) holds each class's share
    of the views' votes, where it was asked for.
    """

    scores: Floats
    coverage: Floats | None = None
    votes: Floats | None = None
    grid: OutputGrid = field(default_factory=OutputGrid)
    corner: tuple[int, int] = (0, 0)


class MaskDecoder(Protocol):
    """How a pixel's scores are read."""

    spec: TensorSpec
    """The mask as a tensor."""

    def could_be_sure(self, reach: float) -> bool:
        """Whether any pixel might be, with that much weight to come, as a share of all."""

    def are_sure(self, least: Floats, reach: Floats) -> Bools:
        """The pixels (h, w) whose reading nothing changes that adds at most `reach` (h, w) to scores (C, h, w)."""

    def confidence(self, scores: Floats) -> float:
        """The mean over the pixels of the probability that they are as answered."""

    def mask(self, merged: ScoreMaps, frame: ImageFrame) -> Mask:
        """At the image's own size: labels (H, W), or which are there (C, H, W)."""

    def agreement(self, merged: ScoreMaps, mask: Mask, frame: ImageFrame) -> tuple[Floats, dict[str, float]]:
        """The share of the votes that each pixel (H, W) has on its side, and the mean of it for each label."""

    def counts(self, mask: Mask) -> NDArray[np.int64]:
        """How many pixels each label has."""

    def result(self, mask: Mask, **evidence: Any) -> MaskResult:
        """The mask as its task's result; `evidence` is the rest of what a MaskResult holds."""


class ArgmaxDecoder:
    """Each pixel has the class of its largest score, ties to the lower."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        dtype: type[np.unsignedinteger[Any]] = np.uint8 if len(labels) <= 256 else np.uint16
        self.spec = TensorSpec("MASK", dtype, (None, None), per_pixel=True)

    def could_be_sure(self, reach: float) -> bool:
        return reach < 0.5

    def are_sure(self, least: Floats, reach: Floats) -> Bools:
        return top_margins(least) - reach > SLACK

    def confidence(self, scores: Floats) -> float:
        return float(scores.max(axis=0).mean())

    def mask(self, merged: ScoreMaps, frame: ImageFrame) -> Mask:
        mask = np.empty((frame.image.height, frame.image.width), self.spec.dtype)
        for rows, strip in image_strips(merged.scores, merged.grid, frame):
            mask[rows] = strip.argmax(axis=0)
        return mask

    def agreement(self, merged: ScoreMaps, mask: Mask, frame: ImageFrame) -> tuple[Floats, dict[str, float]]:
        shares = np.empty(mask.shape, np.float32)
        for rows, strip in image_strips(votes_of(merged), merged.grid, frame):
            shares[rows] = np.take_along_axis(strip, mask[rows][None].astype(np.intp), axis=0)[0]
        sums = np.bincount(mask.ravel(), shares.ravel(), len(self._labels))
        return shares, _means(self._labels, sums, self.counts(mask))

    def counts(self, mask: Mask) -> NDArray[np.int64]:
        return np.bincount(mask.ravel(), minlength=len(self._labels))

    def result(self, mask: Mask, **evidence: Any) -> SegmentationResult:
        return SegmentationResult(labels=self._labels, mask=mask, area=self.counts(mask), **evidence)


class ThresholdDecoder:
    """Each label is where its probability reaches a threshold, whatever the others are."""

    def __init__(self, labels: Sequence[str], threshold: float) -> None:
        self._labels = labels
        self._threshold = np.float32(threshold)
        self.spec = TensorSpec("MASKS", np.bool_, (len(labels), None, None), per_pixel=True)

    def could_be_sure(self, reach: float) -> bool:
        return reach < max(float(self._threshold), 1 - float(self._threshold))

    def are_sure(self, least: Floats, reach: Floats) -> Bools:
        sure = (least >= self._threshold + SLACK) | (least + reach < self._threshold - SLACK)
        return np.asarray(sure.all(axis=0))

    def confidence(self, scores: Floats) -> float:
        return float(np.where(scores >= self._threshold, scores, 1 - scores).mean())

    def mask(self, merged: ScoreMaps, frame: ImageFrame) -> Mask:
        masks = np.empty((len(self._labels), frame.image.height, frame.image.width), np.bool_)
        for rows, strip in image_strips(merged.scores, merged.grid, frame):
            masks[:, rows] = strip >= self._threshold
        return masks

    def agreement(self, merged: ScoreMaps, mask: Mask, frame: ImageFrame) -> tuple[Floats, dict[str, float]]:
        shares = np.empty(mask.shape[1:], np.float32)
        sums = np.zeros(len(self._labels))
        for rows, strip in image_strips(votes_of(merged), merged.grid, frame):
            own = np.where(mask[:, rows], strip, 1 - strip)
            shares[rows] = own.mean(axis=0)
            sums += own.sum(axis=(1, 2))
        return shares, _means(self._labels, sums, np.full(len(self._labels), frame.image.area))

    def counts(self, mask: Mask) -> NDArray[np.int64]:
        return np.asarray(mask.sum(axis=(1, 2)))

    def result(self, mask: Mask, **evidence: Any) -> MultilabelSegmentationResult:
        return MultilabelSegmentationResult(labels=self._labels, masks=mask, area=self.counts(mask), **evidence)


def votes_of(merged: ScoreMaps) -> Floats:
    if merged.votes is None:
        raise ValueError("no votes were kept")
    return merged.votes


def top_margins(scores: Floats) -> Floats:
    """How far the top class of each pixel is ahead of the second, (C, h, w) -> (h, w)."""
    top: Floats = scores.max(axis=0)
    if len(scores) == 1:
        return top
    others = scores.copy()
    np.put_along_axis(others, scores.argmax(axis=0)[None], -np.inf, axis=0)
    ahead: Floats = top - others.max(axis=0)
    return ahead


def _means(labels: Sequence[str], sums: NDArray[Any], counts: NDArray[Any]) -> dict[str, float]:
    """Of the labels that some pixel has."""
    return {label: round(float(s / n), 6) for label, s, n in zip(labels, sums, counts, strict=True) if n}
