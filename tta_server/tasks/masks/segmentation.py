"""A class, or any of several labels, for every pixel: scores (N, C, h, w) at the input's size or a fraction of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import InvalidInput
from tta_server.imaging.placement import Placement
from tta_server.tasks import uncertainty
from tta_server.tasks.base import FORBID_EXTRA, ImageFrame, ResponseSpec, TaskDefaults, TensorSpec
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.masks.accumulator import MapAccumulator
from tta_server.tasks.masks.checks import stride_findings
from tta_server.tasks.masks.decoders import ArgmaxDecoder, MaskDecoder, ThresholdDecoder
from tta_server.tasks.masks.maps import ScoreMaps, map_size, move_back, output_grid
from tta_server.tasks.masks.results import MaskResult, ProbabilityMaps
from tta_server.tasks.scores.checks import range_remarks, score_findings
from tta_server.tasks.scores.kinds import CLASS_KINDS, LABEL_KINDS, are_numbers, is_finite
from tta_server.tasks.scores.merging import MERGES, Merge, ScoreAccumulator, check_bounded, label_merges
from tta_server.tasks.scores.sums import class_sums, label_sums
from tta_server.tasks.shapes import Outputs, Shapes, check_shape, output_name
from tta_server.tasks.sums import SumSpec
from tta_server.views.geometry import Size
from tta_server.views.view import Weight

ViewLabels = tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.bool_] | None]
"""A view's own classes (h, w), and which cells it shows, None for all."""


