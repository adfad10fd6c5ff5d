"""What classification and multilabel have in common: scores (N, C), or pooled maps of them -> probabilities (C,)."""

from collections.abc import Iterator, Sequence

import numpy as np

from tta_server.imaging.placement import Placement
from tta_server.tasks.base import Floats, ImageFrame, ResponseSpec, TaskDefaults, TensorSpec
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.scores.checks import score_findings, vector_remarks
from tta_server.tasks.scores.kinds import ScoreKind
from tta_server.tasks.scores.merging import check_bounded
from tta_server.tasks.shapes import Outputs, Shapes, check_vectors, output_name
from tta_server.views.geometry import Size
from tta_server.views.view import Weight


class ScoreVectors(TaskDefaults):
    """A task whose predictions are raw scores (C,)."""

    name: str
    sees_crops = True
    includes: Sequence[str] = ("views", "agreement", "probabilities", "uncertainty")

    def __init__(self, labels: Sequence[str], kind: ScoreKind, output: str | None, outputs: Shapes) -> None:
        self.labels: Sequence[str] = tuple(labels)
        self._kind = kind
        self._output = output_name(output, "name", outputs)
        self.reads: Sequence[str] = (self._output,)
        self._check_shape(outputs[self._output])
        self.tensor_specs: Sequence[TensorSpec] = (TensorSpec("PROBABILITIES", np.float32, (len(labels),)),)

    def _check_shape(self, found: Sequence[int | None]) -> None:
        labels = len(self.labels)
        check_vectors(f"{self.name} with {labels} labels", self._output, found, labels)

    def check(self, outputs: Outputs, tensor: Size) -> None:
        """Raises ConfigError unless a run gave [N, C], also with two axes of length 1."""
        self._check_shape(outputs[self._output].shape)

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]:
        rows = [run.outputs[self._output][0].reshape(-1) for run in runs]
        return score_findings(self._kind, rows, "set task: multilabel, in which a label is there or not")

    def remarks(self, prediction: Floats) -> Sequence[Finding]:
        return vector_remarks(self._kind, prediction)

    def decode(self, outputs: Outputs, row: int, placement: Placement, frame: ImageFrame) -> Floats:
        scores: Floats = outputs[self._output][row].astype(np.float32).reshape(-1)
        return scores

    def check_bounded(self, merge: str, weights: Sequence[Weight]) -> None:
        check_bounded(merge)

    def keeps_view_results(self, spec: ResponseSpec) -> bool:
        return not spec.include.isdisjoint(("views", "agreement", "uncertainty"))

    def view_result(self, prediction: Floats) -> Floats:
        return self._kind.probabilities(prediction)

    def view_result_bytes(self, plain: Placement) -> int:
        return 4 * len(self.labels)

    def _stacked(self, views: Sequence[Floats]) -> Floats:
        """Each view's own probabilities as one array (K, C)."""
        return np.array(views, np.float32).reshape(len(views), len(self.labels))
