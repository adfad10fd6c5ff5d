"""Several pools behind one front end."""

import heapq
from dataclasses import replace

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.simulation.pools import CPU, H100, SPEC, SURE, arriving, cost
from tests.support.examples import times
from tta_server.scheduling.jobs import Bounds
from tta_server.simulation.costs import ModelCost, Overhead
from tta_server.simulation.jobs import Request
from tta_server.simulation.pool import PoolSize, SimulatedPool
from tta_server.simulation.server import SimulatedServer

ON_CPU = replace(SPEC, model="ocr")
ON_GPU = replace(SPEC, model="photos", budget=0.05)
COSTS = {
    "cpu": {"ocr": cost(CPU, decode=1.5, finish=0.1, noise=0.2, model="ocr")},
    "gpu": {"photos": cost(H100, decode=0.5, finish=0.05, noise=0.1, model="photos")},
}


def exact(curve: dict[int, float], model: str, decode: float = 0.0) -> dict[str, ModelCost]:
    """Without noise; in milliseconds."""
    return {model: cost(curve, decode=decode, model=model)}


def what_became(
    sizes: dict[str, PoolSize], seed: int, requests: list[Request]
) -> tuple[dict[int, tuple[str, int, float]], dict[str, SimulatedPool]]:
    """Outcome, number of views and latency by the id of the request; and the pools."""
    server = SimulatedServer(sizes, {name: COSTS[name] for name in sizes}, Bounds(jobs=30), seed=seed)
    jobs = server.run(requests)
    return {id(job.request): (str(job.outcome), job.merged, job.latency) for job in jobs}, server.pools


@settings(max_examples=times(60), phases=[Phase.generate])  # to make an example smaller takes minutes
@given(
    seed=st.integers(0, 1000),
    loads=st.tuples(st.floats(0.2, 4), st.floats(0.2, 4)),
    cpu_slots=st.integers(1, 3),
    size=st.builds(PoolSize, st.integers(1, 2), st.integers(1, 4), st.sampled_from([0.0, 0.0006]), st.integers(1, 2)),
)
def test_pools_that_share_nothing_do_what_each_does_alone(
    seed: int, loads: tuple[float, float], cpu_slots: int, size: PoolSize
) -> None:
    """Jobs, latencies and figures of the slots are equal to the last bit."""
    sizes = {"cpu": PoolSize(cpu_slots), "gpu": size}
    arrivals = {
        "cpu": arriving(loads[0] * 50 * cpu_slots, 0.3, ON_CPU, seed),
        "gpu": arriving(loads[1] * 1000, 0.3, ON_GPU, seed + 1),
    }
    merged = list(heapq.merge(*arrivals.values(), key=lambda request: request.at))
    together, pools = what_became(sizes, seed, merged)
    for name, requests in arrivals.items():
        alone, only = what_became({name: sizes[name]}, seed, requests)
        assert [together[id(request)] for request in requests] == list(alone.values())
        found, expected = ((pool.busy, pool.batches, pool.batched_views) for pool in (pools[name], only[name]))
        assert found == expected


def test_each_request_goes_to_the_pool_of_its_model() -> None:
    """Both arrive at 0; the CPU's slot decodes and runs three views, the device's worker decodes one image."""
    sizes = {"cpu": PoolSize(1), "gpu": PoolSize(1, workers=1)}
    costs = {"cpu": exact({1: 4}, "ocr", decode=1), "gpu": exact({1: 2, 4: 3}, "photos", decode=0.5)}
    server = SimulatedServer(sizes, costs)
    jobs = server.run(
        [Request(0, entry, replace(spec, views=3), SURE[0]) for entry, spec in enumerate((ON_CPU, ON_GPU))]
    )
    assert [job.latency * 1e3 for job in jobs] == pytest.approx([1 + 3 * 4, 0.5 + 3])
    assert {name: pool.busy * 1e3 for name, pool in server.pools.items()} == pytest.approx({"cpu": 13, "gpu": 3})
    assert {name: pool.batches for name, pool in server.pools.items()} == {"cpu": 3, "gpu": 1}


def test_they_share_the_front_end() -> None:
    """It takes 4 ms, half before and half after: requests are admitted at 2 and 4 ms and answered in turn."""
    sizes = {"cpu": PoolSize(2), "gpu": PoolSize(1, workers=2)}
    costs = {"cpu": exact({1: 3}, "ocr"), "gpu": exact({1: 2}, "photos")}
    server = SimulatedServer(sizes, costs, overhead=Overhead(core=0.004))
    jobs = server.run(
        [Request(0, entry, replace(spec, views=1), SURE[0]) for entry, spec in enumerate((ON_CPU, ON_GPU))]
    )
    assert [job.latency * 1e3 for job in jobs] == pytest.approx([2 + 3 + 2, 4 + 2 + 1 + 2])


def test_the_front_end_preempts_only_where_no_core_of_any_pool_is_idle() -> None:
    """A view of 30 ms runs on the only slot of a CPU; requests for the other pool take 1 ms of a core each time."""
    long, short = (
        Request(at, 0, replace(spec, views=1, budget=1.0), SURE[0]) for at, spec in ((0, ON_CPU), (0.01, ON_GPU))
    )
    costs = {"cpu": exact({1: 30}, "ocr"), "gpu": exact({1: 2}, "photos", decode=8)}
    for workers, expected in ((2, 30.0), (1, 30.5)):
        server = SimulatedServer(
            {"cpu": PoolSize(1), "gpu": PoolSize(1, workers)}, costs, overhead=Overhead(core=0.001)
        )
        first, _, _ = server.run([long, short, replace(short, at=0.0145)])
        assert first.latency * 1e3 == pytest.approx(0.5 + expected + 0.5)


def test_a_pool_has_its_own_bounds() -> None:
    sizes, costs = (
        {"cpu": PoolSize(1), "gpu": PoolSize(1, 1)},
        {"cpu": exact({1: 9}, "ocr"), "gpu": exact({1: 9}, "photos")},
    )
    requests = [Request(0, 0, spec, SURE[0]) for spec in (ON_CPU, ON_CPU, ON_GPU)]
    jobs = SimulatedServer(sizes, costs, Bounds(jobs=1)).run(requests)
    assert [bool(job.merged) for job in jobs] == [True, False, True]
