"""A run: shards of images, each scored and written whole, until all are there."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from tta_server.imaging.decoding import Limits
from tta_server.scoring.batches import BatchScorer, InputImage, Scored
from tta_server.scoring.formats import Format
from tta_server.scoring.inputs import Inputs
from tta_server.scoring.output import OutputFolder, Shard, ShardEntry
from tta_server.scoring.rows import times_of
from tta_server.scoring.schema import Schema, schema_of
from tta_server.serving.answer import Answer
from tta_server.serving.plan import Plan

SHARD = 256
"""Images of a shard."""


@dataclass(frozen=True)
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

    @cached_property
    def schema(self) -> Schema:
        return schema_of(self.plan)

    def row(self, scored: Scored) -> Any:
        """What is stored of an image."""
        return self.format.row(self.schema, scored)

    def encode(self, shard: int, rows: Sequence[Any]) -> bytes:
        """The content of a shard."""
        return self.format.encode(self.schema, shard * self.shard, rows)

    def finish(self, entries: Mapping[int, ShardEntry]) -> None:
        """Write the format's files of a whole run, from its shards, once all are written. Raises ConfigError."""
        if len(entries) < self.shards:
            return
        shards = [self.output.path(entries[shard]) for shard in sorted(entries)]
        for name, chunks in self.format.summaries(self.schema, shards):
            self.output.write_file(name, chunks)


Listener = Callable[[Scored], None]
"""Called for each image once it is scored, on any thread."""
AHEAD = 2
"""Chunks of images for each thread that are under way or wait to be stored."""


@dataclass(frozen=True, slots=True)
class _Row:
    """What is stored of an image: its row, its times, and how many views ran, None if it failed."""

    stored: Any
    times: Mapping[str, Any]
    views: int | None


class Run:
    """Scores the shards that are not written yet, in their order; of each, several chunks of images at a time.

    `stop` ends it after the shard under way.
    """

    def __init__(self, task: Task, batch: int, done: Mapping[int, ShardEntry], listener: Listener) -> None:
        self._task = task
        self._scorer = task.scorer(batch)
        self._chunk = batch
        self._listener = listener
        self._stopped = threading.Event()
        self._rows: list[_Row] = []
        self.entries = dict(done)

    def stop(self) -> None:
        self._stopped.set()

    def run(self, threads: int) -> None:
        """Return when all shards are written, or after `stop`. Raises ConfigError, BackendUnavailable, DeviceLost."""
        works: deque[tuple[int, Future[Sequence[_Row]]]] = deque()
        with ThreadPoolExecutor(threads, thread_name_prefix="score") as pool:
            try:
                for shard, images in self._chunks():
                    works.append((shard, pool.submit(self._score, images)))
                    if len(works) >= AHEAD * threads:
                        self._store(*works.popleft())
                while works:
                    self._store(*works.popleft())
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self._task.output.sort_ledger(self.entries)

    def _chunks(self) -> Iterator[tuple[int, Sequence[InputImage]]]:
        """The images of each shard, as many at a time as a batch has rows; a chunk is of one shard."""
        for shard in range(self._task.shards):
            if self._stopped.is_set():
                return
            if shard not in self.entries:
                images = self._task.shard_images(shard)
                while chunk := list(islice(images, self._chunk)):
                    yield shard, chunk

    def _score(self, images: Sequence[InputImage]) -> Sequence[_Row]:
        """The rows of these images; their answers, with masks and maps, are not kept."""
        rows = []
        for scored in self._scorer.score(images):
            rows.append(_Row(self._task.row(scored), times_of(scored), _views(scored)))
            self._listener(scored)
        return rows

    def _store(self, shard: int, work: Future[Sequence[_Row]]) -> None:
        """Keep the rows of a chunk; write the shard with its last one."""
        self._rows += work.result()
        if len(self._rows) < self._task.images_of(shard):
            return
        rows, self._rows = self._rows, []
        times = b"".join(json.dumps(row.times).encode() + b"\n" for row in rows)
        content = self._task.encode(shard, [row.stored for row in rows])
        self.entries[shard] = self._task.output.write(
            Shard(shard, self._task.format.suffix, content, times, _counts(rows))
        )


def _counts(rows: Sequence[_Row]) -> Mapping[str, int]:
    failed = sum(row.views is None for row in rows)
    return {"images": len(rows), "failed": failed, "views": sum(row.views or 0 for row in rows)}


def _views(scored: Scored) -> int | None:
    return len(scored.outcome.receipt.views) if isinstance(scored.outcome, Answer) else None
