"""One of C classes: scores (N, C) -> probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks import uncertainty
from tta_server.tasks.base import ImageFrame, NoEvidence, Remaining, ResponseSpec, TensorSpec
from tta_server.tasks.scores.kinds import CLASS_KINDS, SLACK, ScoresOutput, is_finite
from tta_server.tasks.scores.merging import MERGES, ScoreAccumulator
from tta_server.tasks.scores.results import ClassificationResult
from tta_server.tasks.scores.sums import class_sums
from tta_server.tasks.scores.vectors import ScoreVectors
from tta_server.tasks.shapes import Shapes
from tta_server.tasks.sums import Sums, SumSpec
from tta_server.views.view import Weight

Scores = NDArray[np.float32]
"""(C,): raw scores of one view, or merged probabilities."""


class ClassAccumulator(NoEvidence):
    """A ScoreAccumulator of one vector, and the lead of its top class."""

    def __init__(self, scores: ScoreAccumulator) -> None:
        self._scores = scores

    def add(self, prediction: Scores, weight: Weight) -> None:
        self._scores.add(prediction, weight)

    def add_sums(self, sums: Sums) -> None:
        self._scores.add_sums(sums.total, sums.weights)

    def result(self) -> Scores:
        return self._scores.result()

    def margin(self) -> float:
        merged = self.result()
        if len(merged) == 1:
            return 1.0
        merged.partition(-2)
        return float(merged[-1] - merged[-2])

    def undecided(self, remaining: Remaining) -> float:
        """1 if the most that a rival can become reaches the least that the leader can, else 0."""
        weights = np.zeros((), np.float32)
        for _, weight in remaining:
            weights = weights + np.asarray(weight, np.float32)
        least, most = self._scores.bounds(weights)
        leader = int(self.result().argmax())
        rivals = np.delete(most, leader)
        return 0.0 if not rivals.size or least[leader] - rivals.max() > SLACK else 1.0


class Classification(ScoreVectors):
    name = "classification"
    Output = ScoresOutput
    labels_are = "class"
    merges: Sequence[str] = tuple(MERGES)
    stops: Sequence[str] = ("all", "certain", "epsilon")

    def __init__(self, labels: Sequence[str], output: ScoresOutput, outputs: Shapes) -> None:
        super().__init__(labels, CLASS_KINDS[output.kind], output.name, outputs)
        self.tensor_specs = (
            *self.tensor_specs,
            TensorSpec("LABEL", np.object_, (1,)),
            TensorSpec("INDEX", np.int32, (1,)),
        )

    def is_sound(self, prediction: Scores) -> bool:
        return is_finite(prediction)

    def accumulator(self, merge: str, spec: ResponseSpec, frame: ImageFrame) -> ClassAccumulator:
        return ClassAccumulator(ScoreAccumulator(MERGES[merge], self._kind))

    def sums(self, merge: str, spec: ResponseSpec) -> SumSpec | None:
        if self.keeps_view_results(spec):
            return None
        return class_sums(self._output, self._kind, merge)

    def confidence(self, merged: Scores) -> float:
        return float(merged.max())

    def result(
        self, merged: Scores, views: Sequence[Scores], frame: ImageFrame, spec: ResponseSpec
    ) -> ClassificationResult:
        own = self._stacked(views)
        agreement = _agreement(own, int(merged.argmax())) if len(own) else None
        return ClassificationResult(
            labels=self.labels,
            probabilities=merged,
            view_probabilities=own,
            agreement=agreement,
            uncertainty=_uncertainty(merged, own) if "uncertainty" in spec.include else {},
        )


def _agreement(own: Scores, top: int) -> float:
    """Share of the views' probabilities (K, C) whose top class is the merged one."""
    return float((own.argmax(axis=1) == top).mean())


def _uncertainty(merged: Scores, own: Scores) -> dict[str, Any]:
    order = np.argsort(-merged, kind="stable")  # ties to the lower class
    top, *rest = merged[order[:2]]
    return {
        **uncertainty.of_classes(own),
        "margin": uncertainty.rounded(top - rest[0] if rest else 1.0),
        "agreement": uncertainty.rounded(_agreement(own, int(order[0]))),
    }
