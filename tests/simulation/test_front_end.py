"""The front end of a simulated pool when it is what is full."""

from dataclasses import replace

import pytest

from tests.simulation.pools import SPEC, SURE, OnePool, arriving, cost
from tta_server.errors import Overloaded
from tta_server.simulation.costs import REFUSAL_SHARE, Overhead
from tta_server.simulation.figures import figures
from tta_server.simulation.jobs import Request, SimulatedJob
from tta_server.simulation.pool import PoolSize

CORE = 0.0004
"""Seconds of the front end for a request: it bears 2,500/s."""
TINY = replace(SPEC, budget=0.05, views=1)


def pool(bounded: bool = True) -> OnePool:
    """A model that costs next to nothing, on a device with enough workers."""
    curve = {1: 0.01, 128: 0.02}
    return OnePool({"m": cost(curve)}, PoolSize(1, 4), overhead=Overhead(CORE, bounded=bounded))


def goodput(per_s: float, bounded: bool, seconds: float = 1.0) -> float:
    jobs = pool(bounded).run([Request(n / per_s, 0, TINY, SURE[0]) for n in range(int(per_s * seconds))])
    return float(figures(jobs, seconds)["goodput_per_s"])


def reasons(jobs: list[SimulatedJob]) -> list[str]:
    return [job.outcome.reason for job in jobs if isinstance(job.outcome, Overloaded)]


def test_requests_at_once_are_refused_from_where_the_front_end_has_7_5_ms_of_work() -> None:
    """Each takes 0.2 ms before admission; a budget of 50 ms allows 15 % of it: 38 begin at 0, 0.2, ... 7.4 ms."""
    jobs = pool().run([Request(0, 0, TINY, SURE[0])] * 47)
    refused = [isinstance(job.outcome, Overloaded) for job in jobs]
    assert refused == [False] * 38 + [True] * 9
    assert reasons(jobs) == ["api"] * sum(refused)
    assert jobs[-1].latency == pytest.approx(refused.count(False) * CORE / 2 + refused.count(True) * 0.00006)
    assert pytest.approx(0.00006) == REFUSAL_SHARE * CORE


def test_a_larger_budget_allows_more_work() -> None:
    """Of 500 ms too 15 %: 375 requests of 0.2 ms."""
    jobs = pool().run([Request(0, 0, replace(TINY, budget=0.5), SURE[0])] * 475)
    assert len(reasons(jobs)) in (99, 100)  # the sum of 375 times 0.2 is rounded


@pytest.mark.parametrize("per_s", [500, 1250, 2000])
def test_below_its_capacity_nothing_is_refused(per_s: float) -> None:
    jobs = pool().run(arriving(per_s, 1, TINY))
    assert figures(jobs, 1)["goodput_share"] == 1


def test_at_twice_its_capacity_goodput_is_near_it_with_the_bound_and_near_zero_without() -> None:
    """An answer takes 0.4 ms and a refusal 0.06: of 5,000/s, g with 0.4 g + 0.06 (5,000 - g) = 1,000 are answered.

    Up to 15 ms of this work is done after the last of them has arrived.
    """
    sustained = (1000 - 300) / 0.34
    assert sustained < goodput(5000, bounded=True) < sustained * 1.03
    assert goodput(5000, bounded=False) < 0.15 * 2500


def test_the_wait_for_the_front_end_is_charged_to_the_budget() -> None:
    """Of 60 views of 1 ms, 50 ms have room for 48 or so; the third request waits 0.4 ms for the others' heads."""
    spec = replace(TINY, views=60, mandatory=1)
    ends = []
    for others in (0, 30):
        jobs = OnePool({"m": cost({1: 1})}, 1, overhead=Overhead(CORE)).run(
            [Request(0, 0, replace(TINY, budget=0.3), SURE[0])] * others + [Request(0, 0, spec, SURE[0])]
        )
        ends.append(jobs[-1].latency)
    assert max(ends) <= 0.05


def test_a_front_end_without_costs_refuses_nothing() -> None:
    jobs = OnePool({"m": cost({1: 0.01})}, 1).run([Request(0, 0, TINY, SURE[0])] * 110)
    assert reasons(jobs) == []
