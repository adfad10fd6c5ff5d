"""A device's scheduler whose steps a test starts and ends one by one."""

from typing import Any

from tests.support.simulator import A, Arrival, B, C, cost_model
from tta_server.scheduling.devices.scheduler import DeviceScheduler
from tta_server.scheduling.devices.slots import DeviceSlots
from tta_server.scheduling.jobs import MERGED, Batch, Bounds, Decode, Job, Outcome

CURVE = {1: 4.0, 2: 4.2, 4: 4.6, 8: 6.0, 16: 20.0}
"""The knee is 8."""
DECODE, FINISH = 1.0, 0.5


class Hand:
    """A scheduler whose steps a test starts and ends."""

    def __init__(
        self, workers: int = 2, slots: int = 1, bounds: Bounds | None = None, finish: float = FINISH, prepare: float = 0
    ) -> None:
        costs = cost_model({A: CURVE, B: CURVE, C: CURVE}, DECODE, finish)
        self.scheduler: DeviceScheduler[Any] = DeviceScheduler(
            costs, DeviceSlots(slots, prepare / 1e3), workers, bounds
        )
        self.slots, self.workers = slots, workers

    def admit(self, ms: float = 0, **changes: Any) -> Job[Any]:
        arrival = Arrival(ms, **({"budget_ms": 100, "buckets": (A,) * 8} | changes))
        job = arrival.job(None, ms / 1e3)
        self.scheduler.admit(job, ms / 1e3)
        return job

    def chore(self, worker: int, ms: float) -> Any:
        return self.scheduler.next_chore(self.slots + worker, ms / 1e3)

    def decode(self, *jobs: Job[Any], ms: float = 0) -> None:
        """Decodes these jobs, which are the first in the queue, until a millisecond later."""
        for job in jobs:
            step = self.chore(0, ms)
            assert isinstance(step, Decode)
            assert step.job is job
            self.scheduler.ready(step, DECODE / 1e3, (ms + DECODE) / 1e3)

    def batch(self, ms: float, slot: int = 0) -> Batch[Any]:
        step = self.scheduler.next_batch(slot, ms / 1e3)
        assert isinstance(step, Batch)
        return step

    def complete(self, batch: Batch[Any], ms: float, outcome: Outcome = MERGED) -> list[Any]:
        outcomes = dict.fromkeys(batch.views, outcome)
        return self.scheduler.completed(batch, outcomes, batch.estimate, ms / 1e3)
