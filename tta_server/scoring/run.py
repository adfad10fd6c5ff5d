"""A run: shards of images, each scored and written whole, until all are there."""

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tta_server.imaging.decoding import Limits
from tta_server.scoring.batches import BatchScorer, InputImage, Scored
from tta_server.scoring.formats import Format
from tta_server.scoring.inputs import Inputs
from tta_server.scoring.output import OutputFolder, ShardEntry
from tta_server.scoring.shards import AHEAD, SHARD, Listener, Row, ShardScorer
from tta_server.serving.plan import Plan


@dataclass(frozen=True, slots=True)
class Task:
    """What is scored, how, and where it is written."""

    plan: Plan
    inputs: Inputs
    limits: Limits
    output: OutputFolder
    format: Format
    shard: int = SHARD

    @property
    def images(self) -> int:
        return len(self.inputs)

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard)

    def scorer(self, batch: int) -> BatchScorer:
        return BatchScorer(self.plan, batch, self.limits)

    def shard_images(self, shard: int) -> Iterator[InputImage]:
        return self.inputs.images(shard * self.shard, (shard + 1) * self.shard, self.limits)

    def images_of(self, shard: int) -> int:
        return min(self.shard, self.images - shard * self.shard)

    @property
    def name(self) -> str:
        """Of what the model does, such as detection."""
        return self.plan.model.task.name

    def row(self, scored: Scored) -> Any:
        """What is stored of an image."""
        return self.format.row(self.name, scored)


class Run:
    """Scores the shards that are not written yet, in their order; of each, several chunks of images at a time.

    `stop` ends it after the shard under way.
    """

    def __init__(
        self, task: Task, batch: int, threads: int, done: Mapping[int, ShardEntry], listener: Listener
    ) -> None:
        self._task = task
        self._scorer = ShardScorer(task.scorer(batch), batch, task.format, listener)
        self._threads = threads
        self._stopped = threading.Event()
        self._rows: list[Row] = []
        self.entries = dict(done)

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        """Return when all shards are written, or after `stop`. Raises ConfigError, BackendUnavailable, DeviceLost."""
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
        self._task.output.sort_ledger(self.entries)

    def _chunks(self) -> Iterator[tuple[int, Sequence[InputImage]]]:
        """The chunks of each shard; a chunk is of one shard."""
        for shard in range(self._task.shards):
            if self._stopped.is_set():
                return
            if shard not in self.entries:
                for chunk in self._scorer.chunks(self._task.shard_images(shard)):
                    yield shard, chunk

    def _store(self, shard: int, work: Future[Sequence[Row]]) -> None:
        """Keep the rows of a chunk; write the shard with its last one."""
        self._rows += work.result()
        if len(self._rows) < self._task.images_of(shard):
            return
        rows, self._rows = self._rows, []
        self.entries[shard] = self._task.output.write(self._scorer.shard(shard, rows))
