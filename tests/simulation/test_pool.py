"""The simulated pool: laws over whole runs, and examples that can be checked by hand."""

import math
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from tests.simulation.pools import CPU, GPU, H100, SPEC, SURE, OnePool, arriving, cost, device, run
from tests.support.examples import times
from tta_server.calibration.fit import Run
from tta_server.errors import Cancelled, InvalidInput, Overloaded
from tta_server.scheduling.jobs import Bounds, Priority
from tta_server.scheduling.stopping import Certain, Confident, StopReason
from tta_server.simulation.costs import ModelCost, Noise, Overhead
from tta_server.simulation.figures import figures, quantile
from tta_server.simulation.jobs import Request
from tta_server.simulation.pool import PoolSize

# ---- by hand ----


def test_of_an_idle_slot_50_ms_buy_four_views_of_12_ms() -> None:
    spec = replace(SPEC, budget=0.05)
    jobs = OnePool({"m": cost({1: 12})}, 1).run([Request(at / 4, 0, spec, SURE[0]) for at in range(20)])
    assert [job.merged for job in jobs[-8:]] == [4] * 8
    assert jobs[0].merged == 3  # warm-up's estimate, 15.6 ms, is not corrected yet


def test_a_batch_takes_what_its_curve_says() -> None:
    (job,) = run(OnePool({"m": cost(GPU, decode=2, finish=1)}, 1), Request(0.25, 0, SPEC, SURE[0]))
    assert (job.merged, job.outcome) == (8, StopReason.ALL_VIEWS)
    assert job.latency == pytest.approx(0.002 + 0.0059 + 0.001)


def test_slots_share_the_views_of_one_request() -> None:
    (job,) = run(OnePool({"m": cost({1: 3})}, 4), Request(0, 0, SPEC, SURE[0]))
    assert job.latency == pytest.approx(0.006)


def test_the_front_end_takes_time_before_admission_and_after_the_answer() -> None:
    (job,) = run(
        OnePool({"m": cost({1: 3})}, 1, overhead=Overhead(0.004)), Request(0, 0, replace(SPEC, views=1), SURE[0])
    )
    assert job.latency == pytest.approx(0.002 + 0.003 + 0.002)


def test_the_front_end_preempts_a_busy_slot() -> None:
    pool = OnePool({"m": cost({1: 30})}, 1, overhead=Overhead(0.004))
    first, second = run(pool, *(Request(at, 0, replace(SPEC, views=1), SURE[0]) for at in (0, 0.01)))
    assert first.latency == pytest.approx(0.002 + 0.03 + 0.002 + 0.002)
    assert second.latency == pytest.approx(first.latency - 0.01 + 0.03 + 0.002, abs=0.0021)


def test_a_client_that_leaves_is_not_answered() -> None:
    stays, goes = Request(0, 0, SPEC, SURE[0]), Request(0, 0, SPEC, SURE[0], leaves_after=0.004)
    kept, left = run(OnePool({"m": cost({1: 2})}, 1), stays, goes)
    assert kept.outcome is StopReason.ALL_VIEWS
    assert isinstance(left.outcome, Cancelled)
    assert left.latency == pytest.approx(0.004)


def test_an_impossible_budget_is_invalid_and_a_full_pool_refuses() -> None:
    (job,) = run(OnePool({"m": cost({1: 200})}, 1), Request(0, 0, SPEC, SURE[0]))
    assert isinstance(job.outcome, InvalidInput)
    jobs = run(OnePool({"m": cost(CPU)}, 1, Bounds(jobs=2)), *[Request(0, 0, SPEC, SURE[0])] * 3)
    assert [isinstance(job.outcome, Overloaded) for job in jobs] == [False, False, True]


# ---- stop rules ----


def test_certain_stops_when_the_rest_cannot_make_up() -> None:
    (job,) = run(OnePool({"m": cost(CPU)}, 1), Request(0, 0, replace(SPEC, rule=Certain()), SURE[0]))
    assert (job.merged, job.outcome) == (5, StopReason.CERTAIN)
    level = Run([0.0] * 8, [0] * 8)
    (job,) = run(OnePool({"m": cost(CPU)}, 1), Request(0, 0, replace(SPEC, rule=Certain()), level))
    assert (job.merged, job.outcome) == (8, StopReason.ALL_VIEWS)


