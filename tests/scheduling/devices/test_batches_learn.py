"""A device's batch sizes compare by what warm-up measured, whichever of them have run since."""

from tests.support.simulator import A, cost_model
from tta_server.scheduling.devices.scheduler import DeviceScheduler
from tta_server.scheduling.devices.slots import DeviceSlots
from tta_server.scheduling.jobs import Decode, Job

CURVE = {1: 60.0, 8: 68.0, 16: 80.0, 32: 120.0, 64: 208.0, 128: 392.0}


def test_a_size_that_has_not_run_is_not_passed_over_because_others_turned_out_cheaper() -> None:
    """Batches of 32 take what warm-up measured, which is under their estimate; those of 64 keep their margin."""
    costs = cost_model({A: CURVE})
    for number in range(30):
        costs.observe_rung(A, 32, CURVE[32] / 1e3 / 1.3, number / 100)
    now = 0.3
    assert costs.seconds(A, 64, now) / 64 > costs.seconds(A, 32, now) / 32
    scheduler: DeviceScheduler[int] = DeviceScheduler(costs, DeviceSlots(1), 1)
    for number in range(20):
        scheduler.admit(Job(number, "m", (A,) * 8, 1, now + 5, 1000), now)
    while isinstance(step := scheduler.next_chore(1, now), Decode):
        scheduler.ready(step, 0.0, now)
    batch = scheduler.next_batch(0, now)
    assert batch is not None
    assert len(batch.items) == 64
