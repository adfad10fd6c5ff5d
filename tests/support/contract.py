"""Check the guarantees of views by pixels: a model reads only a view's pixels, and a task undoes its prediction.

Placements are not compared, so that a view that is made and undone with the same mistake is found.
"""

from dataclasses import dataclass, replace

import numpy as np

from tests.support.patterns import blob, noise
from tta_server.imaging.normalization import Normalization
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.imaging.resampling import is_exact
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.boxes.detection import Detection
from tta_server.tasks.boxes.output import BoxesOutput
from tta_server.tasks.embedding import Embedding, VectorOutput
from tta_server.tasks.masks.output import MapsOutput
from tta_server.tasks.masks.segmentation import Segmentation
from tta_server.tasks.points.keypoints import Keypoints
from tta_server.tasks.points.output import PointsOutput
from tta_server.views import color
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view
from tta_server.views.view import View

RAW = Normalization(scale=1)
PREPARATIONS = {
    "exact": Preprocessing(Size(57, 44), Resize.EXACT, normalization=RAW),
    "letterbox": Preprocessing(Size(65, 64), Resize.LETTERBOX, normalization=RAW, letterbox_fill=0),
    "free": Preprocessing(multiple=16, normalization=RAW),
    "free short": Preprocessing(None, Resize.SHORT, 53, multiple=8, normalization=RAW),
}
LABELS = ("nose", "left", "right")
SIGMA = 3.0


@dataclass(frozen=True)
class Case:
    """An image of that size, its preprocessing and one view; `seed` determines its content."""

    prep: Preprocessing
    view: View
    image: Size
    seed: int

    @classmethod
    def drawn(cls, source, spec):
        prep = list(PREPARATIONS.values())[source.integers(len(PREPARATIONS))]
        return cls(
            prep,
            read_view(spec),
            Size(*(int(side) for side in source.integers(52, 110, 2))),
            int(source.integers(1 << 30)),
        )

    @property
    def fits(self):
        """Whether the view fits the model's input: a letterbox that is not square can't be rotated."""
        return not (self.view.geometry.swaps and self.prep.resize is Resize.LETTERBOX)

    def placement(self, view):
        return self.prep.place(view, self.image)

    def scene(self):
        return ImageFrame(self.image, self.placement(View()))

    def tensor(self, pixels, view):
        """Return the model's input, (3, H, W); the view's colour map, which is not undone, is left out."""
        placement, view = self.placement(view), replace(view, color=color.IDENTITY)
        batch = self.prep.empty(1, placement.tensor)
        self.prep.write(self.prep.canvas(pixels, view.scale), view, placement, batch[0])
        return batch[0].astype(np.float64)

    def random(self):
        return np.random.default_rng(self.seed)


class Unseen(Exception):
    """The drawn objects are not fully inside the view: there is no guarantee."""


# ---- models that read pixels ----


def moments(plane, inset, frame):
    """Return centre (2,) and standard deviations (2,) of a blob inside the frame; raise Unseen near its edge."""
    (left, top), (width, height) = inset, frame
    inside = np.maximum(plane[top : top + height, left : left + width] - 2, 0)
    if inside.sum() < 100 or max(inside[0].max(), inside[-1].max(), inside[:, 0].max(), inside[:, -1].max()) > 2:
        raise Unseen
    y, x = np.mgrid[0:height, 0:width] + 0.5
    weight = inside / inside.sum()
    at = np.array([(weight * x).sum(), (weight * y).sum()])
    spread = np.sqrt([(weight * (x - at[0]) ** 2).sum(), (weight * (y - at[1]) ** 2).sum()])
    return at + inset, spread


def hills(case, sigma=SIGMA):
    """Return an image with a blob in each channel, well apart, around its centre."""
    source, size = case.random(), case.image
    middle = np.array(size) / 2 + source.uniform(-3, 3, 2)
    turn = source.uniform(0, 2 * np.pi)
    corners = [middle + 9 * np.array([np.cos(turn + k), np.sin(turn + k)]) for k in (0.0, 2.2, 4.4)]
    return np.stack([blob(size, corner, sigma) for corner in corners], axis=2)


def named(nose, one, other):
    """Return (left, right) ear: the left ear is on the left when looking towards the nose."""
    ahead = nose - (one + other) / 2
    aside = one - other
    return (one, other) if ahead[0] * aside[1] - ahead[1] * aside[0] < 0 else (other, one)


def pointed(case, pixels, view):
    """Return (3, 3): x, y of nose, left and right ear in a view's input, and confidence 1."""
    tensor, placement = case.tensor(pixels, view), case.placement(view)
    nose, one, other = (moments(plane, placement.inset, placement.frame)[0] for plane in tensor)
    left, right = named(nose, one, other)
    return np.column_stack([np.stack([nose, left, right]), np.ones(3)])


# ---- one check per kind of output, which returns the distance from the plain view's output in pixels of the input ----


def point(case):
    task = Keypoints(LABELS, PointsOutput("coordinates", pairs=(("left", "right"),)), {"points": (None, 3, 3)})
    pixels = hills(case)
    undone = [
        task.decode({"points": pointed(case, pixels, view)[None]}, 0, case.placement(view), case.scene()).xy
        for view in (View(), case.view)
    ]
    return _far(undone, case)


