"""What classification and multilabel answer, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_server.tasks.base import Floats, Result


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassificationResult(Result):
    """One of C classes.

    `probabilities` (C,) float32 are merged over the views, in the order of `labels`; shares of the votes for merge
    `vote`. `view_probabilities` (K, C) float32 are each view's own. `agreement` is the share of the views whose own top
    class is the merged one; None where `view_probabilities` is empty.
    """

    labels: Sequence[str]
    probabilities: Floats
    view_probabilities: Floats
    agreement: float | None

    @property
    def index(self) -> int:
        """The most probable class, ties to the lower."""
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        return self.labels[self.index]


@dataclass(frozen=True, eq=False, kw_only=True)
class MultilabelResult(Result):
    """Any of C labels.

    `probabilities` (C,) float32 are merged over the views, in the order of `labels`; shares of the votes for merge
    `vote`. `present` (C,) bool: whether each reaches `threshold`. `view_probabilities` (K, C) float32 are each view's
    own. `agreement` is the share of the views that put a label on the merged side of the threshold, the mean over the
    labels; None where `view_probabilities` is empty.
    """

    labels: Sequence[str]
    probabilities: Floats
    threshold: float
    view_probabilities: Floats
    agreement: float | None

    @property
    def present(self) -> NDArray[np.bool_]:
        return self.probabilities >= self.threshold
