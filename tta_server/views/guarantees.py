"""The accuracy with which each kind of view is undone on each kind of output, as a table.

`tests/views/test_guarantees.py` tests every entry with real preprocessing and real tasks.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

HALF_PIXEL = 0.5
"""Pixels of the model's input."""


@dataclass(frozen=True, slots=True)
class Guarantee:
    """One entry: `undo` is the largest distance of an undone output from the plain view's, in pixels of the input.

    0 means equal values.
    """

    view: str
    example: Any
    output: str
    undo: float
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON values."""
        return asdict(self)


OUTPUTS = {
    "mask": "scores for each pixel (segmentation)",
    "heat map": "scores for each cell of a grid (keypoints)",
    "point": "coordinates (keypoints)",
    "box": "left, top, right, below (detection)",
    "vector": "numbers for the whole image (classification, multilabel, regression, embedding)",
}

INDEX = "pixels are copied by index"
SAMPLED = "bilinear, once each way"
EXAMPLES: dict[str, tuple[Any, str]] = {
    "identity": ("identity", INDEX),
    "hflip": ("hflip", INDEX),
    "vflip": ("vflip", INDEX),
    "rot90": ("rot90", INDEX),
    "transpose": ("transpose", INDEX),
    "antitranspose": ("antitranspose", INDEX),
    "rotate": ({"rotate": 17}, SAMPLED),
    "zoom": ({"zoom": 1.2}, SAMPLED),
    "shift": ({"shift": [3, -2]}, INDEX),
    "shift, parts of a pixel": ({"shift": [2.5, -1.25]}, SAMPLED),
    "crop": ({"crop": {"fraction": 0.8, "center": [0.45, 0.55]}}, SAMPLED),
    "scale": ({"scale": 1.25}, SAMPLED),
    "window": ({"window": "top_left"}, INDEX),
    "brightness": ({"brightness": 1.2}, "no pixel moves"),
    "contrast": ({"contrast": 1.2}, "no pixel moves"),
    "saturation": ({"saturation": 1.3}, "no pixel moves"),
    "hue": ({"hue": 10}, "no pixel moves"),
    "grayscale": ("grayscale", "no pixel moves"),
}
"""Primitive -> an example view, and how its pixels are moved."""

MIRRORS = frozenset(["hflip", "vflip", "transpose", "antitranspose"])
PARTIAL_VIEWS = frozenset(["zoom", "crop", "shift", "shift, parts of a pixel", "rotate"])


def contract() -> Iterator[Guarantee]:
    """Yield all entries, view by view."""
    for view, (example, how) in EXAMPLES.items():
        exact = how != SAMPLED
        for output in OUTPUTS:
            lossless = exact or output in ("point", "vector") or (output == "box" and view != "rotate")
            yield Guarantee(view, example, output, 0.0 if lossless else HALF_PIXEL, _note(view, output, how))


def _note(view: str, output: str, how: str) -> str:
    if output == "vector":
        return "nothing to undo"
    if view == "rotate" and output == "box":
        return "the box of the upright ellipse inscribed in it; up to 39 degrees"
    notes = [how] if output in ("mask", "heat map") else []
    if view in MIRRORS and output in ("point", "heat map"):
        notes.append("paired labels are swapped")
    if view in PARTIAL_VIEWS:
        unseen = {"mask": "unseen pixels do not count", "heat map": "unseen cells do not count"}
        notes.append(unseen.get(output, "unseen objects do not count"))
    if view in PARTIAL_VIEWS and output == "box":
        notes.append("boxes cut by the view's edge are dropped")
    return "; ".join(notes)
