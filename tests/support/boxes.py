"""Where boxes lie in views, by their corners or by the ellipses that fill them: what the task is held against.

Boxes are (N, 4) as left, top, right, below.
"""

import numpy as np
from hypothesis import strategies as st

from tta_server.imaging.normalization import Normalization
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ImageFrame
from tta_server.views.geometry import Affine, Size
from tta_server.views.view import View

RAW = Normalization(scale=1)
PREPARATIONS = {
    "exact": Preprocessing(Size(57, 44), Resize.EXACT, normalization=RAW),
    "letterbox": Preprocessing(Size(64, 64), Resize.LETTERBOX, normalization=RAW),
    "free": Preprocessing(multiple=16, normalization=RAW),
    "free short": Preprocessing(None, Resize.SHORT, 53, multiple=8, normalization=RAW),
}
"""Every way that detection takes images."""

FULL_VIEWS = [
    "identity",
    "hflip",
    "vflip",
    {"rot90": 1},
    {"rot90": 2},
    {"rot90": 3},
    "transpose",
    "antitranspose",
    {"scale": 1.25},
    {"scale": 0.8},
    [{"scale": 1.25}, "transpose"],
]
"""Views that show the whole image where the input's size is free."""
PARTIAL_VIEWS = [
    {"shift": [5, -3]},
    {"shift": [-8, 6], "border": "constant"},
    {"shift": [2.5, -3.25]},
    {"zoom": 1.25},
    {"crop": {"fraction": 0.75, "anchor": "top_left"}},
    {"crop": {"fraction": 0.8, "center": [0.4, 0.7]}},
    ["hflip", {"shift": [3, 2]}, {"rot90": 1}],
    ["transpose", {"zoom": 1.5}, {"shift": [0, 7]}],
    [{"scale": 1.25}, {"window": "bottom_right"}, "hflip"],
]
"""Views without rotation that leave something out."""
TURNED_VIEWS = [
    {"rotate": 11},
    {"rotate": -27, "border": "replicate"},
    {"rotate": 30},
    [{"rotate": -30}, {"zoom": 1.3}],
    ["hflip", {"rotate": 10}, {"shift": [4.5, 3]}],
    [{"rotate": 20}, "transpose"],
    [{"scale": 1.25}, {"rot90": 3}, {"rotate": 5}],
]

images = st.builds(Size, st.integers(40, 110), st.integers(40, 110))
part = st.floats(0, 1)
parts = st.lists(st.tuples(part, part, part, part), min_size=1, max_size=5)


def scene_of(prep, image):
    return ImageFrame(image, prep.place(View(), image))


def spread_out(parts, size):
    """Boxes of 6 pixels a side, or any larger, anywhere in a frame of that size: each from four numbers in [0, 1]."""
    x, y, w, h = np.array(parts, np.float64).reshape(-1, 4).T
    w, h = 6 + w * (size[0] - 6), 6 + h * (size[1] - 6)
    left, top = x * (size[0] - w), y * (size[1] - h)
    return np.stack([left, top, left + w, top + h], axis=1)


def moderate(boxes):
    """Those up to four times as long as wide, or as wide as long."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    return boxes[np.maximum(width, height) <= 4 * np.minimum(width, height)]


def by_corners(boxes, affine):
    """The boxes of the moved boxes' corners."""
    x1, y1, x2, y2 = boxes.T
    corners = np.stack([affine.apply(np.stack(at, axis=1)) for at in ((x1, y1), (x2, y1), (x1, y2), (x2, y2))])
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)], axis=1)


def by_ellipses(boxes, affine):
    """The boxes of the moved ellipses that fill the boxes: x = xx a cos u + xy b sin u is at most its amplitude."""
    middle = affine.apply((boxes[:, :2] + boxes[:, 2:]) / 2)
    a, b = (boxes[:, 2:] - boxes[:, :2]).T / 2
    half = np.stack([np.hypot(affine.xx * a, affine.xy * b), np.hypot(affine.yx * a, affine.yy * b)], axis=1)
    return np.concatenate([middle - half, middle + half], axis=1)


def to_input(placement):
    """The plain view's frame -> a view's input."""
    return placement.to_plain.inverse().then(Affine.shift(*placement.inset))


def inside(boxes, placement):
    """How far boxes of a view's input lie inside the view's frame at the nearest edge; negative beyond it, (N,)."""
    (x, y), (width, height) = placement.inset, placement.frame
    left, top, right, below = (boxes - np.array([x, y, x, y])).T
    return np.minimum.reduce([left, top, width - right, height - below])
