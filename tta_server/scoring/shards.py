"""The shards of a run, and how images become what is written of one: the same wherever it is scored."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tta_server.errors import TTAError
from tta_server.imaging.decoding import Limits
from tta_server.scoring.batches import BatchScorer, InputImage, Scored
from tta_server.scoring.formats import Format
from tta_server.scoring.inputs import Inputs
from tta_server.scoring.output import OutputFolder, Shard, ShardEntry
from tta_server.scoring.remote import RemoteScorer
from tta_server.scoring.rows import times_of
from tta_server.scoring.schema import Schema
from tta_server.serving.answer import Answer

SHARD = 256
"""Images of a shard."""
AHEAD = 2
"""Chunks of images for each thread that are under way or wait to be stored."""
Listener = Callable[[Scored], None]
"""Called for each image once it is scored, on any thread."""


@dataclass(frozen=True, slots=True)
class Shards:
    """What is scored, `size` images a shard, and where and how it is stored."""

    inputs: Inputs
    limits: Limits
    output: OutputFolder
    format: Format
    size: int = SHARD

    @property
    def images(self) -> int:
        return len(self.inputs)

    @property
    def count(self) -> int:
        return -(-self.images // self.size)

    def length(self, shard: int) -> int:
        """The number of images of a shard; the last may have fewer."""
        return min(self.size, self.images - shard * self.size)

    def images_of(self, shard: int) -> Iterator[InputImage]:
        return self.inputs.images(shard * self.size, (shard + 1) * self.size, self.limits)

    def part(self, shard: int) -> Inputs:
        """The images of a shard, for another machine."""
        return self.inputs.part(shard * self.size, min((shard + 1) * self.size, self.images))

    def is_readable(self, shard: int, number: int) -> bool:
        """Whether this process can read an image of a shard."""
        first = shard * self.size + number
        try:
            next(self.inputs.images(first, first + 1, self.limits)).read()
        except (OSError, TTAError):
            return False
        return True

    def finish(self, schema: Schema, entries: Mapping[int, ShardEntry]) -> None:
        """Write the format's files of a whole run, from its shards, once all are written. Raises ConfigError."""
        if len(entries) < self.count:
            return
        written = [self.output.path(entries[shard]) for shard in sorted(entries)]
        for name, chunks in self.format.summaries(schema, written):
            self.output.write_file(name, chunks)


@dataclass(frozen=True, slots=True)
class Row:
    """What is stored of an image: its row, its times, and how many views ran, None if it failed."""

    stored: Any
    times: Mapping[str, Any]
    views: int | None


@dataclass(frozen=True, slots=True)
class ShardScorer:
    """Makes the rows of images, and the shard of rows. `chunk` is the number of rows of a batch, `size` of a shard."""

    scorer: BatchScorer | RemoteScorer
    chunk: int
    format: Format
    schema: Schema
    listener: Listener
    size: int = SHARD

    def chunks(self, images: Iterable[InputImage]) -> Iterator[Sequence[InputImage]]:
        """The images of a shard, as many at a time as a batch has rows."""
        remaining = iter(images)
        while chunk := list(islice(remaining, self.chunk)):
            yield chunk

    def rows(self, images: Sequence[InputImage]) -> Sequence[Row]:
        """The rows of a chunk, on the calling thread; its answers, with masks and maps, are not kept."""
        rows = []
        for scored in self.scorer.score(images):
            rows.append(Row(self.format.row(self.schema, scored), times_of(scored), _views(scored)))
            self.listener(scored)
        return rows

    def shard(self, number: int, rows: Sequence[Row]) -> Shard:
        times = b"".join(json.dumps(row.times).encode() + b"\n" for row in rows)
        content = self.format.encode(self.schema, number * self.size, [row.stored for row in rows])
        return Shard(number, self.format.suffix, content, times, _counts(rows))


def _counts(rows: Sequence[Row]) -> Mapping[str, int]:
    failed = sum(row.views is None for row in rows)
    return {"images": len(rows), "failed": failed, "views": sum(row.views or 0 for row in rows)}


def _views(scored: Scored) -> int | None:
    return len(scored.outcome.receipt.views) if isinstance(scored.outcome, Answer) else None
