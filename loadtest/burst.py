"""A burst between two periods of base load, and the time until answers have all their views again."""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from loadtest.generator import poisson
from loadtest.report import Outcome

WINDOW_S = 0.5
BACK = 0.99
"""Mean K has recovered when a window has this share of the value before the burst."""


@dataclass(frozen=True, slots=True)
class Burst:
    """Loads are multiples of the closed loop's rate: `base` for `seconds`, `load` for `burst_seconds`, `base` again."""

    base: float
    load: float
    seconds: float
    burst_seconds: float

    def phases(self) -> dict[str, tuple[float, float, float]]:
        """By name: load; start and length in seconds, from the first arrival."""
        end = self.seconds + self.burst_seconds
        return {
            "before": (self.base, 0.0, self.seconds),
            "burst": (self.load, self.seconds, self.burst_seconds),
            "after": (self.base, end, self.seconds),
        }

    def arrivals(self, per_s: float, random: Random) -> list[float]:
        """Times in seconds; `per_s` is the closed loop's rate."""
        phases = self.phases().values()
        return [begin + at for load, begin, length in phases for at in poisson(per_s * load, length, random)]


@dataclass(frozen=True, slots=True)
class Window:
    """Requests due in [t_s, t_s + 0.5), in seconds from the end of the burst; `mean_views` is nan without answers."""

    t_s: float
    offered: int
    answered: int
    refused: int
    mean_views: float


def windows(outcomes: Sequence[Outcome], burst_end: float) -> list[Window]:
    """All windows from the first request to the last, also empty ones; `burst_end` is on the clock of `intended`."""
    found: dict[int, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(math.floor((outcome.intended - burst_end) / WINDOW_S), []).append(outcome)
    return [_window(number, found.get(number, [])) for number in range(min(found), max(found) + 1)] if found else []


def _window(number: int, outcomes: Sequence[Outcome]) -> Window:
    views = [outcome.views for outcome in outcomes if outcome.status == 200]
    mean = sum(views) / len(views) if views else math.nan
    refused = sum(outcome.status == 429 for outcome in outcomes)
    return Window(number * WINDOW_S, len(outcomes), len(views), refused, mean)


def recovery_s(seen: Sequence[Window], before: float) -> float:
    """Seconds from the burst's end to the end of the first window at BACK of `before`; nan if there is none."""
    back = (found.t_s + WINDOW_S for found in seen if found.t_s >= 0 and found.mean_views >= BACK * before)
    return next(back, math.nan)


def write_windows(path: Path, by_mode: dict[str, list[Window]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["mode", *Window.__dataclass_fields__])
        writer.writeheader()
        writer.writerows({"mode": mode, **asdict(window)} for mode, seen in by_mode.items() for window in seen)
