"""A class, or any of several labels, for every pixel: maps at the input's size or a fraction of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.errors import InvalidInput
from tta_server.imaging.placement import Placement
from tta_server.tasks import uncertainty
from tta_server.tasks.base import ImageFrame, ResponseSpec, TaskDefaults, TensorSpec
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.masks.accumulator import MapAccumulator
from tta_server.tasks.masks.class_maps import VOTES, VoteAccumulator
from tta_server.tasks.masks.decoders import ArgmaxDecoder, MaskDecoder, ThresholdDecoder, VoteDecoder
from tta_server.tasks.masks.maps import MapPrediction, ScoreMaps
from tta_server.tasks.masks.output import MapsOutput
from tta_server.tasks.masks.readers import make_reader
from tta_server.tasks.masks.results import MaskResult, ProbabilityMaps
from tta_server.tasks.scores.kinds import CLASS_KINDS, LABEL_KINDS, ScoreKind
from tta_server.tasks.scores.merging import MERGES, Merge, ScoreAccumulator, check_bounded, label_merges
from tta_server.tasks.scores.sums import class_sums, label_sums
from tta_server.tasks.shapes import Outputs, Shapes
from tta_server.tasks.sums import SumSpec
from tta_server.views.geometry import Size
from tta_server.views.view import Weight

ViewLabels = tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.bool_] | None]
"""A view's own classes (h, w), and which cells it shows, None for all."""


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
        self._kind, self._merges, self._decoder = _merging(labels, output)
        if output.multilabel:
            self.includes = tuple(name for name in self.includes if name != "views")
        self.tensor_specs: Sequence[TensorSpec] = (
            self._decoder.spec,
            TensorSpec("AREA", np.int64, (len(labels),)),
            TensorSpec("AGREEMENT", np.float32, (None, None), per_pixel=True, usual=False),
            TensorSpec("PROBABILITIES", np.float32, (len(labels), None, None), per_pixel=True, usual=False),
        )
        self.merges: Sequence[str] = tuple(self._merges)
        self.has_picture = not output.multilabel
        self._reader = make_reader(len(labels), output, outputs)
        self.reads: Sequence[str] = self._reader.reads

    def check(self, outputs: Outputs, tensor: Size) -> None:
        """Raises ConfigError unless a run's outputs have the shapes of `output.kind`."""
        self._reader.check({name: outputs[name].shape for name in self.reads})

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        return self._reader.findings(runs)

    def remarks(self, prediction: MapPrediction) -> Sequence[Finding]:
        return self._reader.remarks(prediction)

    def decode(self, outputs: Outputs, row: int, placement: Placement, frame: ImageFrame) -> MapPrediction:
        return self._reader.decode(outputs, row, placement)

    def is_sound(self, prediction: MapPrediction) -> bool:
        return self._reader.is_sound(prediction)

    def accumulator(self, merge: str, spec: ResponseSpec, frame: ImageFrame) -> MapAccumulator:
        votes = self._scores("vote") if _counts_votes(spec) else None
        return MapAccumulator(self._scores(merge), votes, frame, self._decoder)

    def _scores(self, merge: str) -> ScoreAccumulator:
        if self._merges is VOTES:
            return VoteAccumulator(len(self.labels))
        return ScoreAccumulator(self._merges[merge], self._kind)

    def sums(self, merge: str, spec: ResponseSpec) -> SumSpec | None:
        if self.keeps_view_results(spec) or _counts_votes(spec) or not self._reader.sums_apply:
            return None
        (output,) = self.reads
        if self._kind.exclusive:
            found = class_sums(output, self._kind, merge)
        else:
            found = label_sums(output, self._kind, merge, self._threshold)
        return found and replace(found, offset=self._offset, by_class=False)

    def merged_bytes(self, plain: Placement, spec: ResponseSpec) -> int:
        """Sums and their mean, and as much for votes, as if a cell were a pixel; of votes of classes also a copy."""
        sums = 8 * len(self.labels) * plain.whole.area * (1 + _counts_votes(spec))
        return sums + 4 * len(self.labels) * plain.whole.area * (self._merges is VOTES)

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

    def view_result(self, prediction: MapPrediction) -> ViewLabels:
        dtype: type[np.unsignedinteger[Any]] = np.uint8 if len(self.labels) <= 256 else np.uint16
        own = prediction.top_classes.astype(dtype)
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


def _merging(labels: Sequence[str], output: MapsOutput) -> tuple[ScoreKind, Mapping[str, Merge], MaskDecoder]:
    """What the maps that are merged hold, the merges, and how a merged map is read."""
    if output.multilabel:
        merges = label_merges(output.threshold)
        return LABEL_KINDS[output.kind], merges, ThresholdDecoder(labels, output.threshold)
    if output.kind == "classes":
        return CLASS_KINDS["probabilities"], VOTES, VoteDecoder(labels)
    kind = CLASS_KINDS["probabilities" if output.kind == "queries" else output.kind]
    return kind, MERGES, ArgmaxDecoder(labels)


def _counts_votes(spec: ResponseSpec) -> bool:
    """Whether the views' votes are counted."""
    return "AGREEMENT" in spec.tensors or not spec.include.isdisjoint(("agreement", "uncertainty"))


def _keeps_maps(spec: ResponseSpec) -> bool:
    """Whether every pixel's probabilities are requested."""
    return "PROBABILITIES" in spec.tensors or "probabilities" in spec.include


def _view_agreements(views: Sequence[ViewLabels], merged: ScoreMaps) -> list[float | None]:
    if not views:
        return []
    classes = merged.top_classes
    return [_shared_cells(own, classes) for own in views]


def _shared_cells(own: ViewLabels, merged: NDArray[Any]) -> float | None:
    """Share of the cells that a view shows where its own class is the merged one; None if it shows none."""
    classes, shown = own
    agrees = classes == merged if shown is None else (classes == merged)[shown]
    return float(agrees.mean()) if agrees.size else None
