"""Laws of pools whose costs vary: they hold on average, in virtual time and with fixed seeds."""

from itertools import count
from typing import Any

import pytest

from tests.support.examples import times
from tests.support.laws import Violation
from tests.support.noise import BURSTS, SLOW, STALLS, Case, NoisyLaw, check
from tta_server.scheduling.admission import Admission
from tta_server.scheduling.estimates import Estimates
from tta_server.scheduling.jobs import Job
from tta_server.scheduling.mean_estimates import MeanEstimates

SECONDS = max(8, times(80))
BUDGETS = (0.1, 0.3)


WEATHERS = {"stalls": STALLS, "slow for half the time": SLOW}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("weather", ["stalls", pytest.param("slow for half the time", marks=pytest.mark.slow)])
def test_a_pool_under_noise_keeps_its_promises_at_all_loads(weather: str, budget: float) -> None:
    seconds = SECONDS if weather == "stalls" else max(20, SECONDS)
    check([Case(load, budget, WEATHERS[weather]) for load in (1, 2, 3, 4)], seconds)


@pytest.mark.slow
def test_views_give_way_before_a_request_is_refused_in_bursts() -> None:
    """Arrivals of four to eight times what is possible with all views, for half a second in every two."""
    windows, refused = check([Case(load, budget, BURSTS) for load in (1, 1.5, 2) for budget in BUDGETS], 2 * SECONDS)
    assert windows >= 15
    assert refused >= 100


# ---- mistakes ----


def sums_of_upper_estimates(patch: pytest.MonkeyPatch) -> None:
    for name in ("batch", "decoding", "finishing"):
        patch.setattr(MeanEstimates, name, getattr(Estimates, name))


def sums_without_deviation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("tta_server.scheduling.mean_estimates.SAFETY", -2.0)


def few_live_jobs(patch: pytest.MonkeyPatch) -> None:
    """Refuses while others have optional views left, which would give way."""
    right = Admission._wait

    def wait(admission: Admission[Any], job: Job[Any], now: float) -> float:
        return 0.05 if len(admission) > 5 else right(admission, job, now)

    patch.setattr(Admission, "_wait", wait)


def some_at_random(patch: pytest.MonkeyPatch) -> None:
    """Refuses one of thirty, however short the queue is."""
    right, number = Admission._wait, count()

    def wait(admission: Admission[Any], job: Job[Any], now: float) -> float:
        return right(admission, job, now) or 0.05 * (next(number) % 30 == 29)

    patch.setattr(Admission, "_wait", wait)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (sums_of_upper_estimates, NoisyLaw.REFUSED_LATE),
        pytest.param(sums_without_deviation, NoisyLaw.IN_TIME, marks=pytest.mark.slow),
        pytest.param(some_at_random, NoisyLaw.VIEWS_FIRST, marks=pytest.mark.slow),
        pytest.param(few_live_jobs, NoisyLaw.GOODPUT, marks=pytest.mark.slow),
    ],
)
def test_a_mistake_on_purpose_violates_its_law(mistake, law: NoisyLaw, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    with pytest.raises(Violation) as broken:
        check([Case(1.5, budget, BURSTS) for budget in BUDGETS], SECONDS)
    assert broken.value.law is law
