"""Actors of a run: asked to load the model, then to score shards, in order."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tta_server.errors import BackendFailed, ConfigError, shown
from tta_server.scoring.cluster.options import Share
from tta_server.scoring.cluster.session import reason
from tta_server.scoring.cluster.worker import Opened, Refused, Setup, ShardWorker

ATTEMPTS = 5
"""Actors that a shard, or the start of one, may end before the run ends."""
TICK_SECONDS = 0.25
"""Between two looks whether the run is to stop."""
NOTE_SECONDS = 15.0
"""Without an actor that is ready, after which this is said."""
Notify = Callable[[str], None]


@dataclass(eq=False, slots=True)
class Seat:
    """An actor: the reference of its start until that is done, and of each shard that it was given, oldest first."""

    actor: Any
    opening: Any | None
    work: dict[Any, int] = field(default_factory=dict)

    @property
    def waits_for(self) -> list[Any]:
        return [*self.work] if self.opening is None else [self.opening]


class Actors:
    """Starts actors, each with its share of a node, and takes what they return."""

    def __init__(self, ray: Any, setup: Setup, model: bytes, share: Share, notify: Notify) -> None:
        self.ray = ray
        self.notify = notify
        self._setup = setup
        self._model = ray.put(model)
        self.share = share
        self._expected: Mapping[str, Any] | None = None
        self._failed_starts = 0

    def start(self) -> Seat:
        """An actor that is wanted: it begins once a node has room for it."""
        how = {"num_cpus": self.share.cpus, "num_gpus": self.share.gpus, "scheduling_strategy": "SPREAD"}
        actor = self.ray.remote(ShardWorker).options(max_restarts=0, max_task_retries=0, **how).remote()
        return Seat(actor, actor.open.remote(self._setup, self._model))

    def first(self) -> tuple[Seat, Opened]:
        """The first actor, ready; all others must have its batch size, model, device and versions."""
        seat, patience, opened = self.start(), Patience(self), None
        while opened is None:
            if self.ray.wait([seat.opening], timeout=TICK_SECONDS)[0] and (opened := self.opened(seat)) is None:
                seat = self.start()
            patience.look(is_ready=False)
        self._setup, self._expected = replace(self._setup, batch=opened.batch), opened.fingerprint
        return seat, opened

    def opened(self, seat: Seat) -> Opened | None:
        """The model that an actor has loaded; None if the actor is lost. Raises ConfigError or BackendFailed."""
        try:
            found: Opened | Refused = self.ray.get(seat.opening)
        except self.ray.exceptions.RayError as error:
            self.end(seat)
            self._lost_start(error)
            return None
        if isinstance(found, Refused):
            raise ConfigError(found.sentence)
        if self._expected is not None and found.fingerprint != self._expected:
            raise ConfigError(f"node {found.node}: {difference(self._expected, found.fingerprint)}")
        self._failed_starts = 0
        seat.opening = None
        return found

    def end(self, seat: Seat) -> None:
        """End an actor, and drop what it was given."""
        self.ray.kill(seat.actor)
        seat.work.clear()

    def _lost_start(self, error: Exception) -> None:
        self._failed_starts += 1
        text = str(error)
        if "No module named 'tta_server" in text:
            raise ConfigError("a node of the cluster lacks tta-server; install this version on every node") from None
        if self._failed_starts == ATTEMPTS:
            raise BackendFailed(f"{ATTEMPTS} actors in a row ended before they were ready: {reason(error)}")


class Patience:
    """Says what an actor needs where none is ready for long."""

    def __init__(self, actors: Actors) -> None:
        self._actors = actors
        self._since: float | None = time.monotonic()

    def look(self, is_ready: bool) -> None:
        if is_ready:
            self._since = time.monotonic()
        elif self._since is not None and time.monotonic() - self._since > NOTE_SECONDS:
            self._since = None
            resources = self._actors.ray.cluster_resources()
            has = f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU"
            self._actors.notify(f"waiting for an actor: each takes {self._actors.share}, the cluster has {has}")


def difference(expected: Any, found: Any, place: str = "") -> str:
    """Where two fingerprints first differ, as the end of a sentence."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in {**expected, **found}:
            if expected.get(key) != found.get(key):
                return difference(expected.get(key), found.get(key), f"{place}.{key}" if place else key)
    return f"{place} is {shown(found)}, on the first node {shown(expected)}; results of both do not belong together"
