"""Times of repeated actions."""

import statistics
import time
from collections.abc import Callable

WARM, FEWEST = 3, 5


def median_ms(action: Callable[[], object], runs: int = 30, limit_s: float = 0.5) -> float:
    """Median milliseconds of up to `runs` runs, or of at least FEWEST that take `limit_s` together."""
    for _ in range(WARM):
        action()
    found: list[float] = []
    end = time.perf_counter() + limit_s
    while len(found) < FEWEST or (len(found) < runs and time.perf_counter() < end):
        found.append(milliseconds(action))
    return statistics.median(found)


def milliseconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1e3


def rounded(values: dict[int, float]) -> dict[int, float]:
    """Figures to be printed, to four digits."""
    return {key: float(f"{value:.4g}") for key, value in values.items()}
