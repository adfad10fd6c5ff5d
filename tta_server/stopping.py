"""Why a job stops, and the rules that say so after each merge. Pure."""

from enum import StrEnum
from typing import Any, Protocol


class StopReason(StrEnum):
    ALL_VIEWS = "all_views"
    DEADLINE = "deadline"
    CAPACITY = "capacity"
    BACKEND_FAILED = "backend_failed"


class StopRule(Protocol):
    def decide(self, accumulator: Any, remaining_weight: float) -> StopReason | None:
        """A reason to stop before the remaining views, which could still add that much weight; None to go on."""


class All:
    """Every view that the budget allows."""

    def decide(self, accumulator: Any, remaining_weight: float) -> StopReason | None:
        return None


STOP_RULES: dict[str, StopRule] = {"all": All()}