@dataclass(frozen=True, slots=True)
class MapsOutput:
    """`output:` of a model that scores pixels.

    With `multilabel` labels may overlap: each is where its probability reaches `threshold`. `offset` is the place of a
    score in its cell (see `maps.OutputGrid`).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID_EXTRA

    kind: Literal["logits", "probabilities"]
    name: str | None = None
    multilabel: bool = False
    threshold: float = 0.5
    offset: float = 0.5

    def __post_init__(self) -> None:
        for key in ("threshold", "offset"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key} takes a number from 0 to 1, not {getattr(self, key):g}")


class Segmentation(TaskDefaults):
    name = "segmentation"
    Output = MapsOutput
    sees_crops = False
    can_tile = True
    labels_are = "class"
    stops: Sequence[str] = ("all", "certain", "open")
    includes: Sequence[str] = ("views", "agreement", "probabilities", "uncertainty", "drawing")

    def __init__(self, labels: Sequence[str], output: MapsOutput, outputs: Shapes) -> None:
        self.labels: Sequence[str] = tuple(labels)
        self._offset, self._threshold = output.offset, output.threshold
        self._decoder: MaskDecoder = ArgmaxDecoder(labels)
        self._kind = CLASS_KINDS[output.kind]
        self._is_sound = is_finite
        self._merges: Mapping[str, Merge] = MERGES
        if output.multilabel:
            self._decoder = ThresholdDecoder(labels, output.threshold)
            self._is_sound = are_numbers
            self._kind = LABEL_KINDS[output.kind]
            self._merges = label_merges(output.threshold)
            self.includes = tuple(name for name in self.includes if name != "views")
        self._mask = self._decoder.spec
        self.tensor_specs: Sequence[TensorSpec] = (
            self._mask,
            TensorSpec("AREA", np.int64, (len(labels),)),
            TensorSpec("AGREEMENT", np.float32, (None, None), per_pixel=True, usual=False),
            TensorSpec("PROBABILITIES", np.float32, (len(labels), None, None), per_pixel=True, usual=False),
        )
        self.merges: Sequence[str] = tuple(self._merges)
        self.has_picture = not output.multilabel
        self._output = output_name(output.name, "name", outputs)
        self.reads: Sequence[str] = (self._output,)
        self._check_shape(outputs[self._output])

    def _check_shape(self, found: Sequence[int | None]) -> None:
        labels = len(self.labels)
        check_shape(f"segmentation with {labels} labels", self._output, found, ["N", labels, "h", "w"])

    def check(self, outputs: Outputs, tensor: Size) -> None:
        """Raises ConfigError unless a run gave [N, C, h, w]."""
        self._check_shape(outputs[self._output].shape)

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        yield from stride_findings(runs, self._output)
        maps = [run.outputs[self._output][0] for run in runs]
        yield from score_findings(self._kind, maps, "set output.multilabel: true, which marks where the label is")

    def remarks(self, prediction: ScoreMaps) -> Sequence[Finding]:
        return range_remarks(self._kind, prediction.scores)

    def decode(self, outputs: Outputs, row: int, placement: Placement, frame: ImageFrame) -> ScoreMaps:
        scores = outputs[self._output][row].astype(np.float32, copy=False)
        grid = output_grid(map_size(scores), placement, self._offset)
        moved = move_back(scores, placement, grid)
        return ScoreMaps(moved.scores, moved.coverage, grid=grid, corner=moved.corner)

    def is_sound(self, prediction: ScoreMaps) -> bool:
        return self._is_sound(prediction.scores)

    def accumulator(self, merge: str, spec: ResponseSpec, frame: ImageFrame) -> MapAccumulator:
        return MapAccumulator(
            ScoreAccumulator(self._merges[merge], self._kind),
            ScoreAccumulator(self._merges["vote"], self._kind) if _counts_votes(spec) else None,
            frame,
            self._decoder,
        )

    def sums(self, merge: str, spec: ResponseSpec) -> SumSpec | None:
        if self.keeps_view_results(spec) or _counts_votes(spec):
            return None
        if self._kind.exclusive:
            found = class_sums(self._output, self._kind, merge)
        else:
            found = label_sums(self._output, self._kind, merge, self._threshold)
        return found and replace(found, offset=self._offset, by_class=False)

    def merged_bytes(self, plain: Placement, spec: ResponseSpec) -> int:
        """Sums and their mean, and as much for votes, as if a cell were a pixel."""
        return 8 * len(self.labels) * plain.whole.area * (1 + _counts_votes(spec))

    def check_bounded(self, merge: str, weights: Sequence[Weight]) -> None:
        """Also refuses weights by class.

        They are made to sum to 1 in each cell, and interpolation between cells breaks the bound.
        """
        check_bounded(merge)
        if any(isinstance(weight, tuple) for weight in weights):
            raise InvalidInput(
                "stop certain takes one weight a view: with weights by class no pixel is certain before the last view"
            )

    def confidence(self, merged: ScoreMaps) -> float:
        return self._decoder.confidence(merged.scores)

    def keeps_view_results(self, spec: ResponseSpec) -> bool:
        return "views" in spec.include and self.has_picture

    def view_result(self, prediction: ScoreMaps) -> ViewLabels:
        own = prediction.scores.argmax(axis=0).astype(np.uint8 if len(self.labels) <= 256 else np.uint16)
        return own, None if prediction.coverage is None else prediction.coverage > 0

    def view_result_bytes(self, plain: Placement) -> int:
        return (2 if len(self.labels) <= 256 else 3) * plain.frame.area

    def result(
        self, merged: ScoreMaps, views: Sequence[ViewLabels], frame: ImageFrame, spec: ResponseSpec
    ) -> MaskResult:
        mask = self._decoder.mask(merged, frame)
        agreement, unsure = None, {}
        if merged.votes is not None:
            agreement, by_class = self._decoder.agreement(merged, mask, frame)
            unsure = {"agreement": uncertainty.rounded(agreement.mean()), "agreement_by_class": by_class}
        return self._decoder.result(
            mask,
            agreement=agreement,
            view_agreements=_view_agreements(views, merged),
            probability_maps=ProbabilityMaps(merged.scores, merged.grid, frame) if _keeps_maps(spec) else None,
            uncertainty=unsure if "uncertainty" in spec.include else {},
        )


def _counts_votes(spec: ResponseSpec) -> bool:
    """Whether the views' votes are counted."""
    return "AGREEMENT" in spec.tensors or not spec.include.isdisjoint(("agreement", "uncertainty"))


def _keeps_maps(spec: ResponseSpec) -> bool:
    """Whether every pixel's probabilities are requested."""
    return "PROBABILITIES" in spec.tensors or "probabilities" in spec.include


def _view_agreements(views: Sequence[ViewLabels], merged: ScoreMaps) -> list[float | None]:
    if not views:
        return []
    labels = merged.scores.argmax(axis=0)
    return [_shared_cells(own, labels) for own in views]


def _shared_cells(own: ViewLabels, merged: NDArray[np.intp]) -> float | None:
    """Share of the cells that a view shows where its own class is the merged one; None if it shows none."""
    classes, shown = own
    agrees = classes == merged if shown is None else (classes == merged)[shown]
    return float(agrees.mean()) if agrees.size else None
