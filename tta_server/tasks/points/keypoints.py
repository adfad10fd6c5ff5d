"""J named points: coordinates (N, J, 2 or 3) or heat maps (N, J, h, w) -> where each is, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import ConfigError
from tta_server.imaging.preprocessing import Placement
from tta_server.tasks.base import FORBID_EXTRA, ImageFrame, Outputs, ResponseSpec, TaskDefaults, TensorSpec
from tta_server.tasks.masks.maps import MovedMaps, crop_to_frame, move_back, output_grid
from tta_server.tasks.points.heatmaps import peaks
from tta_server.tasks.points.poses import HeatMaps, MergedPose, PoseAccumulator, ViewPose
from tta_server.tasks.points.results import KeypointsResult
from tta_server.tasks.scores.merging import sigmoid
from tta_server.tasks.shapes import Shapes, check_shape, fits, format_shape, output_name
from tta_server.views.geometry import Affine, Size

Doubles = NDArray[np.float64]
TINY = 1e-12


@dataclass(frozen=True, slots=True)
class PointsOutput:
    """`output:` of a model that gives keypoints.

    `scores` is what its heat maps or third coordinates are. Of heat maps, `stride` is the pixels of the input that a
    cell covers, and cell i's centre lies at pixel stride (i + `offset`). Of coordinates, `units` says whether they are
    pixels of the input or parts of its size. `pairs` are the labels that change places in a mirror image; `visible` is
    the least confidence of a point that is said to be seen.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    kind: Literal["heatmaps", "coordinates"]
    scores: Literal["logits", "probabilities"] = "probabilities"
    name: str | None = None
    stride: float | None = None
    offset: float = 0.5
    units: Literal["pixels", "normalized"] = "pixels"
    pairs: tuple[tuple[str, str], ...] | None = None
    visible: float = 0.3

    def __post_init__(self) -> None:
        if self.kind == "coordinates" and (self.stride is not None or self.offset != 0.5):
            raise ValueError("stride and offset are of heat maps; coordinates have none")
        if self.kind == "heatmaps" and self.units != "pixels":
            raise ValueError("units are of coordinates; heat maps have none")
        if self.stride is not None and not self.stride > 0:
            raise ValueError(f"stride is a number of pixels over 0, not {self.stride:g}")
        if not 0 <= self.offset <= 1:
            raise ValueError(f"offset is a part of a cell between 0 and 1, not {self.offset:g}")
        if not 0 <= self.visible <= 1:
            raise ValueError(f"visible is a confidence between 0 and 1, not {self.visible:g}")


