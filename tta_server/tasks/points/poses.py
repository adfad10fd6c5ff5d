"""Named points of several views of one image, merged."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tta_server.imaging.preprocessing import Placement
from tta_server.tasks.base import Floats, ImageFrame, NoEvidence
from tta_server.tasks.masks.maps import MovedMaps, OutputGrid
from tta_server.tasks.points.heatmaps import peaks
from tta_server.tasks.scores.merging import identity
from tta_server.views.geometry import Affine, Size
from tta_server.views.view import Weight

Doubles = NDArray[np.float64]
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class ViewPose:
    """J points of one view in the image's own pixels: `xy` (J, 2) and `confidence` (J,), both already under the plain
    view's names. `to_view` takes a point of the image to the view's frame of size `frame`. `maps` are the heat maps of
    which the points are, if there were some."""

    xy: Doubles
    confidence: Doubles
    to_view: Affine
    frame: Size
    maps: "HeatMaps | None" = None


@dataclass(frozen=True, slots=True)
class HeatMaps:
    """One view's scores (J, h, w), under its own names, and where it lies."""

    scores: Floats
    placement: Placement
    grid: OutputGrid


@dataclass(frozen=True, slots=True)
class MergedPose:
    """J points in the image's own pixels, their `confidence`, how many `views` could see each, and their `spread`: the
    root of the mean squared distance of the views' own points, each counting by its weight and confidence."""

    xy: Doubles
    confidence: Doubles
    views: NDArray[np.intp]
    spread: Doubles


class PoseAccumulator(NoEvidence):
    """Keeps every view's few points; of heat maps a sum."""

    def __init__(self, merge: str, frame: ImageFrame, move: "Callable[[HeatMaps], MovedMaps]") -> None:
        self._move = move
        self._of_maps = merge == "mean_heatmaps"
        self._frame = frame
        self._poses: list[ViewPose] = []
        self._weights: list[Doubles] = []
        self._total: Doubles | Floats | None = None
        self._weight: Doubles | Floats | None = None
        self._lattice = OutputGrid()

    def add(self, prediction: ViewPose, weight: Weight) -> None:
        w = np.broadcast_to(np.asarray(weight, np.float64), prediction.confidence.shape)
        pose = replace(prediction, maps=None)
        if self._of_maps and prediction.maps is not None:
            self._add_maps(self._move(prediction.maps), w)
            self._lattice = prediction.maps.grid
        self._poses.append(pose)
        self._weights.append(w)

    def _add_maps(self, moved: MovedMaps, w: Doubles) -> None:
        counts = w[:, None, None].astype(np.float32)
        if moved.coverage is not None:
            counts = counts * moved.coverage
        scores = moved.scores * counts
        total = scores if self._total is None else self._total + scores
        self._weight = counts if self._weight is None else self._weight + counts
        self._total = total

    def result(self) -> MergedPose:
        """Views that could not see a point say nothing of it. The first guess is that of views that see it wherever
        any puts it: one that is cut off from it would put it inside."""
        xy = np.stack([pose.xy for pose in self._poses])
        confidence = np.stack([pose.confidence for pose in self._poses])
        weights = np.stack(self._weights)
        middle, sure = self._decoded() if self._of_maps else _mean(xy, confidence, weights * self._see_all(xy))
        seen = np.stack([_sees(pose, middle) for pose in self._poses])
        seen |= ~seen.any(axis=0)  # a point that all say is outside: then all are heard
        if not self._of_maps:
            middle, sure = _mean(xy, confidence, weights * seen)
        return MergedPose(middle, sure, seen.sum(axis=0), _spread(xy, middle, weights * seen * confidence))

    def _see_all(self, xy: Doubles) -> NDArray[np.bool_]:
        """Which views (K, J) see all that any view says of a point of xy (K, J, 2); all of them where none does."""
        every = xy.reshape(-1, 2)
        see = np.stack([_sees(pose, every).reshape(xy.shape[:2]).all(axis=0) for pose in self._poses])
        return see | ~see.any(axis=0)

    def _decoded(self) -> tuple[Doubles, Doubles]:
        assert self._total is not None
        assert self._weight is not None
        points, tops = peaks((self._total / np.maximum(self._weight, TINY)).astype(np.float32), identity)
        return self._lattice.to_pixels.then(self._frame.to_image).apply(points), tops


def _mean(xy: Doubles, confidence: Doubles, weights: Doubles) -> tuple[Doubles, Doubles]:
    """Points (K, J, 2), each counting by weight and confidence (K, J) -> (J, 2) and the mean confidence (J,)."""
    by = weights * np.maximum(confidence, TINY)
    middle = (xy * by[..., None]).sum(axis=0) / np.maximum(by.sum(axis=0), TINY * TINY)[:, None]
    return middle, (confidence * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), TINY)


def _spread(xy: Doubles, middle: Doubles, by: Doubles) -> Doubles:
    squares = ((xy - middle) ** 2).sum(axis=2)
    spread: Doubles = np.sqrt((squares * by).sum(axis=0) / np.maximum(by.sum(axis=0), TINY))
    return spread


def _sees(pose: ViewPose, xy: Doubles) -> NDArray[np.bool_]:
    """Which points (J, 2) of the image lie in a view's frame, a pixel beyond its edge included."""
    at = pose.to_view.apply(xy)
    inside: NDArray[np.bool_] = np.all((at >= -1) & (at <= np.add(pose.frame, 1)), axis=1)
    return inside
