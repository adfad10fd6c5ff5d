"""Why a job stops, and the rules that say after each merge whether more views can still matter. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf, sqrt
from typing import Any, Protocol

from tta_server.errors import InvalidInput, shown

MAX_SPEC = 64
"""Characters of a request's own stop rule."""


class StopReason(StrEnum):
    ALL_VIEWS = "all_views"
    CERTAIN = "certain"
    CONFIDENT = "confident"
    SETTLED = "settled"
    PRECISE = "precise"
    DEADLINE = "deadline"
    CAPACITY = "capacity"
    BACKEND_FAILED = "backend_failed"


class Evidence(Protocol):
    """What a rule may ask of an answer so far; computed when asked for."""

    def margin(self) -> float:
        """Lead of the top class over the second in merged probability, in [0, 1]."""

    def views_in_order(self) -> int:
        """How many views are merged if they are the policy's first; 0 if others are, as slots may return them."""

    def undecided(self) -> float:
        """Share of the answer (its one label, or its pixels) whose top class the remaining views could change."""

    def standard_error(self) -> float:
        """Of the mean over the views, in the answer's unit; infinite for one view."""


class StopRule(Protocol):
    def decide(self, evidence: Evidence) -> StopReason | None:
        """A reason to stop before the remaining views; None to go on."""


@dataclass(frozen=True, slots=True)
class All:
    """Every view that the budget allows."""

    def decide(self, evidence: Evidence) -> StopReason | None:
        return None


@dataclass(frozen=True, slots=True)
class Certain:
    """When no rival can catch up: the top label, or the mask, is that of all views. Promises nothing else."""

    def decide(self, evidence: Evidence) -> StopReason | None:
        return StopReason.CERTAIN if evidence.undecided() == 0 else None


@dataclass(frozen=True, slots=True)
class Settled:
    """When at most a share of the pixels could still change."""

    share: float

    def decide(self, evidence: Evidence) -> StopReason | None:
        return StopReason.SETTLED if evidence.undecided() <= self.share else None


@dataclass(frozen=True, slots=True)
class Confident:
    """When the margin, times the root of the number of views, has reached a threshold learned by calibration.

    The mean of more views strays less, so that the same margin says more: on cifar10 this takes a tenth fewer views
    than one threshold for the margin alone, for the same promise. What was calibrated is merging in the policy's order.
    """

    threshold: float

    def decide(self, evidence: Evidence) -> StopReason | None:
        views = evidence.views_in_order()
        return StopReason.CONFIDENT if views and evidence.margin() * sqrt(views) >= self.threshold else None


@dataclass(frozen=True, slots=True)
class Precise:
    """When the standard error of the mean over the views is at most `tolerance`, in the answer's unit."""

    tolerance: float

    def decide(self, evidence: Evidence) -> StopReason | None:
        return StopReason.PRECISE if evidence.standard_error() <= self.tolerance else None


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
"""Rules with a number, over 0 and under this."""
KNOWN = (
    'all, certain, {"epsilon": a number between 0 and 1}, {"open": a number between 0 and 1}, '
    '{"tolerance": a number over 0}'
)


def read_stop(spec: Any) -> StopSpec:
    """A word, a mapping of one key, or such a mapping as JSON; raises InvalidInput."""
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
