"""Merges of the boxes that several views of one image gave, all moved into one frame. Classes never mix.

Every merge sorts the boxes by falling weighted score: the box's score times its view's weight, where the largest weight
counts as 1. Ties keep the order of the views, then the order within a view. Boxes without area, score or weight are
left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.boxes.grouping import (
    Floats,
    Groups,
    Indices,
    SortedBoxes,
    group,
    leader_stays,
    mean_moves,
    overlap,
)

Single = NDArray[np.float32]
Flags = NDArray[np.bool_]
Visible = Callable[[Single], Flags]
"""Boxes (M, 4) -> (V, M): which of the V views show each box whole."""

SIGMA = 0.5
"""Soft-NMS: the decay of the scores of overlapping boxes, as its authors set it."""
MIN_SCORE = 0.001
"""Soft-NMS leaves out boxes whose score has decayed to this."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """N boxes: `xyxy` (N, 4) float32 pixels of one frame, `score` (N,) float32 in [0, 1], `label` (N,) intp."""

    xyxy: Single
    score: Single
    label: Indices


@dataclass(frozen=True, slots=True)
class FusedBoxes:
    """M boxes, falling by score: `xyxy` (M, 4) and `score` (M,) float32, `label` (M,) intp.

    `found_by` (M,) intp: how many views have a member in the box; `visible_in` (M,) intp: how many show it whole, or
    have a member. `spread` (M,) float32 pixels: how far its members lie from it, the root mean square by score over
    both corners.
    """

    xyxy: Single
    score: Single
    label: Indices
    found_by: Indices
    visible_in: Indices
    spread: Single


def sort_boxes(views: Sequence[Boxes], weights: Sequence[float]) -> SortedBoxes:
    share = np.array(weights, np.float64)
    share /= share.max(initial=0) or 1
    view = np.repeat(np.arange(len(views)), [len(boxes.score) for boxes in views])
    corner = np.concatenate([np.empty((0, 4)), *(boxes.xyxy for boxes in views)]).T
    score = np.concatenate([np.empty(0), *(boxes.score for boxes in views)]) * share[view]
    label = np.concatenate([np.empty(0, np.intp), *(boxes.label for boxes in views)])
    counts = np.flatnonzero((corner[2:] > corner[:2]).all(axis=0) & (score > 0))
    order = counts[np.argsort(-score[counts], kind="stable")]
    corner = corner.take(order, 1)
    return SortedBoxes(corner, np.tile(corner[2:] - corner[:2], (2, 1)), score[order], label[order], view[order], share)


@dataclass(frozen=True, slots=True)
class Votes:
    """(V, M) each: which views have a member in each group, and which have one or could have."""

    found: Flags
    visible: Flags


def count_votes(boxes: SortedBoxes, groups: Groups, corner: Floats, visible: Visible) -> Votes:
    """`corner` (4, M) are the groups' boxes. A view without weight has no vote."""
    found = np.zeros((len(boxes.weights), len(groups.leader)), np.bool_)
    found[boxes.view[groups.member], groups.group] = True
    shows = visible(np.ascontiguousarray(corner.T, np.float32)) & (boxes.weights > 0)[:, None]
    return Votes(found, found | shows)


def mean_corners(boxes: SortedBoxes, groups: Groups, weight: Floats) -> Floats:
    """(4, M): the mean of the members' corners by `weight` (K,), exact where they are all the same."""
    base = boxes.corner.take(groups.leader, 1)
    off = boxes.corner.take(groups.member, 1) - base.take(groups.group, 1)
    corners: Floats = base + groups.sum(off * weight) / groups.sum(weight)
    return corners


def fused(boxes: SortedBoxes, groups: Groups, corner: Floats, score: Floats, votes: Votes) -> FusedBoxes:
    """Groups as the boxes `corner` (4, M), by falling `score` (M,), at most 1."""
    off = boxes.corner.take(groups.member, 1) - corner.take(groups.group, 1)
    weight = boxes.score[groups.member]
    spread = np.sqrt(groups.sum(weight * np.square(off).sum(axis=0) / 2) / groups.sum(weight))
    score = np.minimum(score, 1)
    order = np.argsort(-score, kind="stable")
    return FusedBoxes(
        xyxy=corner.T[order].astype(np.float32),
        score=score[order].astype(np.float32),
        label=boxes.label[groups.leader[order]],
        found_by=votes.found.sum(axis=0)[order],
        visible_in=votes.visible.sum(axis=0)[order],
        spread=spread[order].astype(np.float32),
    )


