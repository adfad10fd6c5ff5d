"""The task seam: what a model's outputs mean, how they are moved back, merged and shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tta_server.geometry import Size
from tta_server.preprocessing import Placement
from tta_server.views import Weight

Floats = NDArray[np.float32]
Outputs = Mapping[str, NDArray[Any]]
"""A model's outputs by name; leading size 1 a view."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One image as its predictions are merged: its own size, and the plain view's placement."""

    image: Size
    plain: Placement


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the client wants to be told beyond the merged answer."""

    include: frozenset[str] = frozenset()
    top_k: int = 5


P = TypeVar("P")


Remaining = Sequence[tuple[Placement, Weight]]
"""The views that may still be merged."""


class Accumulator(Protocol[P]):
    """Merges predictions one at a time; the order matters only in the last bits."""

    def add(self, prediction: P, weight: Weight) -> None: ...

    def result(self) -> P:
        """What the predictions so far come to, in memory of its own; valid after any number >= 1."""

    def margin(self) -> float:
        """Lead of the top class over the second in merged probability; 0 where the task has no one top class."""

    def undecided(self, remaining: Remaining) -> float:
        """Share of the answer (its one label, or its pixels) whose top class those views could change. For bounded
        merges."""


@dataclass(slots=True)
class Answered:
    """A task's part of an answer: what goes into `prediction`, each view's own remark, a picture if it has one."""

    prediction: dict[str, Any]
    views: Sequence[dict[str, Any]] = ()
    picture: bytes | None = None


class Task(Protocol[P]):
    """One kind of model. P is one view's prediction, moved back into the plain view's frame."""

    name: str
    merges: Sequence[str]
    stops: Sequence[str]
    includes: Sequence[str]
    has_picture: bool

    def check(self, outputs: Outputs) -> None:
        """Raises ConfigError, saying what was found and expected, unless a run's outputs are this task's."""

    def decode(self, outputs: Outputs, row: int, placement: Placement, scene: Scene) -> P:
        """Row `row` of a batch's outputs as a prediction; NaN and infinities stay."""

    def is_sound(self, prediction: P) -> bool:
        """False where it holds NaN or +inf; -inf, a class ruled out, is fine."""

    def accumulator(self, merge: str, wanted: Wanted, scene: Scene) -> Accumulator[P]: ...

    def check_bounded(self, merge: str, weights: Sequence[Weight]) -> None:
        """Raises InvalidInput where nothing is certain before the last view."""

    def confidence(self, merged: P) -> float:
        """How sure an answer is of itself, in [0, 1]: the probability of the top class, the mean over the pixels."""

    def keeps_remarks(self, wanted: Wanted) -> bool:
        """Whether each view's own result is told, and so kept until the answer."""

    def remark(self, prediction: P) -> Any:
        """What is kept of one view where `keeps_remarks`."""

    def remark_bytes(self, plain: Placement) -> int:
        """How large a remark is."""

    def answer(self, merged: P, remarks: Sequence[Any], scene: Scene, wanted: Wanted) -> Answered: ...
