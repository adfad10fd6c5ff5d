"""Any of C labels: scores (N, C) -> probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tta_server.tasks import uncertainty
from tta_server.tasks.base import Floats, ImageFrame, NoEvidence, Remaining, ResponseSpec, TensorSpec
from tta_server.tasks.scores.kinds import LABEL_KINDS, SLACK, LabelsOutput, are_numbers
from tta_server.tasks.scores.merging import LABEL_MERGES, ScoreAccumulator, label_merges
from tta_server.tasks.scores.results import MultilabelResult
from tta_server.tasks.scores.sums import label_sums
from tta_server.tasks.scores.vectors import ScoreVectors
from tta_server.tasks.shapes import Shapes
from tta_server.tasks.sums import Sums, SumSpec
from tta_server.views.view import Weight


class LabelAccumulator(NoEvidence):
    """A ScoreAccumulator of one vector, and which labels could still cross the threshold."""

    def __init__(self, scores: ScoreAccumulator, threshold: float) -> None:
        self._scores = scores
        self._threshold = threshold

    def add(self, prediction: Floats, weight: Weight) -> None:
        self._scores.add(prediction, weight)

    def add_sums(self, sums: Sums) -> None:
        self._scores.add_sums(sums.total, sums.weights)

    def result(self) -> Floats:
        return self._scores.result()

    def undecided(self, remaining: Remaining) -> float:
        """Share of the labels that the remaining views could move across the threshold."""
        weights = np.zeros((), np.float32)
        for _, weight in remaining:
            weights = weights + np.asarray(weight, np.float32)
        least, most = self._scores.bounds(weights)
        return float(np.mean((least < self._threshold + SLACK) & (most >= self._threshold - SLACK)))


class Multilabel(ScoreVectors):
    name = "multilabel"
    Output = LabelsOutput
    labels_are = "label"
    merges: Sequence[str] = LABEL_MERGES
    stops: Sequence[str] = ("all", "certain")

    def __init__(self, labels: Sequence[str], output: LabelsOutput, outputs: Shapes) -> None:
        super().__init__(labels, LABEL_KINDS[output.kind], output.name, outputs)
        self.tensor_specs = (*self.tensor_specs, TensorSpec("PRESENT", np.bool_, (len(labels),)))
        self._threshold = output.threshold
        self._merges = label_merges(output.threshold)

    def is_sound(self, prediction: Floats) -> bool:
        return are_numbers(prediction)

    def accumulator(self, merge: str, spec: ResponseSpec, frame: ImageFrame) -> LabelAccumulator:
        return LabelAccumulator(ScoreAccumulator(self._merges[merge], self._kind), self._threshold)

    def sums(self, merge: str, spec: ResponseSpec) -> SumSpec | None:
        if self.keeps_view_results(spec):
            return None
        return label_sums(self._output, self._kind, merge, self._threshold)

    def confidence(self, merged: Floats) -> float:
        """Probability that a label is answered right, the mean over the labels."""
        return float(np.where(merged >= self._threshold, merged, 1 - merged).mean())

    def result(
        self, merged: Floats, views: Sequence[Floats], frame: ImageFrame, spec: ResponseSpec
    ) -> MultilabelResult:
        own = self._stacked(views)
        return MultilabelResult(
            labels=self.labels,
            probabilities=merged,
            threshold=self._threshold,
            view_probabilities=own,
            agreement=float(self._agreement(merged, own).mean()) if len(own) else None,
            uncertainty=self._uncertainty(merged, own) if "uncertainty" in spec.include else {},
        )

    def _agreement(self, merged: Floats, own: Floats) -> Floats:
        """For each label the share of the views, of probabilities (K, C), that put it on the merged side."""
        share: Floats = ((own >= self._threshold) == (merged >= self._threshold)).mean(axis=0, dtype=np.float32)
        return share

    def _uncertainty(self, merged: Floats, own: Floats) -> dict[str, Any]:
        spread = uncertainty.deviation(own.astype(np.float64))
        agreement = self._agreement(merged, own)
        return {
            **uncertainty.of_labels(own),
            "agreement": uncertainty.rounded(agreement.mean()),
            "by_label": {
                label: {"std": uncertainty.rounded(std), "agreement": uncertainty.rounded(share)}
                for label, std, share in zip(self.labels, spread, agreement, strict=True)
            },
        }
