"""How much of a cluster a run takes."""

from collections.abc import Mapping
from dataclasses import dataclass

from tta_server.errors import InvalidInput, shown
from tta_server.scoring.cluster.session import import_ray

MOST_ACTORS = 10_000


@dataclass(frozen=True, slots=True)
class Share:
    """What an actor has of its node."""

    cpus: int
    gpus: float

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many actors these resources hold."""
        by_cpu = int(resources.get("CPU", 0) // self.cpus)
        return min(by_cpu, int(resources.get("GPU", 0) / self.gpus)) if self.gpus else by_cpu

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


@dataclass(frozen=True, slots=True)
class PoolSize:
    """How many actors: shards are scored once `least` are ready; there are `most` where the cluster has room."""

    least: int
    most: int


def read_pool_size(text: str | None) -> PoolSize | None:
    """Read `12`, or `4:12`. Raises InvalidInput."""
    if text is None:
        return None
    numbers = [int(part) if part.isascii() and part.isdecimal() else 0 for part in text.split(":")]
    if len(numbers) > 2 or not 0 < numbers[0] <= numbers[-1] <= MOST_ACTORS:
        raise InvalidInput(
            f"--ray-actors takes a number of at most {MOST_ACTORS}, or the least and the most as in 4:12, "
            f"not {shown(text)}"
        )
    return PoolSize(numbers[0], numbers[-1])


@dataclass(frozen=True, slots=True)
class Cluster:
    """The options of a cluster; None is chosen by what it has and what the model needs."""

    address: str
    size: PoolSize | None
    gpus: float | None


def read_cluster(address: str | None, actors: str | None, gpus: float | None) -> Cluster | None:
    """None without an address. Raises InvalidInput, and ConfigError without Ray."""
    size = read_pool_size(actors)
    if gpus is not None and gpus > 1 and gpus % 1:
        raise InvalidInput(f"--ray-gpus takes a whole number, or a share of one GPU like 0.5, not {gpus:g}")
    if address is not None:
        import_ray()
        return Cluster(address, size, gpus)
    if size is not None or gpus is not None:
        raise InvalidInput(f"--ray-{'gpus' if size is None else 'actors'} is for --ray; add it, or leave this out")
    return None
