"""The sizes of batches on a device."""

import pytest

from tests.support.simulator import A, B, cost_model
from tta_server.scheduling.costs import Bucket, CostModel
from tta_server.scheduling.devices.ladder import DeviceEstimates, on_ladder


def test_sizes_of_the_ladder_that_are_not_measured_lie_between_their_neighbours() -> None:
    assert on_ladder({1: 1.0, 8: 8.0, 12: 9.0}) == pytest.approx({1: 1, 2: 2, 4: 4, 8: 8})


def test_a_batch_costs_as_much_as_the_rung_that_holds_it() -> None:
    estimates = DeviceEstimates(cost_model({A: {1: 2.0, 4: 4.0, 8: 10.0}}))
    assert [estimates.batch(A, n, 0) * 1e3 for n in (1, 2, 4, 5, 8)] == pytest.approx([2, 4, 4, 10, 10])
    assert estimates.full_batch(A, 0) == pytest.approx(0.004)
    assert estimates.share(A, 0) == pytest.approx(0.001)
    assert [estimates.batches(A, n, 0) * 1e3 for n in (1, 4, 5, 10)] == pytest.approx([2, 4, 6, 12])


def test_a_size_that_warm_up_did_not_meet_has_the_rungs_of_the_nearest_one() -> None:
    costs: CostModel = cost_model({A: {1: 2.0, 4: 4.0}})
    new = Bucket(A.model, 2 * A.height, A.width)
    assert new == B
    assert (costs.rungs(new), costs.rung(new, 3), costs.rung(new, 9)) == ([1, 4], 4, 4)
    assert costs.seconds(new, 4, 0) == pytest.approx(0.008)
    for _ in range(20):
        costs.observe_rung(new, 4, 0.005, 0.0)
    assert costs.seconds(new, 4, 0) == pytest.approx(0.005)
    assert costs.seconds(A, 4, 0) == pytest.approx(0.004)


def test_sizes_for_which_there_is_no_memory_are_taken_off() -> None:
    costs = cost_model({A: {1: 2.0, 2: 2.1, 4: 2.2, 8: 2.3}})
    costs.limit_batches("other", 1)
    assert (costs.knee(A), costs.rung(A, 8)) == (8, 8)
    costs.limit_batches(A.model, 7)
    assert (costs.knee(A), costs.rungs(A), costs.rung(A, 8)) == (4, [1, 2, 4], 4)
    costs.limit_batches(A.model, 0)
    assert (costs.knee(A), costs.rungs(A)) == (1, [1])
