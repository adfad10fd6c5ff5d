"""J named points: coordinates (N, J, 2 or 3) or heat maps (N, J, h, w) -> a place and a confidence for each."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError
from tta_server.imaging.placement import Placement
from tta_server.tasks.base import ImageFrame, ResponseSpec, TaskDefaults, TensorSpec
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.masks.maps import MovedMaps, OutputGrid, crop_to_frame, map_size, move_back, output_grid
from tta_server.tasks.points.checks import find, remarks
from tta_server.tasks.points.heatmaps import peaks
from tta_server.tasks.points.output import PointsOutput, mirror_order
from tta_server.tasks.points.poses import HeatMaps, MergedPose, Points, PoseAccumulator, ViewPose
from tta_server.tasks.points.results import KeypointsResult
from tta_server.tasks.scores.kinds import sigmoid
from tta_server.tasks.shapes import Outputs, Shapes, check_shape, fits, format_shape, output_name
from tta_server.tasks.sums import Score, Soundness, SumSpec
from tta_server.views.geometry import Affine, Size

Doubles = NDArray[np.float64]


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
        self._name = output_name(output.name, "name", outputs)
        self.reads: Sequence[str] = (self._name,)
        self._check_shape(outputs[self._name])
        points = len(self.labels)
        self.tensor_specs: Sequence[TensorSpec] = (
            TensorSpec("KEYPOINTS", np.float32, (points, 2)),
            TensorSpec("CONFIDENCE", np.float32, (points,)),
            TensorSpec("VISIBLE", np.bool_, (points,)),
            TensorSpec("SPREAD", np.float32, (points,)),
            TensorSpec("VIEWS", np.int32, (points,)),
        )

    def _check_shape(self, found: Sequence[int | None]) -> None:
        points = len(self.labels)
        if self._output.kind == "heatmaps":
            check_shape(f"keypoints with {points} labels", self._name, found, ["N", points, "h", "w"])
        elif not any(fits(found, ["N", points, n]) for n in (2, 3)):
            raise ConfigError(
                f"keypoints with {points} labels needs an output {self._name} of shape [N, {points}, 2] or "
                f"[N, {points}, 3]; the model gives {format_shape(found)}"
            )

    def check(self, outputs: Outputs, tensor: Size) -> None:
        """Raises ConfigError unless a run gave [N, J, h, w] of the stated stride or [N, J, 2 or 3], as stated."""
        found = outputs[self._name]
        self._check_shape(found.shape)
        if self._output.kind == "heatmaps":
            self._check_stride(Size(found.shape[3], found.shape[2]), tensor)

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        return find(self._output, self._name, runs)

    def remarks(self, prediction: ViewPose) -> Sequence[Finding]:
        return prediction.remarks

    def _check_stride(self, cells: Size, tensor: Size) -> None:
        stride = self._output.stride
        if stride is not None and cells != (round(tensor.width / stride), round(tensor.height / stride)):
            raise ConfigError(
                f"output.stride is {stride:g}, but the model gives {cells} cells for an input of {tensor}: a stride of "
                f"{tensor.width / cells.width:g} by {tensor.height / cells.height:g}"
            )

    def decode(self, outputs: Outputs, row: int, placement: Placement, frame: ImageFrame) -> ViewPose:
        found = outputs[self._name][row]
        if self._output.kind == "heatmaps":
            maps = found.astype(np.float32, copy=False)
            grid = output_grid(map_size(maps), placement, self._output.offset)
            inside, corner = crop_to_frame(maps, placement, grid)
            points, confidence = peaks(inside, self._probabilities)
            pose = self._pose((points + corner, confidence), placement, frame, grid)
            return replace(pose, maps=HeatMaps(maps, placement, grid))
        xy = found[:, :2].astype(np.float64)
        doubts = remarks(xy, self._output)
        if self._output.order == "yx":
            xy = xy[:, ::-1]
        if self._output.units == "normalized":
            xy = xy * placement.tensor
        confidence = self._probabilities(found[:, 2].astype(np.float64)) if found.shape[1] == 3 else np.ones(len(xy))
        return replace(self._on_image((xy, confidence), placement, frame, Affine()), remarks=doubts)

    def _pose(self, points: Points, placement: Placement, frame: ImageFrame, grid: OutputGrid) -> ViewPose:
        """Points in cells of a view's heat maps, in its own order."""
        return self._on_image(points, placement, frame, grid.to_pixels)

    def _on_image(self, points: Points, placement: Placement, frame: ImageFrame, to_pixels: Affine) -> ViewPose:
        """Points in its own order; `to_pixels` maps them to pixels of a view's input."""
        from_frame = placement.to_plain.then(frame.to_image)
        to_image = from_frame
        if placement.inset != (0, 0):
            inset = Affine.shift(-placement.inset[0], -placement.inset[1])
            to_image = inset.then(placement.to_plain).then(frame.to_image)
        order, (xy, confidence) = self._plain_order(placement), points
        with np.errstate(invalid="ignore"):  # is_sound finds infinities
            xy = to_pixels.then(to_image).apply(xy)
        return ViewPose(xy[order], confidence[order], from_frame.inverse(), placement.frame)

    def _probabilities(self, scores: Any) -> Any:
        return sigmoid(scores) if self._output.scores == "logits" else scores

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
        if merge != "mean_heatmaps" or self.keeps_view_results(spec):
            return None
        score = Score.SIGMOID if self._output.scores == "logits" else Score.VALUES
        order = tuple(int(index) for index in self._mirror_order)
        return SumSpec(self._name, score, Soundness.PEAKS, offset=self._output.offset, mirror_order=order)

    def merged_bytes(self, plain: Placement, spec: ResponseSpec) -> int:
        if self._output.kind == "coordinates":
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