def test_confident_stops_where_margin_times_root_of_views_is_enough() -> None:
    growing = Run([0.1 * k for k in range(1, 9)], [0] * 8)
    (job,) = run(OnePool({"m": cost(CPU)}, 1), Request(0, 0, replace(SPEC, rule=Confident(0.75)), growing))
    assert (job.merged, job.outcome) == (4, StopReason.CONFIDENT)


def test_the_smallest_margins_get_the_views_that_are_left() -> None:
    close, clear = Run([0.1] * 8, [0] * 8), Run([0.9] * 8, [0] * 8)
    pool = OnePool({"m": cost({1: 10})}, 1)
    jobs = run(pool, *(Request(0, 0, SPEC, image) for image in (clear, close)))
    assert jobs[0].merged == 1
    assert jobs[1].merged > 3


# ---- laws ----

POOLS = [pytest.param(cost(CPU, decode=1.5, finish=0.1), slots, id=f"cpu-{slots}") for slots in (1, 2, 4)] + [
    pytest.param(cost(GPU, decode=0.1, finish=0.1), slots, id=f"gpu-{slots}") for slots in (1, 2)
]


@pytest.mark.parametrize(("costs", "slots"), POOLS)
@pytest.mark.parametrize("load", [0.5, 1.0, 2.0, 4.0])
def test_every_request_is_answered_once_and_in_time_while_costs_are_true(
    costs: ModelCost, slots: int, load: float
) -> None:
    seconds = times(3000) / 1000
    requests = arriving(load * slots / (costs.chore_seconds + costs.view_seconds(8)), seconds)
    pool = OnePool({"m": costs}, slots)
    jobs = pool.run(requests)
    assert [job.request for job in jobs] == requests
    assert len(pool.pool.scheduler) == 0
    assert not [job for job in jobs if job.outcome is None or math.isnan(job.latency)]
    found = figures(jobs, seconds)
    assert found["slo"] == 1
    assert found["too_late"] == 0
    assert float(found["answered"]) + float(found["refused"]) == len(requests)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_same_seed_gives_the_same_run(noise: float) -> None:
    def latencies(seed: int) -> list[float]:
        pool = OnePool({"m": cost(CPU, 1.5, 0.1, noise)}, 2, seed=seed, overhead=Overhead(0.0005))
        return [job.latency for job in pool.run(arriving(200, 2))]

    assert latencies(1) == latencies(1)
    assert (latencies(1) == latencies(2)) == (noise == 0)


def test_on_a_cpu_mean_k_falls_long_before_the_first_refusal() -> None:
    means = []
    for load in (0.5, 1.5, 3.0):
        found = figures(OnePool({"m": cost(CPU, 1.5, 0.1, 0.1)}, 2).run(arriving(108 * load, 4)), 4)
        assert found["refused"] == 0
        means.append(float(found["mean_views"]))
    assert means[0] > 7.5
    assert means[1] < 6
    assert means[2] < 3


def test_a_knee_makes_batches_and_a_cpu_none() -> None:
    gpu = OnePool({"m": cost(GPU, decode=0.1)}, 1)
    gpu.run(arriving(100, 2))
    assert gpu.pool.batched_views / gpu.pool.batches > 4
    cpu = OnePool({"m": cost(CPU, decode=0.1)}, 1)
    cpu.run(arriving(100, 2))
    assert cpu.pool.batched_views == cpu.pool.batches


def test_of_an_idle_device_a_worker_decodes_the_slot_runs_all_views_and_a_worker_answers() -> None:
    (job,) = run(device(noise=0), Request(0.25, 0, SPEC, SURE[0]))
    assert (job.merged, job.outcome) == (8, StopReason.ALL_VIEWS)
    assert job.latency * 1e3 == pytest.approx(0.5 + 1.7 + 0.05)


@pytest.mark.parametrize(("per_s", "least", "most"), [(800, 8, 8), (3200, 3.3, 4.2), (12_000, 1, 1.2)])
def test_a_device_gives_fewer_views_before_it_refuses(per_s: float, least: float, most: float) -> None:
    spec = replace(SPEC, budget=0.05)
    pool = device()
    found = figures(pool.run(arriving(per_s, 0.5, spec)), 0.5)
    assert found["goodput_share"] == 1
    assert least <= float(found["mean_views"]) <= most
    assert pool.pool.busy <= pool.now
    if per_s > 3000:
        assert pool.pool.batched_views / pool.pool.batches > 55


