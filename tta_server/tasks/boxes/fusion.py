"""Merges of the boxes that several views of one image gave, all moved into one frame. Classes never mix.

Every merge lines the boxes up by falling weighted score: the box's score times its view's weight, of which the largest
counts as 1. Ties stand by view, then as the view gave them. Boxes without area, score or weight are left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.boxes.grouping import BoxQueue, Floats, Groups, Indices, group, leader_stays, mean_moves, overlap

Single = NDArray[np.float32]
Flags = NDArray[np.bool_]
Seen = Callable[[Single], Flags]
"""(M, 4) boxes -> (V, M): which of the V views could have seen each whole."""

SIGMA = 0.5
FADED = 0.001
"""Soft-NMS leaves out boxes that have faded to this score."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """N boxes: `xyxy` (N, 4) float32 pixels of one frame, `score` (N,) float32 in [0, 1], `label` (N,) intp."""

    xyxy: Single
    score: Single
    label: Indices


@dataclass(frozen=True, slots=True)
class FusedBoxes:
    """M boxes, falling by score: `xyxy` (M, 4) and `score` (M,) float32, `label` (M,) intp.

    `votes` (M,) intp: how many views have a box in it; `voters` (M,) intp: how many could have seen it, or did.
    `spread` (M,) float32 pixels: how far its members lie from it, the root mean square by score over both corners.
    """

    xyxy: Single
    score: Single
    label: Indices
    votes: Indices
    voters: Indices
    spread: Single


def line_up(views: Sequence[Boxes], weights: Sequence[float]) -> BoxQueue:
    share = np.array(weights, np.float64)
    share /= share.max(initial=0) or 1
    view = np.repeat(np.arange(len(views)), [len(boxes.score) for boxes in views])
    corner = np.concatenate([np.empty((0, 4)), *(boxes.xyxy for boxes in views)]).T
    score = np.concatenate([np.empty(0), *(boxes.score for boxes in views)]) * share[view]
    label = np.concatenate([np.empty(0, np.intp), *(boxes.label for boxes in views)])
    counts = np.flatnonzero((corner[2:] > corner[:2]).all(axis=0) & (score > 0))
    order = counts[np.argsort(-score[counts], kind="stable")]
    corner = corner.take(order, 1)
    return BoxQueue(corner, np.tile(corner[2:] - corner[:2], (2, 1)), score[order], label[order], view[order], share)


@dataclass(frozen=True, slots=True)
class Ballot:
    """(V, M) each: which views have a box in each group, and which have or could have."""

    voted: Flags
    could: Flags


def ballot(line: BoxQueue, groups: Groups, corner: Floats, seen: Seen) -> Ballot:
    voted = np.zeros((len(line.weights), len(groups.leader)), np.bool_)
    voted[line.view[groups.member], groups.group] = True
    could = seen(np.ascontiguousarray(corner.T, np.float32)) & (line.weights > 0)[:, None]
    return Ballot(voted, voted | could)


def mean_corners(line: BoxQueue, groups: Groups, weight: Floats) -> Floats:
    """(4, M): the mean of the members' corners by `weight` (K,), exact where they are all the same."""
    base = line.corner.take(groups.leader, 1)
    off = line.corner.take(groups.member, 1) - base.take(groups.group, 1)
    corners: Floats = base + groups.sum(off * weight) / groups.sum(weight)
    return corners


def merged(line: BoxQueue, groups: Groups, corner: Floats, score: Floats, votes: Ballot) -> FusedBoxes:
    """Groups as the boxes `corner` (4, M), by falling `score` (M,), at most 1."""
    off = line.corner.take(groups.member, 1) - corner.take(groups.group, 1)
    weight = line.score[groups.member]
    spread = np.sqrt(groups.sum(weight * np.square(off).sum(axis=0) / 2) / groups.sum(weight))
    score = np.minimum(score, 1)
    order = np.argsort(-score, kind="stable")
    return FusedBoxes(
        xyxy=corner.T[order].astype(np.float32),
        score=score[order].astype(np.float32),
        label=line.label[groups.leader[order]],
        votes=votes.voted.sum(axis=0)[order],
        voters=votes.could.sum(axis=0)[order],
        spread=spread[order].astype(np.float32),
    )


