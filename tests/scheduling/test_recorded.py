"""The decisions of 2,000 random histories equal the recorded ones; benchmarks/README.md says when they changed."""

import pytest

from tests.support.recorded import digest, recorded

PART = 500


@pytest.mark.parametrize(
    "first",
    [pytest.param(first, marks=[pytest.mark.slow] * (first > 0)) for first in range(0, 2000, PART)],
)
def test_a_pool_without_workers_decides_as_recorded(first: int) -> None:
    expected = recorded()[first : first + PART]
    assert len(expected) == PART
    assert [digest(number) for number in range(first, first + PART)] == expected
