"""Named points of several views of one image, merged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tta_server.imaging.placement import Placement
from tta_server.tasks.base import Floats, ImageFrame, NoEvidence
from tta_server.tasks.checks import Finding
from tta_server.tasks.masks.maps import MapSums, MovedMaps, OutputGrid
from tta_server.tasks.points.heatmaps import PEAK_COLUMNS, peaks, points_of
from tta_server.tasks.scores.kinds import identity
from tta_server.tasks.sums import Sums
from tta_server.views.geometry import Affine, Size, apply_each
from tta_server.views.view import Weight

Doubles = NDArray[np.float64]
Points = tuple[Doubles, Doubles]
"""Points (J, 2) in cells of a view's heat maps, and their confidence (J,), in its own order of labels."""
ReadPeaks = Callable[[Points, Placement, ImageFrame, OutputGrid], "ViewPose"]
TINY = 1e-12
"""Keeps a division by a sum of weights of 0 defined."""


@dataclass(frozen=True, slots=True)
class HeatMaps:
    """One view's scores (J, h, w), in its own order of labels, and its placement."""

    scores: Floats
    placement: Placement
    grid: OutputGrid


@dataclass(frozen=True, slots=True)
class ViewPose:
    """J points of one view, in the plain view's order of labels: `xy` (J, 2) in the image's pixels, `confidence` (J,).

    `to_view` maps the image to the view's frame of size `frame`. `maps` are the heat maps that the points were read
    from, if any. `remarks` say where the points are not what tta.yaml states.
    """

    xy: Doubles
    confidence: Doubles
    to_view: Affine
    frame: Size
    maps: HeatMaps | None = None
    remarks: Sequence[Finding] = ()

    def without_maps(self) -> "ViewPose":
        return ViewPose(self.xy, self.confidence, self.to_view, self.frame, remarks=self.remarks)


@dataclass(frozen=True, slots=True)
class HeatSums(MapSums):
    """Sums of several views' heat maps, as probabilities; and each view's own peaks.

    `peaks` (K, J, PEAK_COLUMNS) are those of K views with these `views`, placement and weight, in cells of their maps.
    """

    peaks: Floats = field(default_factory=lambda: np.zeros((0, 0, PEAK_COLUMNS), np.float32))
    views: Sequence[tuple[Placement, Weight]] = ()


@dataclass(frozen=True, slots=True)
class MergedPose:
    """J points `xy` (J, 2) in the image's pixels, and their `confidence` (J,).

    `visible_in` (J,): how many views show each point. `spread` (J,) pixels: the root of the mean squared distance of
    the views' own points, by weight and confidence.
    """

    xy: Doubles
    confidence: Doubles
    visible_in: NDArray[np.intp]
    spread: Doubles


class PoseAccumulator(NoEvidence):
    """Keeps every view's few points, and the sum of heat maps."""

    def __init__(self, merge: str, frame: ImageFrame, move: Callable[[HeatMaps], MovedMaps], read: ReadPeaks) -> None:
        """`move` moves heat maps to the plain view's grid, `read` makes the pose of a view of its peaks."""
        self._move = move
        self._read = read
        self._merges_maps = merge == "mean_heatmaps"
        self._frame = frame
        self._poses: list[ViewPose] = []
        self._weights: list[Weight] = []
        self._total: Doubles | Floats | None = None
        self._weight: Doubles | Floats | None = None
        self._grid = OutputGrid()

    def add(self, prediction: ViewPose, weight: Weight) -> None:
        if self._merges_maps and prediction.maps is not None:
            self._add_maps(self._move(prediction.maps), weight)
            self._grid = prediction.maps.grid
        self._poses.append(prediction.without_maps())
        self._weights.append(weight)

    def _add_maps(self, moved: MovedMaps, weight: Weight) -> None:
        counts = np.array(weight, np.float32, ndmin=1)[:, None, None]
        if moved.coverage is not None:
            counts = counts * moved.coverage
        self._add_total(moved.scores * counts, counts)

    def _add_total(self, scores: Floats, counts: Floats) -> None:
        total = scores if self._total is None else self._total + scores
        self._weight = counts if self._weight is None else self._weight + counts
        self._total = total

    def add_sums(self, sums: Sums) -> None:
        """Adds sums over several views, which are HeatSums."""
        assert isinstance(sums, HeatSums)
        poses = [
            self._read(points_of(table), placement, self._frame, sums.grid)
            for table, (placement, _) in zip(sums.peaks, sums.views, strict=True)
        ]
        self._add_total(sums.total, sums.weights[None])
        self._grid = sums.grid
        self._poses += poses
        self._weights += [weight for _, weight in sums.views]

    def result(self) -> MergedPose:
        """The merge over the views that show each point.

        A view that does not show a point puts it somewhere inside itself. So a first estimate takes only the views that
        show every place where any view puts the point; then all views that show the estimate count.
        """
        xy = np.array([pose.xy for pose in self._poses])
        confidence = np.array([pose.confidence for pose in self._poses])
        weights = np.empty_like(confidence)
        for row, weight in zip(weights, self._weights, strict=True):
            row[:] = weight
        middle, sure = self._decoded() if self._merges_maps else _mean(xy, confidence, weights * self._show_all(xy))
        shown = _shown(self._poses, middle)
        shown |= ~shown.any(axis=0)  # where no view shows the point, all count
        if not self._merges_maps:
            middle, sure = _mean(xy, confidence, weights * shown)
        return MergedPose(middle, sure, shown.sum(axis=0), _spread(xy, middle, weights * shown * confidence))

    def _show_all(self, xy: Doubles) -> NDArray[np.bool_]:
        """Which views (K, J) show all the places of a point in xy (K, J, 2); all views where none does."""
        shown = np.asarray(_shown(self._poses, xy.reshape(-1, 2)).reshape(-1, *xy.shape[:2]).all(axis=1))
        return shown | ~shown.any(axis=0)

    def _decoded(self) -> tuple[Doubles, Doubles]:
        assert self._total is not None
        assert self._weight is not None
        points, tops = peaks((self._total / np.maximum(self._weight, TINY)).astype(np.float32), identity)
        return self._grid.to_pixels.then(self._frame.to_image).apply(points), tops


def _mean(xy: Doubles, confidence: Doubles, weights: Doubles) -> tuple[Doubles, Doubles]:
    """Mean of points (K, J, 2) by weight and confidence (K, J): (J, 2); and the mean confidence by weight (J,)."""
    by = weights * np.maximum(confidence, TINY)
    middle = (xy * by[..., None]).sum(axis=0) / np.maximum(by.sum(axis=0), TINY * TINY)[:, None]
    return middle, (confidence * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), TINY)


def _spread(xy: Doubles, middle: Doubles, by: Doubles) -> Doubles:
    squares = ((xy - middle) ** 2).sum(axis=2)
    spread: Doubles = np.sqrt((squares * by).sum(axis=0) / np.maximum(by.sum(axis=0), TINY))
    return spread


def _shown(poses: Sequence[ViewPose], xy: Doubles) -> NDArray[np.bool_]:
    """Which points (N, 2) of the image lie in the frame of each of K views, or within a pixel of it: (K, N)."""
    at = apply_each([pose.to_view for pose in poses], xy)
    ends = np.array([pose.frame for pose in poses])[:, None] + 1
    return np.asarray(((at >= -1) & (at <= ends)).all(axis=2))