def wbf(line: BoxQueue, seen: Seen, iou: float) -> FusedBoxes:
    """Weighted boxes fusion (Solovyev, Wang, Gabruseva 2021).

    A box joins the fused box that it overlaps most, which is the mean of its members by weighted score. With n members
    whose weighted scores have the mean s, and T views of weight W in all that could have seen it or did, the score is
    s min(T, n) / W, at most 1.
    """
    groups = group(line, iou, mean_moves)
    weight = line.score[groups.member]
    corner = mean_corners(line, groups, weight)
    votes = ballot(line, groups, corner, seen)
    members = np.bincount(groups.group)
    score = groups.sum(weight) / members * np.minimum(votes.could.sum(axis=0), members) / (line.weights @ votes.could)
    return merged(line, groups, corner, score, votes)


def nms(line: BoxQueue, seen: Seen, iou: float) -> FusedBoxes:
    """A box is dropped when it overlaps a better one by more than `iou`; it is a member of the one it overlaps most."""
    groups = group(line, iou, leader_stays)
    corner = line.corner.take(groups.leader, 1)
    return merged(line, groups, corner, line.score[groups.leader], ballot(line, groups, corner, seen))


def nmw(line: BoxQueue, seen: Seen, iou: float) -> FusedBoxes:
    """Non-maximum weighted (Zhou et al. 2017): NMS whose boxes are the means of their members by weighted score times
    overlap with the kept box."""
    groups = group(line, iou, leader_stays)
    kept = line.corner.take(groups.leader[groups.group], 1)
    weight = line.score[groups.member] * overlap(line.corner.take(groups.member, 1), kept)
    corner = mean_corners(line, groups, weight)
    return merged(line, groups, corner, line.score[groups.leader], ballot(line, groups, corner, seen))


def soft_nms(line: BoxQueue, seen: Seen, iou: float) -> FusedBoxes:
    """Soft-NMS (Bodla et al. 2017), Gaussian: a box that overlaps a better one by v fades by exp(-v^2 / SIGMA).

    `iou` says only whose votes count: a box is a member of itself and of the first box that it overlaps by more.
    """
    score, host = line.score.copy(), np.arange(len(line.score))
    kept = []
    for label in np.unique(line.label):
        rest = np.flatnonzero(line.label == label)
        while len(rest) and score[best := rest[score[rest].argmax()]] > FADED:
            kept.append(best)
            rest = rest[rest != best]
            value = overlap(line.corner[:, best, None], line.corner.take(rest, 1))
            score[rest] *= np.exp(-np.square(value) / SIGMA)
            near = rest[value > iou]
            host[near[host[near] == near]] = best
    leader = np.array(kept, np.intp)
    guests = np.flatnonzero(host != np.arange(len(host)))
    number = np.empty_like(host)
    number[leader] = np.arange(len(leader))
    groups = Groups(leader, np.append(leader, guests), np.append(number[leader], number[host[guests]]))
    corner = line.corner.take(leader, 1)
    return merged(line, groups, corner, score[leader], ballot(line, groups, corner, seen))


MERGES: dict[str, Callable[[BoxQueue, Seen, float], FusedBoxes]] = {
    "wbf": wbf,
    "nms": nms,
    "soft_nms": soft_nms,
    "nmw": nmw,
}


def merge_boxes(merge: str, views: Sequence[Boxes], weights: Sequence[float], seen: Seen, iou: float) -> FusedBoxes:
    """The views' boxes merged by an entry of MERGES. Boxes of a class are of one object where they overlap by more than
    `iou`, intersection over union, in (0, 1). `seen` is asked once, or not at all where there are no boxes."""
    fuse, line = MERGES[merge], line_up(views, weights)
    if not len(line.score):
        none, no = np.empty(0, np.float32), np.empty(0, np.intp)
        return FusedBoxes(np.empty((0, 4), np.float32), none, no, no, no, none)
    return fuse(line, seen, iou)
