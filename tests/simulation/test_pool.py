"""The simulated pool: laws over whole runs, and examples that can be checked by hand."""

import math
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from tta_server.calibration.fit import Run
from tta_server.errors import Cancelled, InvalidInput, Overloaded
from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.jobs import Bounds, Priority
from tta_server.scheduling.stopping import All, Certain, Confident, StopReason
from tta_server.simulation.figures import figures, quantile
from tta_server.simulation.pool import Simulation
from tta_server.simulation.traffic import invented
from tta_server.simulation.visits import Ask, Cost, Noise, Overhead, Request, SimulatedJob

CPU = {1: 2.1}
GPU = {1: 5.0, 2: 5.1, 4: 5.3, 8: 5.9, 16: 7.2}
SURE = [Run([1.0] * 64, [0] * 64)]


def cost(curve: dict[int, float], decode: float = 0.0, finish: float = 0.0, noise: float = 0.0) -> Cost:
    """All in milliseconds."""
    bucket = Bucket("m", 1, 1)
    seconds = {n: ms / 1e3 for n, ms in curve.items()}
    return Cost({bucket: seconds}, (bucket,), decode / 1e3, finish / 1e3, 10_000, noise=Noise(noise))


ASK = Ask("m", 0.1, 8, 1, Priority.INTERACTIVE, All(), lambda margin, done: 1 - margin, invented(8, Random(0)))


def arriving(per_s: float, seconds: float, ask: Ask = ASK, seed: int = 0) -> list[Request]:
    random, at, found = Random(seed), 0.0, []
    while (at := at + random.expovariate(per_s)) < seconds:
        found.append(Request(at, 0, ask, random.choice(ask.images)))
    return found


def run(pool: Simulation, *requests: Request) -> list[SimulatedJob]:
    return pool.run(requests)


# ---- by hand ----


def test_of_an_idle_slot_50_ms_buy_four_views_of_12_ms() -> None:
    ask = replace(ASK, budget=0.05)
    visits = Simulation({"m": cost({1: 12})}, 1).run([Request(at / 4, 0, ask, SURE[0]) for at in range(20)])
    assert [visit.merged for visit in visits[-8:]] == [4] * 8
    assert visits[0].merged == 3  # warm-up's estimate, 15.6 ms, is not corrected yet


def test_a_batch_takes_what_its_curve_says() -> None:
    (visit,) = run(Simulation({"m": cost(GPU, decode=2, finish=1)}, 1), Request(0.25, 0, ASK, SURE[0]))
    assert (visit.merged, visit.outcome) == (8, StopReason.ALL_VIEWS)
    assert visit.latency == pytest.approx(0.002 + 0.0059 + 0.001)


def test_slots_share_the_views_of_one_request() -> None:
    (visit,) = run(Simulation({"m": cost({1: 3})}, 4), Request(0, 0, ASK, SURE[0]))
    assert visit.latency == pytest.approx(0.006)


def test_the_door_comes_before_admission_and_after_the_answer() -> None:
    (visit,) = run(
        Simulation({"m": cost({1: 3})}, 1, door=Overhead(0.004)), Request(0, 0, replace(ASK, views=1), SURE[0])
    )
    assert visit.latency == pytest.approx(0.002 + 0.003 + 0.002)


def test_the_door_keeps_a_busy_slot_from_its_work() -> None:
    pool = Simulation({"m": cost({1: 30})}, 1, door=Overhead(0.004))
    first, second = run(pool, *(Request(at, 0, replace(ASK, views=1), SURE[0]) for at in (0, 0.01)))
    assert first.latency == pytest.approx(0.002 + 0.03 + 0.002 + 0.002)
    assert second.latency == pytest.approx(first.latency - 0.01 + 0.03 + 0.002, abs=0.0021)


def test_a_client_that_leaves_is_not_answered() -> None:
    stays, goes = Request(0, 0, ASK, SURE[0]), Request(0, 0, ASK, SURE[0], leaves=0.004)
    kept, left = run(Simulation({"m": cost({1: 2})}, 1), stays, goes)
    assert kept.outcome is StopReason.ALL_VIEWS
    assert isinstance(left.outcome, Cancelled)
    assert left.latency == pytest.approx(0.004)


def test_an_impossible_budget_is_invalid_and_a_full_pool_refuses() -> None:
    (visit,) = run(Simulation({"m": cost({1: 200})}, 1), Request(0, 0, ASK, SURE[0]))
    assert isinstance(visit.outcome, InvalidInput)
    visits = run(Simulation({"m": cost(CPU)}, 1, Bounds(jobs=2)), *[Request(0, 0, ASK, SURE[0])] * 3)
    assert [isinstance(visit.outcome, Overloaded) for visit in visits] == [False, False, True]


# ---- stop rules ----


def test_certain_stops_when_the_rest_cannot_make_up() -> None:
    (visit,) = run(Simulation({"m": cost(CPU)}, 1), Request(0, 0, replace(ASK, rule=Certain()), SURE[0]))
    assert (visit.merged, visit.outcome) == (5, StopReason.CERTAIN)
    level = Run([0.0] * 8, [0] * 8)
    (visit,) = run(Simulation({"m": cost(CPU)}, 1), Request(0, 0, replace(ASK, rule=Certain()), level))
    assert (visit.merged, visit.outcome) == (8, StopReason.ALL_VIEWS)


def test_confident_stops_where_margin_times_root_of_views_is_enough() -> None:
    growing = Run([0.1 * k for k in range(1, 9)], [0] * 8)
    (visit,) = run(Simulation({"m": cost(CPU)}, 1), Request(0, 0, replace(ASK, rule=Confident(0.75)), growing))
    assert (visit.merged, visit.outcome) == (4, StopReason.CONFIDENT)


