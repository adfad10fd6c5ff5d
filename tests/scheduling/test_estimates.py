"""The remaining cost of jobs: equal pieces of work are assigned to slots at once, as if one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tta_server.scheduling.costs import Bucket, CostModel
from tta_server.scheduling.estimates import Estimates, assign, assign_all
from tta_server.scheduling.jobs import Job

times = st.floats(0, 20, width=32)


@given(st.lists(times, min_size=1, max_size=5), times, st.floats(0.001, 3), st.integers(1, 60))
def test_equal_pieces_are_put_as_if_one_by_one(free, start, seconds, number):
    one_by_one, at_once = sorted(free), sorted(free)
    expected = max(assign(one_by_one, start, seconds) for _ in range(number))
    assert assign_all(at_once, start, seconds, number) == pytest.approx(expected, abs=1e-9)
    assert at_once == pytest.approx(one_by_one, abs=1e-9)
    assert at_once == sorted(at_once)


class CountingCosts(CostModel):
    """Records what is estimated."""

    def __init__(self):
        super().__init__()
        self.priced = []

    def seconds(self, bucket, n, now):
        self.priced.append((bucket, n))
        return super().seconds(bucket, n, now)


def test_tiles_of_one_bucket_are_priced_once():
    costs = CountingCosts()
    small, large = Bucket("m", 8, 8), Bucket("m", 16, 16)
    for bucket in (small, large):
        costs.warm(bucket, {1: bucket.area / 1e4})
    costs.warm_stage("finish", "m", 64, 1e-6)
    costs.warm_stage("decode", "m", 64, 1e-6)
    job = Job(None, "m", (small,) * 1000 + (large,) * 1000 + (small,), 2001, 1e9, 64)
    estimates = Estimates(costs)
    assert list(estimates.runs(job, 10, 2001, 0.0)) == [
        (pytest.approx(0.00832), 990),
        (pytest.approx(0.03328), 1000),
        (pytest.approx(0.00832), 1),
    ]
    assert sum(estimates.views(job, 0, 2001, 0.0)) == pytest.approx(1001 * 0.00832 + 1000 * 0.03328)
    costs.priced.clear()
    end = estimates.schedule_job([0.0, 0.0], job, 0.0, 0.0)
    assert end == pytest.approx((1001 * 0.00832 + 1000 * 0.03328) / 2, rel=0.01)
    assert len(costs.priced) == 3
