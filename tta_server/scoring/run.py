"""A run: shards of images, each scored and written whole, until all are there."""

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

from tta_server.imaging.decoding import Limits
from tta_server.scoring.batches import BatchScorer, InputImage
from tta_server.scoring.formats import Format
from tta_server.scoring.inputs import Inputs
from tta_server.scoring.output import OutputFolder, ShardEntry
from tta_server.scoring.processes import THREADS, Processes
from tta_server.scoring.remote import RemotePlan, RemoteScorer
from tta_server.scoring.schema import Schema, schema_of
from tta_server.scoring.shards import AHEAD, SHARD, Listener, Row, RowMaker, Shards, ShardScorer
from tta_server.serving.plan import Plan


@dataclass(frozen=True)
class Task:
    """What is scored, how, and where it is written."""

    plan: Plan | RemotePlan
    inputs: Inputs
    limits: Limits
    output: OutputFolder
    format: Format
    shard: int = SHARD

    @property
    def shards(self) -> Shards:
        return Shards(self.inputs, self.limits, self.output, self.format, self.shard)

    @property
    def is_remote(self) -> bool:
        """Whether a server elsewhere scores."""
        return isinstance(self.plan, RemotePlan)

    @cached_property
    def schema(self) -> Schema:
        return self.plan.schema if isinstance(self.plan, RemotePlan) else schema_of(self.plan)

    def scorer(self, batch: int) -> BatchScorer | RemoteScorer:
        """What several threads use at once; a server is asked for one image at a time by each."""
        if isinstance(self.plan, RemotePlan):
            return self.plan.scorer()
        return BatchScorer(self.plan, batch, self.limits)

    def shard_scorer(self, batch: int, listener: Listener, processes: Processes | None = None) -> ShardScorer:
        """`processes` score instead of the calling thread."""
        maker = processes or RowMaker(self.scorer(batch), self.format, self.schema)
        scorer = ShardScorer(maker.rows, batch, self.format, self.schema, listener, self.shard)
        return replace(scorer, together=processes.together) if processes else scorer

    def finish(self, entries: Mapping[int, ShardEntry]) -> None:
        self.shards.finish(self.schema, entries)


class Run:
    """Scores the shards that are not written yet, in their order; of each, several chunks of images at a time.

    `workers` is a number of threads, or processes. `stop` ends it after the shard under way.
    """

    def __init__(
        self,
        task: Task,
        batch: int,
        workers: int | Processes,
        done: Mapping[int, ShardEntry],
        listener: Listener,
    ) -> None:
        threads, processes = (workers, None) if isinstance(workers, int) else (workers.count * THREADS, workers)
        self._scorer = task.shard_scorer(batch, listener, processes)
        self._shards = task.shards
        self._threads = threads
        self._stopped = threading.Event()
        self._rows: list[Row] = []
        self.entries = dict(done)

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        """Return when all shards are written, or after `stop`.

        Raises ConfigError, BackendUnavailable, DeviceLost, and BackendFailed if a process ends.
        """
        works: deque[tuple[int, Future[Sequence[Row]]]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="score") as pool:
            try:
                for shard, images in self._chunks():
                    works.append((shard, pool.submit(self._scorer.rows, images)))
                    if len(works) >= AHEAD * self._threads:
                        self._store(*works.popleft())
                while works:
                    self._store(*works.popleft())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self._shards.output.sort_ledger(self.entries)

    def _chunks(self) -> Iterator[tuple[int, Sequence[InputImage]]]:
        """The chunks of each shard; a chunk is of one shard."""
        for shard in range(self._shards.count):
            if self._stopped.is_set():
                return
            if shard not in self.entries:
                for chunk in self._scorer.chunks(self._shards.images_of(shard)):
                    yield shard, chunk

    def _store(self, shard: int, work: Future[Sequence[Row]]) -> None:
        """Keep the rows of a chunk; write the shard with its last one."""
        self._rows += work.result()
        if len(self._rows) < self._shards.length(shard):
            return
        rows, self._rows = self._rows, []
        self.entries[shard] = self._shards.output.write(self._scorer.shard(shard, rows))
