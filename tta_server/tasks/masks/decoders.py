"""How merged score maps are read at the image's own size: one class a pixel, or any of several labels."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.base import Floats, ImageFrame, TensorSpec
from tta_server.tasks.masks.class_maps import NO_CLASS
from tta_server.tasks.masks.maps import ScoreMaps, image_strips
from tta_server.tasks.masks.results import MaskResult, MultilabelSegmentationResult, SegmentationResult
from tta_server.tasks.scores.kinds import SLACK

Bools = NDArray[np.bool_]
Mask = NDArray[Any]


class MaskDecoder(Protocol):
    """How the scores of a pixel become its labels."""

    spec: TensorSpec
    """The mask as a tensor."""

    def may_be_decided(self, reach: float) -> bool:
        """False if no pixel can be decided while the remaining views have that share of the total weight."""

    def relevant(self, least: Floats) -> Bools:
        """Labels (C,) whose scores (C, h, w) `decided` needs, at least one."""

    def decided(self, least: Floats, reach: Floats) -> Bools:
        """Pixels (h, w) whose labels stay, whatever of at most `reach` (h, w) is added to scores `least` (C, h, w)."""

    def confidence(self, scores: Floats) -> float:
        """Probability that a pixel's labels are right, the mean over the cells of scores (C, h, w)."""

    def mask(self, merged: ScoreMaps, frame: ImageFrame) -> Mask:
        """At the image's own size: class indices (H, W), or which labels are there (C, H, W)."""

    def agreement(self, merged: ScoreMaps, mask: Mask, frame: ImageFrame) -> tuple[Floats, dict[str, float]]:
        """Share of the votes that each pixel (H, W) has on its side, and the mean of it for each label."""

    def result(self, mask: Mask, **details: Any) -> MaskResult:
        """The mask as its task's result; `details` are the other fields of MaskResult."""


class ArgmaxDecoder:
    """Each pixel has the class of its largest score, ties to the lower."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        dtype: type[np.unsignedinteger[Any]] = np.uint8 if len(labels) <= 256 else np.uint16
        self.spec = TensorSpec("MASK", dtype, (None, None), per_pixel=True)

    def may_be_decided(self, reach: float) -> bool:
        return reach < 0.5

    def relevant(self, least: Floats) -> Bools:
        return np.ones(len(least), np.bool_)

    def decided(self, least: Floats, reach: Floats) -> Bools:
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
            classes = np.minimum(mask[rows], len(strip) - 1).astype(np.intp)
            shares[rows] = np.take_along_axis(strip, classes[None], axis=0)[0]
        shares[mask >= len(self._labels)] = 0
        sums = np.bincount(mask.ravel(), shares.ravel(), len(self._labels))[: len(self._labels)]
        return shares, _means(self._labels, sums, _areas(mask, len(self._labels)))

    def result(self, mask: Mask, **details: Any) -> SegmentationResult:
        area = _areas(mask, len(self._labels))
        return SegmentationResult(labels=self._labels, mask=mask, area=area, **details)


class VoteDecoder(ArgmaxDecoder):
    """As ArgmaxDecoder, for votes: a pixel that lies nearer to cells without a vote than to others has NO_CLASS."""

    def relevant(self, least: Floats) -> Bools:
        voted = np.asarray(least.any(axis=(1, 2)))
        voted[0] |= not voted.any()
        return voted

    def mask(self, merged: ScoreMaps, frame: ImageFrame) -> Mask:
        """Of many classes few have votes: only their maps are interpolated."""
        voted = np.flatnonzero(self.relevant(merged.scores)).astype(self.spec.dtype)
        has_gaps = merged.scores.sum(axis=0).min() < 0.5 and len(self._labels) <= NO_CLASS
        mask = np.empty((frame.image.height, frame.image.width), self.spec.dtype)
        for rows, strip in image_strips(merged.scores[voted], merged.grid, frame):
            mask[rows] = voted[strip.argmax(axis=0)]
            if has_gaps:
                mask[rows][strip.sum(axis=0) < 0.5] = NO_CLASS
        return mask


class ThresholdDecoder:
    """Each label is where its probability reaches a threshold; labels may overlap."""

    def __init__(self, labels: Sequence[str], threshold: float) -> None:
        self._labels = labels
        self._threshold = np.float32(threshold)
        self.spec = TensorSpec("MASKS", np.bool_, (len(labels), None, None), per_pixel=True)

    def may_be_decided(self, reach: float) -> bool:
        return reach < max(float(self._threshold), 1 - float(self._threshold))

    def relevant(self, least: Floats) -> Bools:
        return np.ones(len(least), np.bool_)

    def decided(self, least: Floats, reach: Floats) -> Bools:
        decided = (least >= self._threshold + SLACK) | (least + reach < self._threshold - SLACK)
        return np.asarray(decided.all(axis=0))

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

    def result(self, mask: Mask, **details: Any) -> MultilabelSegmentationResult:
        area = mask.sum(axis=(1, 2))
        return MultilabelSegmentationResult(labels=self._labels, masks=mask, area=area, **details)


def _areas(mask: Mask, labels: int) -> NDArray[np.int64]:
    """Pixels of each class of a mask of class indices, (labels,); those of no class count for none."""
    return np.bincount(mask.ravel(), minlength=labels)[:labels]


def votes_of(merged: ScoreMaps) -> Floats:
    if merged.votes is None:
        raise ValueError("no votes were kept")
    return merged.votes


def top_margins(scores: Floats) -> Floats:
    """Lead of the top class of each pixel over the second, (C, h, w) -> (h, w)."""
    top: Floats = scores.max(axis=0)
    if len(scores) == 1:
        return top
    others = scores.copy()
    np.put_along_axis(others, scores.argmax(axis=0)[None], -np.inf, axis=0)
    ahead: Floats = top - others.max(axis=0)
    return ahead


def _means(labels: Sequence[str], sums: NDArray[Any], counts: NDArray[Any]) -> dict[str, float]:
    """Mean for each label that has a pixel."""
    return {label: round(float(s / n), 6) for label, s, n in zip(labels, sums, counts, strict=True) if n}
