"""Small histories in which an admitted job once was late: found at random and made smaller by `benchmarks/laws.py`."""

import pytest

from tests.support.device_histories import CURVES, DeviceHistory, violation_of
from tests.support.devices import Machine
from tests.support.simulator import A, Arrival, B, C, D, Faults
from tta_server.scheduling.jobs import Bounds, Priority

FLAT, H100 = CURVES["flat"], CURVES["h100"]

LATE = {
    "a job waits for the answers that workers make just now, also for those of later jobs": DeviceHistory(
        Machine(H100, slots=2, workers=3, finish_ms=4),
        arrivals=(
            Arrival(0, 98, (A, A)),
            Arrival(0, 122, (A, A)),
            Arrival(0, 93, (B, B), mandatory=2),
            Arrival(0, 148, (B,)),
            Arrival(0, 81, (C,)),
            Arrival(0, 89, (C,)),
            Arrival(0, 14, (C,)),
            Arrival(0, 13, (B,)),
            Arrival(0, 10, (B,)),
        ),
    ),
    "a slot prepares another job's batch for longer than its own batch runs, before an image is decoded": DeviceHistory(
        Machine(FLAT, decode_ms=2, prepare_ms=20),
        arrivals=(
            Arrival(11, 60, (B,), priority=Priority.BATCH),
            Arrival(4, 73, (B,)),
            Arrival(1, 1000, (A, A)),
            Arrival(4, 300, (D,), priority=Priority.BATCH),
        ),
    ),
    "mandatory views of two sizes follow one another, however many slots there are": DeviceHistory(
        Machine(FLAT, slots=2),
        arrivals=(
            Arrival(6, 39, (D, D)),
            Arrival(0, 33, (C, C)),
            Arrival(0, 30, (C,)),
            Arrival(5, 83, (B,)),
            Arrival(8, 59, (C,)),
            Arrival(11, 65, (B,)),
            Arrival(22, 59, (B,)),
            Arrival(23, 35, (A, B), mandatory=2),
            Arrival(3, 17, (C,)),
            Arrival(0, 106),
            Arrival(20, 101, (B,)),
            Arrival(20, 33),
            Arrival(0, 63, (B,)),
            Arrival(0, 102, (B,)),
            Arrival(0, 1000, (B, A)),
            Arrival(0, 300, (A, A), default_budget_ms=10),
        ),
    ),
    "a slot that prepares takes a view that another one would begin earlier": DeviceHistory(
        Machine(FLAT, slots=2, prepare_ms=20),
        arrivals=(
            Arrival(0, 101),
            Arrival(0, 110, (D,) * 9),
            Arrival(5, 77, (D,)),
            Arrival(9, 67, (B, B, B)),
            Arrival(14, 64, (C,)),
        ),
    ),
    "the same on an idle pool": DeviceHistory(
        Machine(FLAT, slots=2, prepare_ms=20), arrivals=(Arrival(0, 28, (B, A, B), mandatory=3),)
    ),
}


@pytest.mark.parametrize("history", LATE.values(), ids=LATE)
def test_an_admitted_job_is_in_time(history: DeviceHistory) -> None:
    assert violation_of(history) is None


def test_a_quote_of_a_pool_without_room_asks_to_wait() -> None:
    """The only live job is late: it is expected to be answered just now, and still takes the only place."""
    slow = Faults(speeds=((12, 2.0),))
    arrivals = (Arrival(16, 300, (C,)), Arrival(20, 62, (B,)))
    assert violation_of(DeviceHistory(Machine(FLAT, decode_ms=0.5), Bounds(jobs=1), arrivals, slow)) is None
