"""The mean of what work took lately: exact for equal costs, blind to single stalls, quick to follow a change."""

import statistics
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.scheduling.recent_mean import CHANGE_SECONDS, LAST, MEAN_WINDOW, MIN_FOR_MEAN, RecentMean


def seen(values: Iterable[float], mean: float = 0.010, step: float = 0.010) -> RecentMean:
    """A mean that was given first, after observations every `step` seconds."""
    recent = RecentMean(mean)
    for number, value in enumerate(values):
        recent.observe(value, number * step)
    return recent


def noise(median: float, number: int, seed: int = 0) -> list[float]:
    random = Random(seed)
    return [median * random.lognormvariate(0, 0.3) for _ in range(number)]


# ---- laws ----


@given(st.floats(1e-5, 10), st.integers(MIN_FOR_MEAN, 3 * MEAN_WINDOW))
def test_equal_costs_are_their_mean_to_the_bit_without_deviation(value: float, number: int) -> None:
    recent = seen([value] * number, mean=value)
    assert (recent.mean, recent.deviation) == (value, 0.0)


@given(st.lists(st.floats(0.001, 0.002), min_size=MIN_FOR_MEAN, max_size=LAST))
def test_a_few_observations_have_their_own_mean_and_deviation(values: list[float]) -> None:
    recent = seen(values, mean=0.002)
    assert recent.mean == pytest.approx(statistics.fmean(values))
    assert recent.deviation == pytest.approx(statistics.pstdev(values), abs=1e-9)


@given(st.lists(st.floats(1e-4, 1), max_size=4 * MEAN_WINDOW), st.sampled_from([1e-4, 0.01, 0.1]))
def test_a_mean_lies_among_what_was_given_and_seen(values: list[float], step: float) -> None:
    recent = seen(values, step=step)
    assert min([0.010, *values]) * (1 - 1e-9) <= recent.mean <= max([0.010, *values]) * (1 + 1e-9)
    assert 0 <= recent.deviation <= max([0.010, *values])


# ---- noise ----


@pytest.mark.parametrize("seed", range(5))
def test_steady_noise_is_measured_over_the_whole_window(seed: int) -> None:
    """Lognormal with sigma 0.3: the mean is 1.046 medians, the deviation 0.32."""
    recent = seen(noise(0.010, 500, seed))
    assert recent.mean == pytest.approx(0.01046, rel=0.15)
    assert recent.deviation == pytest.approx(0.0032, rel=0.4)


def test_single_stalls_are_left_out() -> None:
    values = noise(0.010, 200)
    stalled = [value + 0.1 * (number % 20 == 19) for number, value in enumerate(values)]
    assert seen(stalled).mean == pytest.approx(seen(values).mean, rel=0.1)
    assert seen(stalled).deviation < 0.005


def test_one_stall_that_meets_a_step_of_every_slot_is_one_stall() -> None:
    recent = seen([0.004] * 20, mean=0.004)
    for number in range(8):
        recent.observe(0.150, 1.0 + number * CHANGE_SECONDS / 10)
    assert recent.mean == 0.004


@pytest.mark.parametrize("factor", [0.1, 0.5, 2.0, 10.0])
def test_a_change_of_the_cost_is_followed_within_a_few_observations(factor: float) -> None:
    before, after = noise(0.010, 100), [value * factor for value in noise(0.010, 12, seed=1)]
    assert seen(before + after).mean == pytest.approx(0.01046 * factor, rel=0.3)


def test_what_is_discarded_leaves_a_share_of_the_mean_until_there_is_enough_anew() -> None:
    recent = seen([0.020, 0.040] * 4, mean=0.030)
    recent.decay(0.010, 0.5)
    assert (recent.mean, recent.deviation) == (pytest.approx(0.020), pytest.approx(0.005))
    for number in range(MIN_FOR_MEAN):
        assert recent.mean == pytest.approx(0.020)
        recent.observe(0.015, 10.0 + number)
    assert recent.mean == pytest.approx(0.015)


def test_stalls_that_were_taken_for_a_change_are_forgotten_after_three_observations() -> None:
    """Two stalls close together meet three steps of 4 ms over 140 ms."""
    mean = RecentMean(0.004)
    for number in range(20):
        mean.observe(0.004, number / 100)
    for at in (0.30, 0.31, 0.44):
        mean.observe(0.14, at)
    assert mean.mean == pytest.approx(0.14)
    for number in range(3):
        mean.observe(0.004, 0.45 + number / 100)
    assert mean.mean == pytest.approx(0.004)
    assert mean.deviation == 0
