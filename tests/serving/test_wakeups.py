"""Admitted jobs wake the threads that decode them: slots, or workers where there are any."""

import threading

import pytest

from tests.support.serving import PATIENCE
from tests.support.simulator import A, cost_model, flat
from tta_server.scheduling.base import BaseScheduler
from tta_server.scheduling.devices.scheduler import DeviceScheduler
from tta_server.scheduling.devices.slots import DeviceSlots
from tta_server.scheduling.scheduler import Scheduler
from tta_server.serving.wakeups import Wakeups


@pytest.mark.parametrize("workers", [0, 1])
def test_a_job_wakes_a_thread_that_can_decode_it(workers: int) -> None:
    costs = cost_model({A: flat(1)})
    scheduler: BaseScheduler[int] = DeviceScheduler(costs, DeviceSlots(1), workers) if workers else Scheduler(costs, 1)
    lock, waits, woken = threading.Lock(), threading.Event(), threading.Event()
    wake: Wakeups[int] = Wakeups(lock, scheduler)

    def wait() -> None:
        with lock:
            waits.set()
            (wake.workers if workers else wake.slots).wait()
        woken.set()

    threading.Thread(target=wait, daemon=True).start()
    assert waits.wait(PATIENCE)
    with lock:  # so it waits by now
        wake.wake_for_jobs(1)
    assert woken.wait(PATIENCE)
