"""Host work between the batches of a device: with one batch in flight it is added, with two it overlaps."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.simulation.pools import SPEC, SURE, OnePool, arriving, cost, device
from tta_server.scheduling.stopping import StopReason
from tta_server.simulation.figures import figures
from tta_server.simulation.jobs import Request
from tta_server.simulation.pool import PoolSize


def latencies(curve: dict[int, float], size: PoolSize, arrivals_ms: Sequence[float], views: int = 1) -> list[float]:
    """In milliseconds, of requests that have plenty of time and no decoding."""
    spec = replace(SPEC, budget=0.2, views=views)
    server = OnePool({"m": cost(curve)}, size)
    jobs = server.run([Request(at / 1e3, 0, spec, SURE[0]) for at in arrivals_ms])
    assert {job.outcome for job in jobs} == {StopReason.ALL_VIEWS}
    return [job.latency * 1e3 for job in jobs]


def size(prepare_ms: float, in_flight: int, slots: int = 1) -> PoolSize:
    return PoolSize(slots, 1, prepare_ms / 1e3, in_flight)


@pytest.mark.parametrize("in_flight", [1, 2])
def test_the_batch_of_an_idle_device_waits_for_its_host_work(in_flight: int) -> None:
    assert latencies({1: 2}, size(0.5, in_flight), [0, 10]) == pytest.approx([2.5, 2.5])


@pytest.mark.parametrize(
    ("prepare_ms", "in_flight", "expected"),
    [
        (0.5, 1, 4 * (0.5 + 2)),
        (0.5, 2, 0.5 + 4 * 2),
        (3.0, 1, 4 * (3 + 2)),
        (3.0, 2, 4 * 3 + 2),  # the host is what is full
        (0.0, 1, 4 * 2),
        (0.0, 2, 4 * 2),
    ],
)
def test_four_batches_in_a_row(prepare_ms: float, in_flight: int, expected: float) -> None:
    assert latencies({1: 2}, size(prepare_ms, in_flight), [0], views=4) == pytest.approx([expected])


def test_the_next_batch_is_chosen_as_late_as_its_host_work_allows() -> None:
    """The first runs from 1 to 11 ms; at 10 the next is chosen: those of 5 and 8 are in it, that of 10.5 is not."""
    arrivals = [0, 5, 8, 10.5]
    assert latencies({1: 10, 2: 10}, size(1, 2), arrivals) == pytest.approx([11, 16, 13, 20.5])
    assert latencies({1: 10, 2: 10}, size(1, 1), arrivals) == pytest.approx([11, 17, 14, 22.5])


def test_a_view_that_comes_while_the_slot_could_prepare_it_is_prepared_at_once() -> None:
    """The first runs from 1 to 11 ms, the second is prepared from 10.5 to 11.5."""
    assert latencies({1: 10}, size(1, 2), [0, 10.5]) == pytest.approx([11, 11])
    assert latencies({1: 10}, size(1, 1), [0, 10.5]) == pytest.approx([11, 11.5])


def test_an_idle_slot_takes_a_view_before_one_that_could_prepare_it() -> None:
    """They run the first two from 5 to 15 ms and from 6 to 16: the second slot could prepare the third from 11 on."""
    assert latencies({1: 10}, size(5, 2, slots=2), [0, 1, 15.5]) == pytest.approx([15, 15, 15])


def test_the_device_is_busy_only_while_it_runs_batches() -> None:
    for in_flight, end in ((1, 10.0), (2, 8.5)):
        server = OnePool({"m": cost({1: 2})}, size(0.5, in_flight))
        server.run([Request(0, 0, replace(SPEC, views=4), SURE[0])])
        assert server.pool.busy * 1e3 == pytest.approx(8)
        assert server.now * 1e3 == pytest.approx(end)


def test_under_load_two_batches_in_flight_give_more_views() -> None:
    """Host work of 0.6 ms makes a batch of 64 views take 5.8 ms instead of 5.2: at most 11.5 % fewer views."""
    spec = replace(SPEC, budget=0.05)
    means = []
    for prepare_ms, in_flight in ((0.0, 2), (0.6, 2), (0.6, 1)):
        found = figures(device(noise=0, prepare_ms=prepare_ms, in_flight=in_flight).run(arriving(3180, 0.5, spec)), 0.5)
        assert found["goodput_share"] == 1
        means.append(float(found["mean_views"]))
    free, overlapped, added = means
    assert free >= overlapped * 0.999
    assert 1.05 < overlapped / added < 5.8 / 5.2 + 0.01


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_every_request_is_answered_or_refused(slots: int, in_flight: int, noise: float) -> None:
    costs = cost({1: 1.5, 8: 2.0, 64: 5.2}, decode=0.2, finish=0.05, noise=noise)
    spec = replace(SPEC, budget=0.05)
    server = OnePool({"m": costs}, PoolSize(slots, 4, 0.0008, in_flight))
    jobs = server.run(arriving(2000 * slots, 0.3, spec))
    assert len(server.pool.scheduler) == 0
    assert all(job.outcome is not None and job.latency == job.latency for job in jobs)
    assert server.pool.busy <= slots * server.now
