"""A run whose shards are scored by the actors of a cluster, and written here."""

import threading
from collections import deque
from collections.abc import Callable, Mapping

from tta_server.errors import BackendFailed, ConfigError, shown
from tta_server.scoring.cluster.actors import ATTEMPTS, TICK_SECONDS, Actors, Patience, Seat
from tta_server.scoring.cluster.options import PoolSize
from tta_server.scoring.cluster.session import reason
from tta_server.scoring.cluster.worker import Refused, ShardResult
from tta_server.scoring.output import ShardEntry
from tta_server.scoring.shards import Shards

SHARDS_AHEAD = 2
"""Shards that an actor has or that wait for it."""
Listener = Callable[[ShardResult], None]


class ClusterRun:
    """Scores the shards that are not written yet; each is written by this process, once, whichever actor scored it.

    A shard whose actor is lost is scored by another. `stop` ends the run after the shards under way.
    """

    def __init__(
        self,
        shards: Shards,
        actors: Actors,
        first: Seat,
        size: PoolSize,
        done: Mapping[int, ShardEntry],
        listener: Listener,
    ) -> None:
        self._shards = shards
        self._listener = listener
        self._actors = actors
        self._size = size
        self._seats = [first]
        self._todo = deque(shard for shard in range(shards.count) if shard not in done)
        self._attempts: dict[int, int] = {}
        self._begun = False
        self._stopped = threading.Event()
        self.entries = dict(done)

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        """Return when all shards are written, or after `stop`. Raises ConfigError or BackendFailed."""
        patience = Patience(self._actors)
        while self._todo or any(seat.work for seat in self._seats):
            if self._stopped.is_set():
                self._drop_waiting()
            self._grow()
            self._give()
            self._take()
            patience.look(is_ready=bool(self._ready()))
        self._shards.output.sort_ledger(self.entries)

    def _ready(self) -> list[Seat]:
        return [seat for seat in self._seats if seat.opening is None]

    def _grow(self) -> None:
        """Start actors: as many as are wanted, but no more than there are shards."""
        shards = len(self._todo) + sum(len(seat.work) for seat in self._seats)
        while len(self._seats) < min(self._size.most, shards):
            self._seats.append(self._actors.start())

    def _give(self) -> None:
        """Give shards to the actors that are ready; each has one before any has two."""
        ready = self._ready()
        self._begun = self._begun or len(ready) >= min(self._size.least, len(self._seats))
        for depth in range(SHARDS_AHEAD if self._begun else 0):
            for seat in ready:
                if self._todo and len(seat.work) == depth:
                    shard = self._todo.popleft()
                    seat.work[seat.actor.score.remote(shard, self._shards.part(shard))] = shard

    def _drop_waiting(self) -> None:
        """Keep of each actor only the shard that it is at."""
        self._todo.clear()
        for seat in self._seats:
            for waiting in list(seat.work)[1:]:
                self._actors.ray.cancel(waiting)
                del seat.work[waiting]

    def _take(self) -> None:
        """Wait for what comes first: an actor that is ready, or a shard."""
        seats = {ref: seat for seat in self._seats for ref in seat.waits_for}
        found, _ = self._actors.ray.wait(list(seats), timeout=TICK_SECONDS)
        for seat in [seats[ref] for ref in found]:
            if seat.opening is None:
                self._finish(seat)
            elif self._actors.opened(seat) is None:
                self._seats.remove(seat)

    def _finish(self, seat: Seat) -> None:
        """Write the oldest shard of an actor."""
        ref, shard = next(iter(seat.work.items()))
        try:
            result: ShardResult | Refused = self._actors.ray.get(ref)
        except self._actors.ray.exceptions.RayError as error:
            self._lose(seat, shard, error)
            return
        if isinstance(result, Refused):
            raise ConfigError(result.sentence)
        self._check_read(shard, result)
        del seat.work[ref]
        self.entries[shard] = self._shards.output.write(result.shard)
        self._listener(result)

    def _lose(self, seat: Seat, shard: int, error: Exception) -> None:
        """Take back what a lost actor had; the first of it may be what ended it. Raises BackendFailed."""
        self._todo.extendleft(reversed(seat.work.values()))
        self._seats.remove(seat)
        self._actors.end(seat)
        self._attempts[shard] = self._attempts.get(shard, 0) + 1
        if self._attempts[shard] == ATTEMPTS:
            ids = self._shards.part(shard).ids
            raise BackendFailed(
                f"images {shown(ids[0])} to {shown(ids[-1])} ended {ATTEMPTS} actors ({reason(error)}); what is done "
                "is kept, and the same command goes on from there"
            )

    def _check_read(self, shard: int, result: ShardResult) -> None:
        """Raises ConfigError for an image that only the actor's node can't read."""
        for number in result.unread:
            if self._shards.is_readable(shard, number):
                name = self._shards.part(shard).ids[number]
                raise ConfigError(
                    f"{shown(name)}: node {result.node} can't read it, this machine can; put the images where all "
                    "nodes see them under the same path"
                )
