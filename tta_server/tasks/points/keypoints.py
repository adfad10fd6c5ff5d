"""J named points, from heat maps, coordinates or bins: a place and a confidence for each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.imaging.placement import Placement
from tta_server.tasks.base import ImageFrame, ResponseSpec, TaskDefaults, TensorSpec
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.masks.maps import MovedMaps, OutputGrid, move_back
from tta_server.tasks.points.coordinates import CoordinateReader
from tta_server.tasks.points.heat_reader import HeatMapReader
from tta_server.tasks.points.output import PointsOutput, mirror_order
from tta_server.tasks.points.poses import HeatMaps, MergedPose, Points, PoseAccumulator, ViewPose
from tta_server.tasks.points.reader import PROBABILITIES, FoundPoints, PointReader
from tta_server.tasks.points.results import KeypointsResult
from tta_server.tasks.points.simcc import SimccReader
from tta_server.tasks.shapes import Outputs, Shapes
from tta_server.tasks.sums import Score, Soundness, SumSpec
from tta_server.views.geometry import Affine, Size

READERS: Mapping[str, Callable[[Sequence[str], PointsOutput, Shapes], PointReader]] = {
    "heatmaps": HeatMapReader,
    "coordinates": CoordinateReader,
    "simcc": SimccReader,
}
"""`output.kind` -> what reads it."""
SUMMED = {"logits": Score.SIGMOID, "probabilities": Score.VALUES, "raw": Score.CLIPPED}
"""`output.scores` -> what a graph sums of heat maps."""


class Keypoints(TaskDefaults):
    name = "keypoints"
    Output = PointsOutput
    sees_crops = False
    labels_are = "point"
    stops: Sequence[str] = ("all",)
    includes: Sequence[str] = ("views", "uncertainty", "drawing")

    def __init__(self, labels: Sequence[str], output: PointsOutput, outputs: Shapes) -> None:
        self.labels: Sequence[str] = tuple(labels)
        self._output = output
        self.merges: Sequence[str] = (
            ("mean_heatmaps", "mean_coordinates") if output.kind == "heatmaps" else ("mean_coordinates",)
        )
        self._mirror_order = mirror_order(labels, output.pairs)
        self._probabilities = PROBABILITIES[output.scores]
        self._reader = READERS[output.kind](labels, output, outputs)
        self.reads: Sequence[str] = self._reader.reads
        points = len(self.labels)
        self.tensor_specs: Sequence[TensorSpec] = (
            TensorSpec("KEYPOINTS", np.float32, (points, 2)),
            TensorSpec("CONFIDENCE", np.float32, (points,)),
            TensorSpec("VISIBLE", np.bool_, (points,)),
            TensorSpec("SPREAD", np.float32, (points,)),
            TensorSpec("VIEWS", np.int32, (points,)),
        )

    def check(self, outputs: Outputs, tensor: Size) -> None:
        self._reader.check(outputs, tensor)

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        return self._reader.findings(runs)

    def remarks(self, prediction: ViewPose) -> Sequence[Finding]:
        return prediction.remarks

    def decode(self, outputs: Outputs, row: int, placement: Placement, frame: ImageFrame) -> ViewPose:
        return self._on_image(self._reader.read(outputs, row, placement), placement, frame)

    def _pose(self, points: Points, placement: Placement, frame: ImageFrame, grid: OutputGrid) -> ViewPose:
        """Points in cells of a view's heat maps, in its own order."""
        return self._on_image(FoundPoints(*points, grid.to_pixels), placement, frame)

    def _on_image(self, found: FoundPoints, placement: Placement, frame: ImageFrame) -> ViewPose:
        to_image, to_view = _view_maps(placement, frame, found.to_pixels)
        order = self._plain_order(placement)
        with np.errstate(invalid="ignore"):  # is_sound finds infinities
            xy = to_image.apply(found.xy)
        return ViewPose(xy[order], found.confidence[order], to_view, placement.frame, found.maps, found.remarks)

    def _plain_order(self, placement: Placement) -> slice | NDArray[np.intp]:
        """Index of a view's points in the plain view's order of labels: what a mirror image calls left is right."""
        return self._mirror_order if placement.mirrors else slice(None)

    def move_maps(self, maps: HeatMaps) -> MovedMaps:
        """A view's heat maps as probabilities on the plain view's grid, in the plain view's order of labels."""
        moved = move_back(self._probabilities(maps.scores), maps.placement, maps.grid)
        return replace(moved, scores=moved.scores[self._plain_order(maps.placement)])

    def is_sound(self, prediction: ViewPose) -> bool:
        maps = prediction.maps is None or not np.isnan(prediction.maps.scores.min())
        return bool(maps and np.isfinite(prediction.xy).all() and np.isfinite(prediction.confidence).all())

    def accumulator(self, merge: str, spec: ResponseSpec, frame: ImageFrame) -> PoseAccumulator:
        return PoseAccumulator(merge, frame, self.move_maps, self._pose)

    def sums(self, merge: str, spec: ResponseSpec) -> SumSpec | None:
        if merge != "mean_heatmaps" or self._output.layout == "NHWC" or self.keeps_view_results(spec):
            return None
        order = tuple(int(index) for index in self._mirror_order)
        return SumSpec(
            self.reads[0], SUMMED[self._output.scores], Soundness.PEAKS, offset=self._output.offset, mirror_order=order
        )

    def merged_bytes(self, plain: Placement, spec: ResponseSpec) -> int:
        if self._output.kind != "heatmaps":
            return 0
        return 8 * len(self.labels) * round(plain.whole.area / (self._output.stride or 1) ** 2)

    def confidence(self, merged: MergedPose) -> float:
        """Mean over the points."""
        return float(np.clip(merged.confidence, 0, 1).mean())

    def keeps_view_results(self, spec: ResponseSpec) -> bool:
        return "views" in spec.include

    def view_result(self, prediction: ViewPose) -> ViewPose:
        return prediction.without_maps()

    def view_result_bytes(self, plain: Placement) -> int:
        return 24 * len(self.labels)

    def result(
        self, merged: MergedPose, views: Sequence[ViewPose], frame: ImageFrame, spec: ResponseSpec
    ) -> KeypointsResult:
        own = [np.column_stack([pose.xy, pose.confidence]) for pose in views]
        return KeypointsResult(
            labels=self.labels,
            size=frame.image,
            keypoints=merged.xy,
            confidence=np.clip(merged.confidence, 0, 1),
            visible=merged.confidence >= self._output.visible,
            spread=merged.spread,
            visible_in=merged.visible_in,
            view_keypoints=np.array(own, np.float64).reshape(len(own), len(self.labels), 3),
            uncertainty=self._uncertainty(merged) if "uncertainty" in spec.include else {},
        )

    def _uncertainty(self, merged: MergedPose) -> dict[str, Any]:
        """In the image's pixels."""
        spread = {label: round(float(s), 3) for label, s in zip(self.labels, merged.spread, strict=True)}
        return {"mean_spread": round(float(merged.spread.mean()), 3), "spread_by_keypoint": spread}


@lru_cache(maxsize=1024)
def _view_maps(placement: Placement, frame: ImageFrame, to_pixels: Affine) -> tuple[Affine, Affine]:
    """A view's points, which `to_pixels` maps to its input, -> the image's pixels; and these -> the view's frame."""
    inset = Affine.shift(-placement.inset[0], -placement.inset[1])
    to_image = to_pixels.then(inset.then(placement.to_plain).then(frame.to_image))
    return to_image, placement.to_plain.then(frame.to_image).inverse()
