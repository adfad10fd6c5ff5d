"""The pools of a server: one of CPU cores and one for each device, each with an engine and costs of its own."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tta_server.backends import CPU
from tta_server.errors import ConfigError
from tta_server.repository.model import Model
from tta_server.scheduling.base import BaseScheduler
from tta_server.scheduling.costs import CostModel
from tta_server.scheduling.devices.scheduler import DeviceScheduler
from tta_server.scheduling.devices.slots import MOST_IN_FLIGHT, DeviceSlots
from tta_server.scheduling.jobs import Backlog, Bounds, Job, Quote
from tta_server.scheduling.scheduler import Scheduler
from tta_server.serving.engine import Engine
from tta_server.serving.job import ImageJob


@dataclass(frozen=True, slots=True)
class PoolSize:
    """Slots, which run batches, and workers, threads that decode and make answers beside them, or else slots do it.

    `in_flight` is the number of batches that a slot has at once.
    """

    slots: int
    workers: int
    in_flight: int = 1


def pool_sizes(permits: Mapping[str, int], slots: int | None, workers: int | None, cores: int) -> dict[str, PoolSize]:
    """The pools of a server by device, CPU always among them; `slots` and `workers` are None where they are not set.

    `permits` has the devices, with the number of batches that a remote server takes at once, 0 for a device here.
    Without a device the slots are the cores. With one, its workers are: all but one for models on the CPU and one for
    the front end; devices share them. A device has one slot, a remote server one for each permit.
    """
    others = sorted({*permits} - {CPU})
    if not others:
        return {CPU: PoolSize(slots or cores, workers or 0)}
    total = max(1, cores - 2) if workers is None else workers
    each = max(1, total // len(others)) if total else 0

    def size(device: str) -> PoolSize:
        return PoolSize(permits[device] or 1, each, 1 if permits[device] or not each else MOST_IN_FLIGHT)

    return {CPU: PoolSize(slots or 1, 0), **{device: size(device) for device in others}}


def make_scheduler(costs: CostModel, size: PoolSize, bounds: Bounds) -> BaseScheduler[ImageJob]:
    """For slots that do everything, or run batches beside workers."""
    if size.workers:
        return DeviceScheduler(costs, DeviceSlots(size.slots, most_in_flight=size.in_flight), size.workers, bounds)
    return Scheduler(costs, size.slots, bounds)


@dataclass(frozen=True, slots=True)
class ServingPool:
    """A pool with its engine; `costs` are those that its scheduler uses."""

    size: PoolSize
    costs: CostModel
    engine: Engine[ImageJob]


class Pools:
    """Gives each job to the engine of its model's device."""

    def __init__(self, pools: Mapping[str, ServingPool]) -> None:
        self._pools = pools

    def of(self, model: Model) -> ServingPool:
        """The pool that runs a model. Raises ConfigError if the server has none for its device."""
        device = model.backend.device
        if device not in self._pools:
            raise ConfigError(
                f"{model.name}: backend.device is {device}; this server was started without a model on it and has the "
                f"pools {', '.join(self._pools)}: restart it"
            )
        return self._pools[device]

    def _engine(self, job: Job[ImageJob]) -> Engine[ImageJob]:
        return self.of(job.payload.model).engine

    def start(self) -> None:
        """Starts the threads of all pools."""
        for pool in self._pools.values():
            pool.engine.start()

    def check(self) -> None:
        """Raises NotReady in a fork of this process."""
        for pool in self._pools.values():
            pool.engine.check()

    def submit(self, jobs: Sequence[Job[ImageJob]]) -> None:
        """Admits all or none of these jobs, which are of one model. Raises as `Engine.submit`."""
        self._engine(jobs[0]).submit(jobs)

    def cancel(self, job: Job[ImageJob]) -> bool:
        """Cancels a job whose client has left. False if it was settled already."""
        return self._engine(job).cancel(job)

    def quote(self, job: Job[ImageJob]) -> Quote:
        """What this job would get now. Raises as `Engine.quote`."""
        return self._engine(job).quote(job)

    @property
    def slots(self) -> dict[str, int]:
        """The number of slots by device."""
        return {device: pool.size.slots for device, pool in self._pools.items()}

    def backlog(self) -> Backlog:
        """The live jobs of all pools."""
        found = [pool.engine.backlog() for pool in self._pools.values()]
        seconds = sum(backlog.seconds for backlog in found)
        return Backlog(sum(backlog.jobs for backlog in found), seconds, sum(backlog.nbytes for backlog in found))

    def drain(self, seconds: float) -> None:
        """Drains all pools, which work meanwhile, within `seconds` together."""
        end = time.monotonic() + seconds
        for pool in self._pools.values():
            pool.engine.drain(max(0.0, end - time.monotonic()))
