"""Boxes moved from a view's input to the plain view's frame, and which boxes of the image a view shows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tta_server.imaging.placement import Placement
from tta_server.tasks.base import ImageFrame
from tta_server.views.geometry import Affine, Size

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
F = TypeVar("F", bound=np.floating[Any])

AMBIGUOUS = 0.2
"""Least determinant of the equations for an object's sides, by the squared zoom, with which they are solved: from a
turn of about 39 degrees on, a box hardly says which side is the longer, and both are taken as equal."""
MIN_SIDE = 0.125
"""Least side of an object by the shorter side of its turned box: noise in the box may give a negative square."""
TOUCHING = 2.0
"""Pixels of the input within which a box touches the edge of a view: about what detectors miss by."""
MARGIN = 1.0
"""Pixels of the plain frame that it goes on beyond an edge that cuts, and that a corner may lie outside a view that
shows it."""
EDGE = 1e-6
"""Pixels by which rounding may move a corner."""

CORNERS: dict[str, Callable[[Doubles], Doubles]] = {
    "xyxy": lambda b: b,
    "yxyx": lambda b: b[:, [1, 0, 3, 2]],
    "xywh": lambda b: np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1),
    "cxcywh": lambda b: np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], axis=1),
}
"""Format of boxes (N, 4) -> left, top, right, bottom."""


def to_plain(xyxy: Doubles, placement: Placement) -> Doubles:
    """Boxes (N, 4) of a view's input -> of the plain view's frame, in pixels.

    A box is moved as the upright ellipse, in the plain frame, whose turned copy fills it: the box of a turned box's
    corners would grow with every turn. An ellipse of half axes a, b turned by t fills a box of half sides with the
    squares a^2 cos^2 t + b^2 sin^2 t and a^2 sin^2 t + b^2 cos^2 t, which is solved for a and b. Flips, quarter turns,
    zooms and shifts are exact.
    """
    back = Affine.shift(-placement.inset[0], -placement.inset[1]).then(placement.to_plain)
    middle = back.apply((xyxy[:, :2] + xyxy[:, 2:]) / 2)
    sides = np.maximum(xyxy[:, 2:] - xyxy[:, :2], 0)
    half = _turned_back(sides, back.inverse()) / 2
    return np.concatenate([middle - half, middle + half], axis=1)


def _turned_back(sides: Doubles, to_view: Affine) -> Doubles:
    """Sides (N, 2) in a view -> in the plain frame; `to_view` maps the plain frame to the view."""
    m = to_view
    if m.xy == 0 == m.yx:
        return sides / np.abs([m.xx, m.yy])
    if m.xx == 0 == m.yy:
        return sides[:, ::-1] / np.abs([m.yx, m.xy])
    squares = np.array([[m.xx**2, m.xy**2], [m.yx**2, m.yy**2]])
    zoom = abs(m.determinant)
    if abs(np.linalg.det(squares)) < AMBIGUOUS * zoom**2:
        return np.broadcast_to(np.sqrt((sides**2).mean(axis=1, keepdims=True) / zoom), sides.shape)
    least = (MIN_SIDE * sides.min(axis=1, keepdims=True)) ** 2 / zoom
    found: Doubles = np.sqrt(np.maximum(sides**2 @ np.linalg.inv(squares).T, least))
    return found


def are_cut(xyxy: Doubles, placement: Placement) -> Flags:
    """Which boxes (N, 4) of a view's input touch an edge of it beyond which the plain view goes on: (N,)."""
    if shows_all(placement):
        return np.zeros(len(xyxy), np.bool_)
    boxes = xyxy - (*placement.inset, *placement.inset)
    width, height = placement.frame
    touches = (boxes <= (TOUCHING, TOUCHING, -1, -1)) | (boxes >= (np.inf, np.inf, width - TOUCHING, height - TOUCHING))
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).T
    on_edges = np.empty((4, len(boxes), 2))
    on_edges[::2, :, 1], on_edges[1::2, :, 0] = y, x
    on_edges[0, :, 0], on_edges[1, :, 1], on_edges[2, :, 0], on_edges[3, :, 1] = 0, 0, width, height
    at = placement.to_plain.apply(on_edges.reshape(-1, 2)).reshape(on_edges.shape)
    goes_on = ((at > MARGIN) & (at < np.subtract(placement.whole, MARGIN))).all(axis=2)
    return np.asarray((touches & goes_on.T).any(axis=1))


@lru_cache(maxsize=1024)
def shows_all(placement: Placement) -> bool:
    """Whether the whole of the plain view's frame lies in a view's."""
    width, height = placement.whole
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)])
    at = placement.to_plain.inverse().apply(corners)
    return bool(np.all((at >= -EDGE) & (at <= np.add(placement.frame, EDGE))))


def to_view(xyxy: Doubles, placement: Placement) -> Doubles:
    """The inverse of `to_plain`: boxes (N, 4) of the plain view's frame -> of a view's input."""
    m = placement.to_plain.inverse()
    middle = m.apply((xyxy[:, :2] + xyxy[:, 2:]) / 2) + placement.inset
    squares = np.array([[m.xx**2, m.xy**2], [m.yx**2, m.yy**2]])
    half = np.sqrt((xyxy[:, 2:] - xyxy[:, :2]) ** 2 @ squares.T) / 2
    return np.concatenate([middle - half, middle + half], axis=1)


@dataclass(frozen=True, slots=True)
class Visibility:
    """What of an image a view shows."""

    placement: Placement
    frame: ImageFrame

    def shows(self, xyxy: Doubles) -> Flags:
        """Which boxes (N, 4), in the image's pixels, it shows whole, so that none would be dropped as cut: (N,)."""
        if shows_all(self.placement):
            return np.ones(len(xyxy), np.bool_)
        plain = self.frame.to_image.inverse().apply(xyxy.reshape(-1, 2)).reshape(-1, 4)
        whole = ~are_cut(to_view(plain, self.placement), self.placement)
        at = self.placement.to_plain.inverse().apply(plain[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 2))
        inside = ((at >= -MARGIN) & (at <= np.add(self.placement.frame, MARGIN))).reshape(-1, 8).all(axis=1)
        return np.asarray(whole & inside)


def clip_boxes(xyxy: NDArray[F], size: Size) -> NDArray[F]:
    """Boxes (N, 4), cut to an image."""
    cut: NDArray[F] = np.clip(xyxy, 0, np.array((*size, *size), xyxy.dtype))
    return cut