def wbf(boxes: SortedBoxes, visible: Visible, iou: float) -> FusedBoxes:
    """Weighted boxes fusion (Solovyev, Wang, Gabruseva 2021).

    A box joins the fused box that it overlaps most, which is the mean of its members by weighted score. With n members
    whose weighted scores have the mean s, and T views of total weight W that found the box or show it whole, the score
    is s min(T, n) / W, at most 1.
    """
    groups = group(boxes, iou, mean_moves)
    weight = boxes.score[groups.member]
    corner = mean_corners(boxes, groups, weight)
    votes = count_votes(boxes, groups, corner, visible)
    members = np.bincount(groups.group)
    counted = np.minimum(votes.visible.sum(axis=0), members)
    score = groups.sum(weight) / members * counted / (boxes.weights @ votes.visible)
    return fused(boxes, groups, corner, score, votes)


def nms(boxes: SortedBoxes, visible: Visible, iou: float) -> FusedBoxes:
    """Non-maximum suppression.

    A box that overlaps a better one by more than `iou` is dropped, and is a member of the one it overlaps most.
    """
    groups = group(boxes, iou, leader_stays)
    corner = boxes.corner.take(groups.leader, 1)
    votes = count_votes(boxes, groups, corner, visible)
    return fused(boxes, groups, corner, boxes.score[groups.leader], votes)


def nmw(boxes: SortedBoxes, visible: Visible, iou: float) -> FusedBoxes:
    """Non-maximum weighted (Zhou et al. 2017).

    NMS whose boxes are the means of their members by weighted score times overlap with the kept box.
    """
    groups = group(boxes, iou, leader_stays)
    kept = boxes.corner.take(groups.leader[groups.group], 1)
    weight = boxes.score[groups.member] * overlap(boxes.corner.take(groups.member, 1), kept)
    corner = mean_corners(boxes, groups, weight)
    votes = count_votes(boxes, groups, corner, visible)
    return fused(boxes, groups, corner, boxes.score[groups.leader], votes)


def soft_nms(boxes: SortedBoxes, visible: Visible, iou: float) -> FusedBoxes:
    """Soft-NMS (Bodla et al. 2017), Gaussian.

    The score of a box that overlaps a better one by v decays by exp(-v^2 / SIGMA). `iou` decides only whose votes
    count: a box is a member of itself and of the first box that it overlaps by more.
    """
    score, host = boxes.score.copy(), np.arange(len(boxes.score))
    kept = []
    for label in np.unique(boxes.label):
        rest = np.flatnonzero(boxes.label == label)
        while len(rest) and score[best := rest[score[rest].argmax()]] > MIN_SCORE:
            kept.append(best)
            rest = rest[rest != best]
            value = overlap(boxes.corner[:, best, None], boxes.corner.take(rest, 1))
            score[rest] *= np.exp(-np.square(value) / SIGMA)
            near = rest[value > iou]
            host[near[host[near] == near]] = best
    groups = _hosted(np.array(kept, np.intp), host)
    corner = boxes.corner.take(groups.leader, 1)
    votes = count_votes(boxes, groups, corner, visible)
    return fused(boxes, groups, corner, score[groups.leader], votes)


def _hosted(leader: Indices, host: Indices) -> Groups:
    """Groups of the boxes `leader` (M,), each with the boxes of which it is the `host` (N,)."""
    guests = np.flatnonzero(host != np.arange(len(host)))
    number = np.empty_like(host)
    number[leader] = np.arange(len(leader))
    return Groups(leader, np.append(leader, guests), np.append(number[leader], number[host[guests]]))


MERGES: dict[str, Callable[[SortedBoxes, Visible, float], FusedBoxes]] = {
    "wbf": wbf,
    "nms": nms,
    "soft_nms": soft_nms,
    "nmw": nmw,
}


def merge_boxes(
    merge: str, views: Sequence[Boxes], weights: Sequence[float], visible: Visible, iou: float
) -> FusedBoxes:
    """The views' boxes merged by an entry of MERGES.

    Boxes of a class are of one object where they overlap by more than `iou`, intersection over union, in (0, 1).
    `visible` is called once, or not at all where there are no boxes.
    """
    boxes = sort_boxes(views, weights)
    if not len(boxes.score):
        none, no = np.empty(0, np.float32), np.empty(0, np.intp)
        return FusedBoxes(np.empty((0, 4), np.float32), none, no, no, no, none)
    return MERGES[merge](boxes, visible, iou)