def test_the_least_time_for_requests_is_that_of_the_device_or_of_its_workers() -> None:
    spec = replace(SPEC, views=64)
    assert device().pool.least_seconds([spec]) * 1e3 == pytest.approx(64 * 9.8 / 128)
    assert device(workers=1).pool.least_seconds([replace(SPEC, views=1)] * 3) * 1e3 == pytest.approx(3 * 0.55)


def test_without_enough_workers_decoding_is_the_limit() -> None:
    spec = replace(SPEC, budget=0.05)
    found = figures(device(workers=2).run(arriving(6_000, 0.5, spec)), 0.5)
    assert found["slo"] == 1
    assert 0.5 < float(found["goodput_share"]) < 0.7, "two workers decode and answer 3,636/s"


def test_clients_of_a_device_that_leave_and_a_front_end_that_takes_cores() -> None:
    costs = {"m": cost(H100, decode=0.5, finish=0.05)}
    pool = OnePool(costs, PoolSize(1, workers=1), overhead=Overhead(0.001, 0.001, Noise(0.1)))
    requests = [
        replace(request, leaves_after=0.001 if number % 3 == 0 else math.inf)
        for number, request in enumerate(arriving(400, 0.5))
    ]
    jobs = pool.run(requests)
    kinds = Counter(type(job.outcome) for job in jobs)
    assert kinds[Cancelled] > 20
    assert kinds[StopReason] == len(jobs) - kinds[Cancelled]


def test_a_batch_job_waits_for_the_others() -> None:
    slow = replace(SPEC, priority=Priority.BATCH, budget=5.0)
    requests = [Request(0, 1, slow, SURE[0]) for _ in range(20)] + arriving(60, 1)
    jobs = OnePool({"m": cost(CPU, 1.5, 0.1)}, 1).run(sorted(requests, key=lambda request: request.at))
    mean = {entry: sum(v.latency for v in jobs if v.request.entry == entry) for entry in (0, 1)}
    count = Counter(job.request.entry for job in jobs)
    assert mean[0] / count[0] < mean[1] / count[1]
    assert all(job.outcome is StopReason.ALL_VIEWS for job in jobs if job.request.entry == 1)


def test_slots_are_never_busier_than_time_allows_and_never_idle_under_overload() -> None:
    pool = OnePool({"m": cost(CPU, 1.5, 0.1)}, 2)
    pool.run(arriving(300, 2))
    assert 0.97 < pool.pool.busy / (2 * pool.now) <= 1


@pytest.mark.parametrize("slots", [1, 2])
def test_answers_due_at_one_moment_are_all_made_in_time(slots: int) -> None:
    """Eight images with one deadline; an answer takes 40 ms, a view 5."""
    spec = replace(SPEC, budget=1.0, views=64)
    jobs = OnePool({"m": cost({1: 5}, finish=40)}, slots).run([Request(0, 0, spec, SURE[0])] * 8)
    assert max(job.latency for job in jobs) <= 1.0
    assert sum(job.merged for job in jobs) > 60 * slots


# ---- noise ----


def test_noise_has_median_one_and_rare_slow_steps() -> None:
    random = Random(0)
    drawn = [Noise(0.2).draw(random) for _ in range(4000)]
    assert quantile(drawn, 0.5) == pytest.approx(1, abs=0.02)
    assert quantile(drawn, 0.95) == pytest.approx(math.exp(1.645 * 0.2), rel=0.05)
    slow = [Noise(0, 0.01, 10).draw(random) for _ in range(20_000)]
    assert set(slow) == {1.0, 10.0}
    assert slow.count(10.0) == pytest.approx(200, rel=0.3)


def test_rare_slow_steps_make_some_late_but_lose_none() -> None:
    costs = replace(cost(CPU, 1.5, 0.1), noise=Noise(0.1, share=0.01, factor=40))
    jobs = OnePool({"m": costs}, 2).run(arriving(150, 3))
    found = figures(jobs, 3)
    assert 0.9 < float(found["slo"]) < 1
    assert float(found["answered"]) + float(found["refused"]) + float(found["too_late"]) == len(jobs)
