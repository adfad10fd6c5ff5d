"""What reads the outputs of keypoint models: a reader for each kind, and what it finds of one view."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tta_server.imaging.placement import Placement
from tta_server.tasks.checks import CardRun, Finding
from tta_server.tasks.points.poses import HeatMaps
from tta_server.tasks.scores.kinds import identity, sigmoid
from tta_server.tasks.shapes import Outputs
from tta_server.views.geometry import Affine, Size

Doubles = NDArray[np.float64]


def clipped(scores: Any) -> Any:
    """Scores between 0 and 1."""
    return np.clip(scores, 0, 1)


PROBABILITIES: Mapping[str, Callable[[Any], Any]] = {"logits": sigmoid, "probabilities": identity, "raw": clipped}
"""`output.scores` -> what makes probabilities of scores of any shape, rising."""


def confidence_of(scores: NDArray[Any], stated: str) -> Doubles:
    """Scores (J,) as probabilities; NaN and +inf stay, so that they are found."""
    numbers = scores.astype(np.float64)
    return np.where(numbers == inf, numbers, PROBABILITIES[stated](numbers))


@dataclass(frozen=True, slots=True)
class FoundPoints:
    """The points of one view in the model's own order of labels: `xy` (J, 2), `confidence` (J,).

    `to_pixels` maps `xy` to pixels of the view's input. `maps` and `remarks` are those of ViewPose.
    """

    xy: Doubles
    confidence: Doubles
    to_pixels: Affine = field(default_factory=Affine)
    maps: HeatMaps | None = None
    remarks: Sequence[Finding] = ()


class PointReader(Protocol):
    """Reads one kind of output; made of labels, `output:` and stated shapes, which raises ConfigError as a task does.

    Its members are those of a task's Decoder.
    """

    reads: Sequence[str]

    def check(self, outputs: Outputs, tensor: Size) -> None: ...

    def findings(self, runs: Sequence[CardRun]) -> Iterator[Finding]: ...

    def read(self, outputs: Outputs, row: int, placement: Placement) -> FoundPoints:
        """The points of row `row` of a batch; NaN and infinities stay."""