def heat_map(case):
    task = Keypoints(LABELS, PointsOutput("heatmaps", pairs=(("left", "right"),)), {"maps": (None, 3, None, None)})
    pixels = hills(case)
    found = []
    for view in (View(), case.view):
        tensor, placement = case.tensor(pixels, view), case.placement(view)
        nose, one, other = tensor / 250
        at = [moments(plane, placement.inset, placement.frame)[0] for plane in tensor]
        same = named(*at)[0] is at[1]
        maps = np.stack([nose, one, other] if same else [nose, other, one])[None].astype(np.float32)
        found.append(task.move_maps(task.decode({"maps": maps}, 0, placement, case.scene()).maps))
    if _is_index(case):
        seen = np.broadcast_to(_seen(found[1]), found[0].scores.shape)
        np.testing.assert_array_equal(found[1].scores[seen], found[0].scores[seen])
    frame = case.scene().plain.frame
    centres = [
        np.stack([moments(250 * plane, (0, 0), frame)[0] for plane in moved.scores[:, : frame.height, : frame.width]])
        for moved in found
    ]
    return float(np.abs(centres[0] - centres[1]).max())


def mask(case):
    """Scores are the pixels: noise for exact views, else ramps of two grey levels per pixel."""
    task = Segmentation(("x", "y", "z"), MapsOutput("logits"), {"maps": (None, 3, None, None)})
    width, height = case.image
    y, x = np.mgrid[0:height, 0:width] + 0.5
    ramps = np.stack([2 * x, 2 * y, x + y], axis=2)
    pixels = noise(case.image, seed=case.seed) if _is_index(case) else ramps.astype(np.uint8)
    undone = [
        task.decode({"maps": case.tensor(pixels, view)[None]}, 0, case.placement(view), case.scene())
        for view in (View(), case.view)
    ]
    seen = _seen(undone[1])
    if _is_index(case):
        np.testing.assert_array_equal(undone[1].values[:, seen], undone[0].values[:, seen])
        return 0.0
    inner = _inner(seen)
    if not inner.any():
        raise Unseen
    scale = np.array(
        [case.image.width / case.scene().plain.canvas.width, case.image.height / case.scene().plain.canvas.height]
    )
    off = np.abs(undone[1].values[:2] - undone[0].values[:2])[:, inner] / (2 * scale[:, None])
    return float(off.max())


def box(case):
    """An object is an elongated blob; its box extends two standard deviations in each direction."""
    task = Detection(("thing",), BoxesOutput("boxes", "scores", "labels"), BOX_SHAPES)
    source, size = case.random(), case.image
    y, x = np.mgrid[0 : size.height, 0 : size.width] + 0.5
    at, sigma = np.array(size) / 2 + source.uniform(-4, 4, 2), source.uniform(3, 7, 2)
    hill = 250 * np.exp(-(((x - at[0]) / sigma[0]) ** 2 + ((y - at[1]) / sigma[1]) ** 2) / 2)
    pixels = np.repeat(np.rint(hill).astype(np.uint8)[:, :, None], 3, axis=2)
    undone = []
    for view in (View(), case.view):
        placement = case.placement(view)
        middle, spread = moments(case.tensor(pixels, view)[0], placement.inset, placement.frame)
        xyxy = np.concatenate([middle - 2 * spread, middle + 2 * spread])[None, None]
        outputs = {"boxes": xyxy, "scores": np.ones((1, 1)), "labels": np.zeros((1, 1))}
        boxes = task.decode(outputs, 0, placement, case.scene()).boxes.xyxy
        if not len(boxes):
            raise Unseen
        undone.append(boxes.reshape(2, 2).astype(np.float64))
    return _far(undone, case)


def roundness(case):
    """Return the ratio of a round blob's standard deviations in the view's pixels; 1 is round."""
    placement = case.placement(case.view)
    _, spread = moments(case.tensor(hills(case), case.view)[0], placement.inset, placement.frame)
    _, before = moments(case.tensor(hills(case), View())[0], case.placement(View()).inset, case.placement(View()).frame)
    return float((spread.max() / spread.min()) / (before.max() / before.min()))


def vector(case):
    task = Embedding((), VectorOutput(), {"vector": (None, 4)})
    values = case.random().normal(size=(1, 4))
    prediction = task.decode({"vector": values}, 0, case.placement(case.view), case.scene())
    merged = task.accumulator("mean", ResponseSpec(), case.scene())
    merged.add(prediction, 1.0)
    np.testing.assert_allclose(merged.result(), values[0] / np.linalg.norm(values))
    return 0.0


BOX_SHAPES = {"boxes": (None, None, 4), "scores": (None, None), "labels": (None, None)}
CHECKS = {"mask": mask, "heat map": heat_map, "point": point, "box": box, "vector": vector}


def _is_index(case):
    """Whether the view only copies pixels, so that maps are equal."""
    placement = case.placement(case.view)
    return placement.exact and is_exact(placement.to_plain)


def _seen(moved):
    shape = moved.scores.shape[1:]
    return np.ones(shape, bool) if moved.coverage is None else moved.coverage > 0


def _inner(seen):
    """Return the cells that are away from unseen cells and from the frame's edge, where borders are interpolated."""
    inner = np.zeros_like(seen)
    inner[2:-2, 2:-2] = seen[2:-2, 2:-2]
    for dy in (-2, 0, 2):
        for dx in (-2, 0, 2):
            inner &= np.roll(seen, (dy, dx), (0, 1))
    return inner


def _far(undone, case):
    """Return the largest distance between corresponding points of the image, in pixels of the input."""
    canvas = case.scene().plain.canvas
    scale = np.array([canvas.width / case.image.width, canvas.height / case.image.height])
    return float((np.abs(undone[0] - undone[1]) * scale).max())
