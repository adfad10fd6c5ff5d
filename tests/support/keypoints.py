"""A keypoint model's outputs, and what becomes of them: points are x, y."""

import numpy as np
import pytest
from hypothesis import strategies as st

from tta_server.imaging.normalization import Normalization
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.points.keypoints import Keypoints
from tta_server.tasks.points.output import PointsOutput
from tta_server.views.geometry import Affine, Size
from tta_server.views.spec import read_view
from tta_server.views.view import View

LABELS = ("nose", "left", "right", "tail")
PARTNER = [0, 2, 1, 3]
PAIRS = (("left", "right"),)
RAW = Normalization(scale=1)
PREPARATIONS = {
    "exact": Preprocessing(Size(56, 44), Resize.EXACT, normalization=RAW),
    "letterbox": Preprocessing(Size(64, 64), Resize.LETTERBOX, normalization=RAW),
    "free": Preprocessing(multiple=16, normalization=RAW),
    "free short": Preprocessing(None, Resize.SHORT, 53, multiple=8, normalization=RAW),
}
VIEWS = [
    ("identity", False),
    ("hflip", True),
    ("vflip", True),
    ({"rot90": 1}, False),
    ({"rot90": 2}, False),
    ({"rot90": 3}, False),
    ("transpose", True),
    ("antitranspose", True),
    ({"rotate": 17.5}, False),
    ({"rotate": -31, "border": "replicate"}, False),
    ({"zoom": 1.3}, False),
    ({"shift": [5, -3]}, False),
    ({"shift": [-2.5, 3.25], "border": "constant"}, False),
    ({"crop": {"fraction": 0.7, "anchor": "bottom_left"}}, False),
    ({"scale": 1.25}, False),
    ({"window": "top_right"}, False),
    ([{"scale": 1.25}, {"window": "bottom_right"}, "hflip"], True),
    (["hflip", {"rotate": 10}, {"shift": [4, 3]}], True),
    (["vflip", {"rotate": -8}, "transpose"], False),
    ({"brightness": 1.2}, False),
    ({"contrast": 0.8}, False),
    ({"saturation": 0.5}, False),
    ({"hue": 40}, False),
    ("grayscale", False),
]
"""A view's specification, and whether the view mirrors."""

prepared = pytest.mark.parametrize("prep", PREPARATIONS.values(), ids=PREPARATIONS)
images = st.builds(Size, st.integers(30, 110), st.integers(30, 110))
seeds = st.integers(0, 2**32 - 1)
views = st.sampled_from(VIEWS)


def task(kind="coordinates", labels=LABELS, pairs=PAIRS, numbers=2, shape=None, **form):
    """`shape` is that of the output: by default coordinates of `numbers` values a point, or what the kind needs."""
    count = len(labels)
    if kind == "simcc":
        shapes = dict.fromkeys(("simcc_x", "simcc_y"), shape or (None, count, None))
    elif kind == "heatmaps":
        shapes = {"points": shape or (None, count, None, None)}
    else:
        shapes = {"points": shape or (None, count, numbers)}
    return Keypoints(labels, PointsOutput(kind, pairs=pairs, **form), shapes)


def scene_of(prep, image):
    return ImageFrame(image, prep.place(View(), image))


def to_tensor(placement, scene):
    """Image's own pixels -> pixels of the view's input."""
    to_plain = scene.to_image.inverse()
    return to_plain.then(placement.to_plain.inverse()).then(Affine.shift(*placement.inset))


def points_in(size, seed, count=4):
    return np.random.default_rng(seed).random((count, 2)) * size


def outputs_of(points, confidence=None):
    """A model's outputs for one view: points (J, 2) of its input, and confidences if given."""
    if confidence is None:
        return {"points": np.float64(points)[None]}
    return {"points": np.column_stack([points, np.broadcast_to(confidence, len(points))])[None]}


def merged(poses, scene, merge="mean_coordinates", weights=None, keypoints=None):
    accumulator = (keypoints or task()).accumulator(merge, ResponseSpec(), scene)
    for pose, weight in zip(poses, weights or [1.0] * len(poses), strict=True):
        accumulator.add(pose, weight)
    return accumulator.result()


def pose_of(prep, scene, spec, points, confidence=None, keypoints=None):
    """The pose of a view that finds these points of the image."""
    placement = prep.place(read_view(spec), scene.image)
    outputs = outputs_of(to_tensor(placement, scene).apply(np.float64(points)), confidence)
    return (keypoints or task()).decode(outputs, 0, placement, scene)


FREE = Preprocessing(normalization=RAW)
SCENE = scene_of(FREE, Size(100, 60))
ONE = task(labels=("tip",), pairs=None)
ONE_SURE = task(labels=("tip",), pairs=None, numbers=3)


def tip(x, y, confidence=None, view="identity"):
    keypoints = ONE if confidence is None else ONE_SURE
    return pose_of(FREE, SCENE, view, [(x, y)], confidence, keypoints)