class Keypoints(TaskDefaults):
    name = "keypoints"
    Output = PointsOutput
    sees_crops = False
    labels_are = "point"
    stops: Sequence[str] = ("all",)
    includes: Sequence[str] = ("views", "uncertainty", "drawing")

    def __init__(self, labels: Sequence[str], output: PointsOutput, outputs: Shapes) -> None:
        self.labels: Sequence[str] = tuple(labels)
        self._form = output
        self.merges: Sequence[str] = (
            ("mean_heatmaps", "mean_coordinates") if output.kind == "heatmaps" else ("mean_coordinates",)
        )
        self._mirror_order = _mirror_order(labels, output.pairs)
        self._output = output_name(output.name, "name", outputs)
        self._check_shape(outputs[self._output])
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
        if self._form.kind == "heatmaps":
            check_shape(f"keypoints with {points} labels", self._output, found, ["N", points, "h", "w"])
        elif not any(fits(found, ["N", points, n]) for n in (2, 3)):
            raise ConfigError(
                f"keypoints with {points} labels needs an output {self._output} of shape [N, {points}, 2] or "
                f"[N, {points}, 3]; the model gives {format_shape(found)}"
            )

    def check(self, outputs: Outputs, tensor: Size) -> None:
        """Raises ConfigError unless a run gave [N, J, h, w], or [N, J, 2 or 3], as is stated."""
        found = outputs[self._output]
        self._check_shape(found.shape)
        if self._form.kind == "heatmaps":
            self._check_stride(Size(found.shape[3], found.shape[2]), tensor)
        elif self._form.units == "normalized" and np.abs(found[..., :2]).max() > 4:
            raise ConfigError(
                f"output.units is normalized, but the model gives coordinates up to {np.abs(found[..., :2]).max():g}; "
                "are they pixels?"
            )
        levels = found if self._form.kind == "heatmaps" else found[..., 2:]
        if self._form.scores == "probabilities" and levels.size and (levels.min() < -0.1 or levels.max() > 1.5):
            raise ConfigError(
                f"output.scores is probabilities, but the model gives {levels.min():g} to {levels.max():g}; are they "
                "logits?"
            )

    def _check_stride(self, cells: Size, tensor: Size) -> None:
        stride = self._form.stride
        if stride is not None and cells != (round(tensor.width / stride), round(tensor.height / stride)):
            raise ConfigError(
                f"output.stride is {stride:g}, but the model gives {cells} cells for an input of {tensor}: a stride of "
                f"{tensor.width / cells.width:g} by {tensor.height / cells.height:g}"
            )

    def decode(self, outputs: Outputs, row: int, placement: Placement, frame: ImageFrame) -> ViewPose:
        found = outputs[self._output][row]
        to_image = Affine.shift(-placement.inset[0], -placement.inset[1]).then(placement.to_plain).then(frame.to_image)
        to_view = placement.to_plain.then(frame.to_image).inverse()
        if self._form.kind == "heatmaps":
            maps = found.astype(np.float32, copy=False)
            grid = output_grid(maps, placement, self._form.offset)
            inside, corner = crop_to_frame(maps, placement, grid)
            points, confidence = peaks(inside, self._probabilities)
            xy = grid.to_pixels.then(to_image).apply(points + corner)
            heat = HeatMaps(maps, placement, grid)
            return self._with_plain_names(ViewPose(xy, confidence, to_view, placement.frame, heat), placement)
        xy = found[:, :2].astype(np.float64)
        if self._form.units == "normalized":
            xy = xy * placement.tensor
        confidence = self._probabilities(found[:, 2].astype(np.float64)) if found.shape[1] == 3 else np.ones(len(xy))
        with np.errstate(invalid="ignore"):  # infinities are told of by is_sound
            xy = to_image.apply(xy)
        return self._with_plain_names(ViewPose(xy, confidence, to_view, placement.frame), placement)

    def _probabilities(self, scores: Any) -> Any:
        return sigmoid(scores) if self._form.scores == "logits" else scores

    def _with_plain_names(self, pose: ViewPose, placement: Placement) -> ViewPose:
        """What a mirror image calls left is right."""
        if not placement.mirrors:
            return pose
        return replace(pose, xy=pose.xy[self._mirror_order], confidence=pose.confidence[self._mirror_order])

    def move_maps(self, maps: HeatMaps) -> MovedMaps:
        """A view's heat maps as probabilities on the plain view's grid, under its names."""
        move_maps = move_back(self._probabilities(maps.scores), maps.placement, maps.grid)
        return replace(move_maps, scores=move_maps.scores[self._mirror_order]) if maps.placement.mirrors else move_maps

    def is_sound(self, prediction: ViewPose) -> bool:
        maps = prediction.maps is None or not np.isnan(prediction.maps.scores).any()
        return bool(maps and np.isfinite(prediction.xy).all() and np.isfinite(prediction.confidence).all())

    def accumulator(self, merge: str, spec: ResponseSpec, frame: ImageFrame) -> PoseAccumulator:
        return PoseAccumulator(merge, frame, self.move_maps)

    def merged_bytes(self, plain: Placement, spec: ResponseSpec) -> int:
        if self._form.kind == "coordinates":
            return 0
        return 8 * len(self.labels) * round(plain.whole.area / (self._form.stride or 1) ** 2)

    def confidence(self, merged: MergedPose) -> float:
        """The mean over the points."""
        return float(np.clip(merged.confidence, 0, 1).mean())

    def keeps_view_results(self, spec: ResponseSpec) -> bool:
        return "views" in spec.include

    def view_result(self, prediction: ViewPose) -> ViewPose:
        return replace(prediction, maps=None)

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
            visible=merged.confidence >= self._form.visible,
            spread=merged.spread,
            visible_in=merged.views,
            view_keypoints=np.array(own, np.float64).reshape(len(own), len(self.labels), 3),
            uncertainty=self._uncertainty(merged) if "uncertainty" in spec.include else {},
        )

    def _uncertainty(self, merged: MergedPose) -> dict[str, Any]:
        """In the image's pixels."""
        spread = {label: round(float(s), 3) for label, s in zip(self.labels, merged.spread, strict=True)}
        return {"mean_spread": round(float(merged.spread.mean()), 3), "spread_by_keypoint": spread}


def _mirror_order(labels: Sequence[str], pairs: Sequence[tuple[str, str]] | None) -> NDArray[np.intp]:
    """For each label the index of that which takes its place in a mirror image; raises ConfigError."""
    if pairs is None:
        sided = [label for label in labels if "left" in label.lower() or "right" in label.lower()]
        if sided:
            raise ConfigError(
                f"output.pairs is missing: labels like {sided[0]!r} change places in a mirror image, as in "
                "[[left_eye, right_eye]]; [] says that none do"
            )
        pairs = ()
    order = np.arange(len(labels))
    named = [label for pair in pairs for label in pair]
    for label in named:
        if label not in labels:
            raise ConfigError(f"output.pairs names {label!r}, which is none of the labels: {', '.join(labels)}")
        if named.count(label) > 1:
            raise ConfigError(f"output.pairs names {label!r} twice")
    for one, other in pairs:
        i, j = list(labels).index(one), list(labels).index(other)
        order[i], order[j] = j, i
    return order
