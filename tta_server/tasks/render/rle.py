"""Masks as COCO's run-length encoding: runs down the columns, in the compressed text of pycocotools."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rle = Mapping[str, Any]
"""`size` [height, width] and `counts`, as `pycocotools.mask.decode` takes them."""


def encode_mask(mask: NDArray[np.bool_]) -> Rle:
    """A mask (H, W)."""
    return encode_classes(mask.astype(np.uint8), range(1, 2))[0]


def encode_classes(classes: NDArray[Any], wanted: range) -> Sequence[Rle]:
    """A mask for each wanted class of a map (H, W) of class indices."""
    column_major = classes.T.ravel()
    starts = np.concatenate([[0], np.flatnonzero(column_major[1:] != column_major[:-1]) + 1])
    ends = np.append(starts[1:], column_major.size)
    values, size = column_major[starts], list(classes.shape)
    found = []
    for wanted_class in wanted:
        own = values == wanted_class
        edges = np.column_stack([starts[own], ends[own]]).ravel()
        counts = np.diff(np.concatenate([[0], edges, [column_major.size]]))
        found.append({"size": size, "counts": _compress(counts if counts[-1] else counts[:-1])})
    return found


def _compress(counts: NDArray[np.int64]) -> str:
    """The lengths of runs, of 0 first, as text.

    From the fourth on, a length is written as its difference to the one two before; each number takes groups of five
    bits, the lowest first, with a sixth that says whether more follow, as characters from 48 on.
    """
    rest = counts.copy()
    rest[3:] -= counts[1:-2]
    groups, used = [], []
    open_ones = np.ones(len(rest), np.bool_)
    while open_ones.any():
        group = rest & 31
        rest >>= 5
        used.append(open_ones)
        open_ones = open_ones & (rest != np.where(group & 16, -1, 0))
        groups.append(group | open_ones << 5)
    text = np.column_stack(groups)[np.column_stack(used)] + 48
    return text.astype(np.uint8).tobytes().decode()
