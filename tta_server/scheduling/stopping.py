"""Why a job stops, and the rules that decide after each merge whether more views can matter. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, floor, inf, sqrt
from typing import Any, Protocol

from tta_server.errors import InvalidInput, shown

MAX_SPEC = 64
"""The most characters of a stop rule in a request."""


class StopReason(StrEnum):
    """Why no more views of a job run; the receipt's `stop_reason`."""

    ALL_VIEWS = "all_views"
    CERTAIN = "certain"
    CONFIDENT = "confident"
    SETTLED = "settled"
    PRECISE = "precise"
    DEADLINE = "deadline"
    CAPACITY = "capacity"
    BACKEND_FAILED = "backend_failed"

    @property
    def is_lack_of_time(self) -> bool:
        """True if more time or more slots would have brought more views."""
        return self in (StopReason.DEADLINE, StopReason.CAPACITY)


class Evidence(Protocol):
    """Figures of the merged views that rules decide by; each is computed on demand."""

    def margin(self) -> float:
        """Lead of the top class over the second in merged probability, in [0, 1]."""

    def views_in_order(self) -> int:
        """The number of merged views if they are the policy's first; 0 if views were merged out of order."""

    def undecided(self) -> float:
        """Share of the answer (its one label, or its pixels) whose top class the remaining views could change."""

    def standard_error(self) -> float:
        """Standard error of the mean over the views, in the answer's unit; infinite for one view."""


class StopRule(Protocol):
    """Decides after each merge whether to stop."""

    def decide(self, evidence: Evidence) -> StopReason | None:
        """The reason to stop before the remaining views; None to continue."""

    def expected_views(self, evidence: Evidence | None, done: int, planned: int) -> int:
        """After how many of the planned views it is expected to stop, if the margin stays as it is; over `done`.

        Of the views that it may stop before, a batch gets one at a time. None for `evidence`: nothing is merged.
        """


@dataclass(frozen=True, slots=True)
class All:
    """Never stops: every view that the budget allows runs."""

    def decide(self, evidence: Evidence) -> StopReason | None:
        return None

    def expected_views(self, evidence: Evidence | None, done: int, planned: int) -> int:
        return planned


@dataclass(frozen=True, slots=True)
class Certain:
    """Stops when the remaining views can't change the top label, or the mask. Scores may still change."""

    def decide(self, evidence: Evidence) -> StopReason | None:
        return StopReason.CERTAIN if evidence.undecided() == 0 else None

    def expected_views(self, evidence: Evidence | None, done: int, planned: int) -> int:
        """Of equal views, k with a mean lead m decide once k * m exceeds the weight of the rest, planned - k."""
        lead = (evidence.margin() if evidence else 0.0) or 1.0  # 0: the task has no one top class
        return max(done, floor(planned / (1 + lead))) + 1


@dataclass(frozen=True, slots=True)
class Settled:
    """Stops when at most `share` of the pixels can still change."""

    share: float

    def decide(self, evidence: Evidence) -> StopReason | None:
        return StopReason.SETTLED if evidence.undecided() <= self.share else None

    def expected_views(self, evidence: Evidence | None, done: int, planned: int) -> int:
        """No pixel is decided before more than half of the views cover it."""
        return max(done, planned // 2) + 1


@dataclass(frozen=True, slots=True)
class Confident:
    """Stops when the margin times the square root of the number of views reaches a calibrated threshold.

    The mean of more views varies less, so the same margin is stronger evidence: on cifar10 this takes a tenth fewer
    views than a threshold on the margin alone, at the same error rate. Calibration merges in the policy's order, so
    views merged out of order don't count.
    """

    threshold: float

    def decide(self, evidence: Evidence) -> StopReason | None:
        views = evidence.views_in_order()
        return StopReason.CONFIDENT if views and evidence.margin() * sqrt(views) >= self.threshold else None

    def expected_views(self, evidence: Evidence | None, done: int, planned: int) -> int:
        margin = evidence.margin() if evidence else 1.0
        needed = ceil((self.threshold / margin) ** 2) if margin > self.threshold / planned else planned
        return max(done + 1, needed)


@dataclass(frozen=True, slots=True)
class Precise:
    """Stops when the standard error of the mean over the views is at most `tolerance`, in the answer's unit."""

    tolerance: float

    def decide(self, evidence: Evidence) -> StopReason | None:
        return StopReason.PRECISE if evidence.standard_error() <= self.tolerance else None

    def expected_views(self, evidence: Evidence | None, done: int, planned: int) -> int:
        """One view has no standard error, which of more falls with the square root of their number."""
        error = evidence.standard_error() if evidence else inf
        needed = ceil(done * (error / self.tolerance) ** 2) if error < self.tolerance * planned else 2
        return max(done + 1, needed)


@dataclass(frozen=True, slots=True)
class StopSpec:
    """A rule as configuration and requests write it: a word, or a name with its number."""

    name: str
    value: float | None = None

    def to_json(self) -> str | dict[str, float]:
        return self.name if self.value is None else {self.name: self.value}

    def __str__(self) -> str:
        return self.name if self.value is None else json.dumps(self.to_json())


WORDS = ("all", "certain")
NUMBERS = {"epsilon": 1.0, "open": 1.0, "tolerance": inf}
"""The rules that take a number, which is over 0 and under this limit."""
KNOWN = (
    'all, certain, {"epsilon": a number between 0 and 1}, {"open": a number between 0 and 1}, '
    '{"tolerance": a number over 0}'
)


def read_stop(spec: Any) -> StopSpec:
    """Reads a word, a mapping of one key, or such a mapping as JSON. Raises InvalidInput."""
    if isinstance(spec, str) and len(spec) <= MAX_SPEC and spec.lstrip().startswith("{"):
        try:
            spec = json.loads(spec)
        except (ValueError, RecursionError):
            raise _unknown(spec) from None
    if isinstance(spec, str) and spec in WORDS:
        return StopSpec(spec)
    if isinstance(spec, Mapping) and len(spec) == 1:
        ((name, value),) = spec.items()
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in NUMBERS and number and 0 < value < NUMBERS[name]:
            return StopSpec(name, float(value))
    raise _unknown(spec)


def _unknown(spec: Any) -> InvalidInput:
    return InvalidInput(f"unknown stop {shown(spec)}; known: {KNOWN}")
