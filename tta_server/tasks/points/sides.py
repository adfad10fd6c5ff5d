"""Labels that name a side: which of them change places in a mirror image."""

import re
from collections.abc import Sequence

SIDE = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])", re.IGNORECASE)
"""left and right in any word, and the letters L and R alone, as in `L_Eye`, `l-eye` and `eye.R`."""
OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


def names_side(label: str) -> bool:
    """Whether a label says left or right."""
    return SIDE.search(label) is not None


def mirrored(label: str) -> str:
    """The label of the same point on the other side, in small letters."""
    return SIDE.sub(lambda found: OTHER[found.group().lower()], label.lower())


def pairs_of(labels: Sequence[str]) -> list[list[str]] | None:
    """The pairs of labels, the first one first; None if one that names a side has no other."""
    by_name = {label.lower(): label for label in labels}
    pairs = []
    for label in labels:
        if not names_side(label):
            continue
        other = by_name.get(mirrored(label))
        if other is None:
            return None
        if [other, label] not in pairs:
            pairs.append([label, other])
    return pairs
