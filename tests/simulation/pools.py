"""Servers in virtual time with one pool, and traffic for them."""

from collections.abc import Mapping
from random import Random

from tta_server.calibration.fit import Run
from tta_server.scheduling.costs import Bucket
from tta_server.scheduling.jobs import Bounds, Priority
from tta_server.scheduling.stopping import All
from tta_server.simulation.costs import ModelCost, Noise, Overhead
from tta_server.simulation.jobs import Request, RequestSpec, SimulatedJob
from tta_server.simulation.pool import PoolSize
from tta_server.simulation.server import SimulatedServer
from tta_server.simulation.traffic import synthetic_runs

CPU = {1: 2.1}
GPU = {1: 5.0, 2: 5.1, 4: 5.3, 8: 5.9, 16: 7.2}
H100 = {1: 1.5, 8: 1.7, 16: 2.0, 32: 3.0, 64: 5.2, 128: 9.8}
SURE = [Run([1.0] * 64, [0] * 64)]
SPEC = RequestSpec(
    "m", 0.1, 8, 1, Priority.INTERACTIVE, All(), lambda margin, done: 1 - margin, synthetic_runs(8, Random(0))
)


class OnePool(SimulatedServer):
    """A server with one pool of all models."""

    def __init__(
        self,
        costs: Mapping[str, ModelCost],
        size: PoolSize | int,
        bounds: Bounds | None = None,
        overhead: Overhead | None = None,
        seed: int = 0,
    ) -> None:
        """`size` is a number of slots, or more than that."""
        super().__init__({"": PoolSize(size) if isinstance(size, int) else size}, {"": costs}, bounds, overhead, seed)
        self.pool = self.pools[""]


def cost(
    curve: dict[int, float], decode: float = 0.0, finish: float = 0.0, noise: float = 0.0, model: str = "m"
) -> ModelCost:
    """All in milliseconds."""
    bucket = Bucket(model, 1, 1)
    seconds = {n: ms / 1e3 for n, ms in curve.items()}
    return ModelCost({bucket: seconds}, (bucket,), decode / 1e3, finish / 1e3, 10_000, noise=Noise(noise))


def arriving(per_s: float, seconds: float, spec: RequestSpec = SPEC, seed: int = 0) -> list[Request]:
    random, at, found = Random(seed), 0.0, []
    while (at := at + random.expovariate(per_s)) < seconds:
        found.append(Request(at, 0, spec, random.choice(spec.images)))
    return found


def run(server: SimulatedServer, *requests: Request) -> list[SimulatedJob]:
    return server.run(requests)


def device(workers: int = 15, noise: float = 0.05, prepare_ms: float = 0.0, in_flight: int = 2) -> OnePool:
    """A device that runs a batch of 64 views in little more time than one of 8, with workers beside it."""
    size = PoolSize(1, workers, prepare_ms / 1e3, in_flight)
    return OnePool({"m": cost(H100, decode=0.5, finish=0.05, noise=noise)}, size)