def test_the_smallest_margins_get_the_views_that_are_left() -> None:
    close, clear = Run([0.1] * 8, [0] * 8), Run([0.9] * 8, [0] * 8)
    pool = Simulation({"m": cost({1: 10})}, 1)
    visits = run(pool, *(Request(0, 0, ASK, image) for image in (clear, close)))
    assert visits[0].merged == 1
    assert visits[1].merged > 3


# ---- laws ----

POOLS = [pytest.param(cost(CPU, decode=1.5, finish=0.1), slots, id=f"cpu-{slots}") for slots in (1, 2, 4)] + [
    pytest.param(cost(GPU, decode=0.1, finish=0.1), slots, id=f"gpu-{slots}") for slots in (1, 2)
]


@pytest.mark.parametrize(("costs", "slots"), POOLS)
@pytest.mark.parametrize("load", [0.5, 1.0, 2.0, 4.0])
def test_everybody_is_answered_once_and_in_time_while_costs_are_true(costs: Cost, slots: int, load: float) -> None:
    requests = arriving(load * slots / costs.whole(8), 3)
    pool = Simulation({"m": costs}, slots)
    visits = pool.run(requests)
    assert [visit.request for visit in visits] == requests
    assert len(pool.scheduler) == 0
    assert not [visit for visit in visits if visit.outcome is None or math.isnan(visit.latency)]
    told = figures(visits, 3)
    assert told["slo"] == 1
    assert told["too_late"] == 0
    assert float(told["answered"]) + float(told["refused"]) == len(requests)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_same_seed_gives_the_same_run(noise: float) -> None:
    def latencies(seed: int) -> list[float]:
        pool = Simulation({"m": cost(CPU, 1.5, 0.1, noise)}, 2, seed=seed, door=Overhead(0.0005))
        return [visit.latency for visit in pool.run(arriving(200, 2))]

    assert latencies(1) == latencies(1)
    assert (latencies(1) == latencies(2)) == (noise == 0)


def test_on_a_cpu_mean_k_falls_long_before_the_first_refusal() -> None:
    means = []
    for load in (0.5, 1.5, 3.0):
        told = figures(Simulation({"m": cost(CPU, 1.5, 0.1, 0.1)}, 2).run(arriving(108 * load, 4)), 4)
        assert told["refused"] == 0
        means.append(float(told["mean_views"]))
    assert means[0] > 7.5
    assert means[1] < 6
    assert means[2] < 3


def test_a_knee_makes_batches_and_a_cpu_none() -> None:
    gpu = Simulation({"m": cost(GPU, decode=0.1)}, 1)
    gpu.run(arriving(100, 2))
    assert gpu.batched / gpu.batches > 4
    cpu = Simulation({"m": cost(CPU, decode=0.1)}, 1)
    cpu.run(arriving(100, 2))
    assert cpu.batched == cpu.batches


def test_a_batch_job_waits_for_the_others() -> None:
    slow = replace(ASK, priority=Priority.BATCH, budget=5.0)
    requests = [Request(0, 1, slow, SURE[0]) for _ in range(20)] + arriving(60, 1)
    visits = Simulation({"m": cost(CPU, 1.5, 0.1)}, 1).run(sorted(requests, key=lambda request: request.at))
    mean = {stream: sum(v.latency for v in visits if v.request.stream == stream) for stream in (0, 1)}
    count = Counter(visit.request.stream for visit in visits)
    assert mean[0] / count[0] < mean[1] / count[1]
    assert all(visit.outcome is StopReason.ALL_VIEWS for visit in visits if visit.request.stream == 1)


def test_slots_are_never_busier_than_time_allows_and_never_idle_in_a_crowd() -> None:
    pool = Simulation({"m": cost(CPU, 1.5, 0.1)}, 2)
    pool.run(arriving(300, 2))
    assert 0.97 < pool.busy / (2 * pool.now) <= 1


@pytest.mark.parametrize("slots", [1, 2])
def test_answers_due_at_one_moment_are_all_made_in_time(slots: int) -> None:
    """Eight images with one deadline; an answer takes 40 ms, a view 5."""
    ask = replace(ASK, budget=1.0, views=64)
    visits = Simulation({"m": cost({1: 5}, finish=40)}, slots).run([Request(0, 0, ask, SURE[0])] * 8)
    assert max(visit.latency for visit in visits) <= 1.0
    assert sum(visit.merged for visit in visits) > 60 * slots


# ---- noise ----


def test_noise_has_median_one_and_rare_slow_runs() -> None:
    random = Random(0)
    drawn = [Noise(0.2).draw(random) for _ in range(4000)]
    assert quantile(drawn, 0.5) == pytest.approx(1, abs=0.02)
    assert quantile(drawn, 0.95) == pytest.approx(math.exp(1.645 * 0.2), rel=0.05)
    slow = [Noise(0, 0.01, 10).draw(random) for _ in range(20_000)]
    assert set(slow) == {1.0, 10.0}
    assert slow.count(10.0) == pytest.approx(200, rel=0.3)


def test_rare_slow_runs_make_some_late_but_nobody_lost() -> None:
    costs = replace(cost(CPU, 1.5, 0.1), noise=Noise(0.1, share=0.01, factor=40))
    visits = Simulation({"m": costs}, 2).run(arriving(150, 3))
    told = figures(visits, 3)
    assert 0.9 < float(told["slo"]) < 1
    assert float(told["answered"]) + float(told["refused"]) + float(told["too_late"]) == len(visits)
