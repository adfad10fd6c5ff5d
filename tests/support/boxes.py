"""Reference for boxes in views, by their corners or by their inscribed ellipses.

Boxes are (N, 4) as left, top, right, bottom.
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
"""Every kind of preprocessing of detection."""

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
"""Views that show the whole image if the input's size is free."""
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
"""Views without rotation that hide a part of the image."""
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
    """Return boxes with sides of at least 6 pixels in a frame of that size, each from four numbers in [0, 1]."""
    x, y, w, h = np.array(parts, np.float64).reshape(-1, 4).T
    w, h = 6 + w * (size[0] - 6), 6 + h * (size[1] - 6)
    left, top = x * (size[0] - w), y * (size[1] - h)
    return np.stack([left, top, left + w, top + h], axis=1)


def moderate(boxes):
    """Return the boxes whose sides differ at most by a factor of four."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    return boxes[np.maximum(width, height) <= 4 * np.minimum(width, height)]


def by_corners(boxes, affine):
    """Return the bounding boxes of the moved boxes' corners."""
    x1, y1, x2, y2 = boxes.T
    corners = np.stack([affine.apply(np.stack(at, axis=1)) for at in ((x1, y1), (x2, y1), (x1, y2), (x2, y2))])
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)], axis=1)


def by_ellipses(boxes, affine):
    """Return the bounding boxes of the moved inscribed ellipses: |xx a cos u + xy b sin u| <= hypot(xx a, xy b)."""
    middle = affine.apply((boxes[:, :2] + boxes[:, 2:]) / 2)
    a, b = (boxes[:, 2:] - boxes[:, :2]).T / 2
    half = np.stack([np.hypot(affine.xx * a, affine.xy * b), np.hypot(affine.yx * a, affine.yy * b)], axis=1)
    return np.concatenate([middle - half, middle + half], axis=1)


def to_input(placement):
    """Return the map from the plain view's frame to a view's input."""
    return placement.to_plain.inverse().then(Affine.shift(*placement.inset))


def inside(boxes, placement):
    """Return the distance (N,) of boxes in a view's input from the frame's nearest edge; negative outside it."""
    (x, y), (width, height) = placement.inset, placement.frame
    left, top, right, below = (boxes - np.array([x, y, x, y])).T
    return np.minimum.reduce([left, top, width - right, height - below])
