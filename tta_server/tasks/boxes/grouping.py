"""Which boxes of several views are of one object.

Boxes are sorted by falling score. Each in turn joins the group of its class whose box it overlaps most, if that is by
more than a threshold, and else leads a group of its own. All boxes are assigned at once, in rounds, with the same
outcome.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

REACH = 0.1
"""How far a group's box may move off its leader's, in the leader's sizes, before pairs are searched again; 0.07 and
0.15 were slower."""
UNIT = 2.0**32
"""Scale of the whole numbers that are summed by group, so that no group's box depends on how another's was rounded."""
PART = 256
"""Leaders whose pairs are searched at a time: memory for candidates is bounded, and stays in the cache."""
SLACK = 1e-9
"""Error of an overlap by rounding, at most."""
OUTWARD = np.array([[-1.0], [-1.0], [1.0], [1.0]])


@dataclass(frozen=True, slots=True)
class SortedBoxes:
    """N boxes by falling score: `corner` (4, N) as x1, y1, x2, y2, `score`, `label` and `view` (N,).

    `size` (4, N) is width, height, width, height: the unit of corners' moves. `weights` (V,) are the views'.
    """

    corner: Floats
    size: Floats
    score: Floats
    label: Indices
    view: Indices
    weights: Floats


@dataclass(frozen=True, slots=True)
class Groups:
    """M groups of boxes: `leader` (M,) is the first box of each; box `member` (K,) is in group `group` (K,)."""

    leader: Indices
    member: Indices
    group: Indices

    def sum(self, values: Floats) -> Floats:
        """Values of the members (K,), or rows of them (R, K), summed by group: (M,) or (R, M)."""
        if values.ndim > 1:
            return np.stack([self.sum(row) for row in values])
        return np.asarray(np.bincount(self.group, values, len(self.leader)), np.float64)


@dataclass(frozen=True, slots=True)
class Pairs:
    """P pairs of boxes, sorted by `leader` (P,), then by `other` (P,), which is no earlier than the leader.

    Each leader's first pair is with itself, at index `start` (P,). `base` and `size` (4, P) are the leader's corners
    and size, `box` (4, P) the other's corners. `pull` (5, P), in UNIT: the other's corners less the leader's in the
    leader's sizes, and 1, times the other's score over the leader's.
    """

    leader: Indices
    other: Indices
    start: Indices
    base: Floats
    size: Floats
    box: Floats
    pull: NDArray[np.int64]

    @classmethod
    def of(cls, boxes: SortedBoxes, key: Indices) -> "Pairs":
        """`key` (P,), sorted, is leader * N + other."""
        leader, other = np.divmod(key, len(boxes.score))
        starts = np.flatnonzero(leader == other)
        start = np.repeat(starts, np.diff(starts, append=len(key)))
        base, size, box = boxes.corner.take(leader, 1), boxes.size.take(leader, 1), boxes.corner.take(other, 1)
        share = UNIT * boxes.score[other] / boxes.score[leader]
        pull = np.vstack(((box - base) / size * share, share)).astype(np.int64)
        return cls(leader, other, start, base, size, box, pull)


GroupBox = Callable[[Pairs, Indices], Floats]
"""(pairs, each box's leader (N,)) -> (4, P): how far a group's box lies off its leader's, in the leader's sizes, with
all members up to that pair."""


def mean_moves(pairs: Pairs, leader: Indices) -> Floats:
    """A group's box is the mean of its members by score."""
    pull = pairs.pull * ((leader[pairs.other] == pairs.leader) | (pairs.other == pairs.leader))
    sums = np.cumsum(pull, axis=1)
    sums -= (sums - pull).take(pairs.start, 1)
    moves: Floats = sums[:4] / sums[4]
    return moves


def leader_stays(pairs: Pairs, leader: Indices) -> Floats:
    """A group's box is its leader's."""
    return np.zeros(pairs.box.shape)


def shared_area(a: Floats, b: Floats) -> Floats:
    x = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    y = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    area: Floats = np.maximum(x, 0) * np.maximum(y, 0)
    return area


def overlap(a: Floats, b: Floats) -> Floats:
    """Intersection over union of boxes (4, ...) with boxes (4, ...)."""
    shared = shared_area(a, b)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    ratio: Floats = shared / (both - shared)
    return ratio


def _ranges(low: Indices, high: Indices) -> tuple[Indices, Indices]:
    """(k, number) for every whole number from low[k] to below high[k]."""
    count = np.maximum(high - low, 0)
    which = np.repeat(np.arange(len(low)), count)
    return which, np.arange(len(which)) + np.repeat(low - np.cumsum(count) + count, count)


def pair_finder(boxes: SortedBoxes, iou: float) -> Callable[[Indices, Floats], Indices]:
    """Returns a search: (leaders (L,), reach (L,)) -> keys of all pairs that may overlap by more than `iou`.

    A group's box is no farther from its leader's than `reach` of the leader's sizes. Such boxes share more than iou
    times the longer of their lengths on each axis, so their middles are less than (1 - iou) / min(1, 2 iou) lengths
    of either apart. Boxes are indexed by class, then by bands of y, then by x.
    """
    n = len(boxes.score)
    near = (1 - iou) / max(min(1, 2 * iou), SLACK)
    middle = (boxes.corner[:2] + boxes.corner[2:]) / 2
    middle -= middle.min(axis=1, keepdims=True)
    span = middle.max(axis=1, keepdims=True)
    band_height = max(boxes.size[1].mean(), span[1, 0] / n)
    first_band = np.unique(boxes.label, return_inverse=True)[1] * (span[1, 0] // band_height + 2)
    stride = 2 * span[0] + 1
    place = (first_band + middle[1] // band_height) * stride + middle[0]
    order = np.argsort(place)
    place, corner = place[order], boxes.corner.take(order, 1)
    area = boxes.size[0].take(order) * boxes.size[1].take(order)

    def find_pairs(leader: Indices, reach: Floats) -> Indices:
        size, center = boxes.size.take(leader, 1), middle.take(leader, 1)
        margin = size * (reach + SLACK)
        far = margin[:2] + near * (size[:2] + 2 * margin[:2])
        low, high = np.maximum(center - far, 0), np.minimum(center + far, span)
        host, band = _ranges(*((end[1] // band_height).astype(np.intp) + above for end, above in ((low, 0), (high, 1))))
        shelf = (first_band[leader][host] + band) * stride
        begin = np.searchsorted(place, shelf + low[0][host])
        found, at = _ranges(begin, np.searchsorted(place, shelf + high[0][host], "right"))
        host = host[found]
        later = np.flatnonzero(order[at] >= leader[host])
        host, at = host[later], at[later]
        largest = boxes.corner.take(leader, 1) + margin * OUTWARD
        smallest = np.maximum(size - 2 * margin, 0)[:2].prod(axis=0)
        shared = shared_area(largest.take(host, 1), corner.take(at, 1))
        fits = np.flatnonzero(shared > (iou - SLACK) * (smallest[host] + area[at] - shared))
        keys: Indices = leader[host[fits]] * n + order[at[fits]]
        return keys

    return find_pairs


def first_leaders(boxes: SortedBoxes) -> Indices:
    """Leaders (N,) to start the rounds with: the first box of a class in a cell, about half a box wide."""
    halvings = np.maximum(np.log2(boxes.size[0] * boxes.size[1]) // 2, -20) - 1
    cells = (boxes.corner[:2] + boxes.corner[2:]) / 2 // np.exp2(halvings)
    name = boxes.label.astype(np.int64)
    for part in (halvings, *cells):
        name = name * 1_000_003 + part.astype(np.int64)
    _, first, inverse = np.unique(name, return_index=True, return_inverse=True)
    leader: Indices = first[inverse]
    return leader


def assigned(pairs: Pairs, leads: NDArray[np.bool_], moves: Floats, iou: float) -> Indices:
    """Each box's leader (N,), by the groups of the boxes before it; the box itself where no group overlaps enough."""
    leader, other = pairs.leader[1:], pairs.other[1:]
    value = overlap(pairs.base[:, 1:] + pairs.size[:, 1:] * moves[:, :-1], pairs.box[:, 1:])
    fits = np.flatnonzero((value > iou) & leads[leader] & (leader != other))
    value, leader, other = value[fits], leader[fits], other[fits]
    best = np.zeros(len(leads))
    np.maximum.at(best, other, value)
    most = value == best[other]
    found = np.arange(len(leads))
    np.minimum.at(found, other[most], leader[most])
    return found


def group(boxes: SortedBoxes, iou: float, group_box: GroupBox) -> Groups:
    """The groups that form box by box, of at least one box.

    Each round assigns every box its leader by the groups that the last round left, until nothing changes. A box's
    leader depends on earlier boxes only: each round settles at least one box more, and the fixed point is what going
    box by box gives. Pairs are those that can count while the groups' boxes stay within reach of their leaders'. Where
    one ends up farther, its pairs are searched for twice as far, and the rounds go on.
    """
    n = len(boxes.score)
    find_pairs = pair_finder(boxes, iou)
    before, leader = np.full(n, -1), first_leaders(boxes)
    needed, reach = np.full(n, REACH / 2), np.zeros(n)
    pairs = Pairs.of(boxes, np.arange(0))
    while True:
        leads, settled = leader == np.arange(n), np.array_equal(leader, before)
        short = np.flatnonzero(leads & (needed > reach) if settled else leads & (reach == 0))
        if len(short):
            reach[short] = 2 * needed[short]
            rest = (pairs.leader * n + pairs.other)[~np.isin(pairs.leader, short)]
            parts = [short[first : first + PART] for first in range(0, len(short), PART)]
            found = [find_pairs(part, reach[part]) for part in parts]
            pairs = Pairs.of(boxes, np.sort(np.concatenate((rest, *found))))
        elif settled:
            break
        moves = group_box(pairs, leader)
        needed = np.full(n, REACH / 2)
        np.maximum.at(needed, pairs.leader, np.abs(moves).max(axis=0))
        before, leader = leader, assigned(pairs, leads, moves, iou)
    leaders, groups = np.unique(leader, return_inverse=True)
    return Groups(leaders, np.arange(n), groups)
