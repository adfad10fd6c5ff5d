"""How many examples a random test tries, by the hypothesis profile of the run (`--hypothesis-profile`)."""

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import HealthCheck, settings

T = TypeVar("T")

SHARES = {"fast": 0.1, "default": 0.25, "all": 2.0}
"""Profile -> examples as a share of those that a test asks for."""
USUAL = 100
"""Examples of a test that asks for no number."""
FEWEST = 5


def register_profiles() -> None:
    """Make the profiles known to hypothesis and load `default`. Each draws the same examples in every run."""
    for name, share in SHARES.items():
        settings.register_profile(
            name,
            max_examples=round(USUAL * share),
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        )
    settings.load_profile("default")


def times(number: int) -> int:
    """Scale a number of examples to the profile in use; at least FEWEST, or `number` where that is less."""
    return max(min(FEWEST, number), round(number * SHARES.get(settings.get_current_profile_name(), 1)))


def sampled(examples: Sequence[T]) -> Sequence[T]:
    """Return every n-th of them, about the share of the profile in use."""
    return examples[:: max(1, round(1 / SHARES.get(settings.get_current_profile_name(), 1)))]


def is_long() -> bool:
    """True in the profile `all`."""
    return settings.get_current_profile_name() == "all"
