"""The shards of a run, and how images become what is written of one: the same wherever it is scored."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tta_server.errors import TTAError
from tta_server.imaging.decoding import Limits
from tta_server.scoring.batches import BatchScorer, InputImage
from tta_server.scoring.formats import Format
from tta_server.scoring.inputs import Inputs
from tta_server.scoring.output import OutputFolder, Shard, ShardEntry
from tta_server.scoring.remote import RemoteScorer
from tta_server.scoring.schema import Schema

SHARD = 256
"""Images of a shard."""
AHEAD = 2
"""Chunks of images for each thread that are under way or wait to be stored."""


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
    """What is kept of an image: its row, how long each stage took, and how many views ran, or why it failed."""

    id: str
    stored: Any
    stages_ms: Mapping[str, float]
    views: int
    error: str | None = None

    @property
    def times(self) -> Mapping[str, Any]:
        """A line of the file of times."""
        return {"id": self.id, **({"stages_ms": self.stages_ms} if self.error is None else {})}


Listener = Callable[[Row], None]
"""Called for each image once it is scored, on any thread."""
MakeRows = Callable[[Sequence[InputImage]], Iterable[Row]]
"""Scores images, on any thread."""


@dataclass(frozen=True, slots=True)
class RowMaker:
    """Makes rows on the calling thread; answers, with masks and maps, are not kept."""

    scorer: BatchScorer | RemoteScorer
    format: Format
    schema: Schema

    def rows(self, images: Iterable[InputImage]) -> Iterator[Row]:
        for scored in self.scorer.score(images):
            stored, outcome = self.format.row(self.schema, scored), scored.outcome
            if isinstance(outcome, str):
                yield Row(scored.id, stored, {}, 0, outcome)
            else:
                yield Row(scored.id, stored, dict(outcome.receipt.stages_ms), len(outcome.receipt.views))


def _one() -> int:
    return 1


@dataclass(frozen=True, slots=True)
class ShardScorer:
    """Makes the rows of images, and the shard of rows.

    `chunk` is the number of rows of a batch, `size` of a shard; `together` says how many chunks are scored at a time.
    """

    make_rows: MakeRows
    chunk: int
    format: Format
    schema: Schema
    listener: Listener
    size: int = SHARD
    together: Callable[[], int] = _one

    def chunks(self, images: Iterable[InputImage]) -> Iterator[Sequence[InputImage]]:
        """The images of a shard, those of some chunks at a time."""
        remaining = iter(images)
        while some := list(islice(remaining, self.chunk * self.together())):
            yield some

    def rows(self, images: Sequence[InputImage]) -> Sequence[Row]:
        """The rows of a chunk."""
        rows = []
        for row in self.make_rows(images):
            rows.append(row)
            self.listener(row)
        return rows

    def shard(self, number: int, rows: Sequence[Row]) -> Shard:
        times = b"".join(json.dumps(row.times).encode() + b"\n" for row in rows)
        content = self.format.encode(self.schema, number * self.size, [row.stored for row in rows])
        return Shard(number, self.format.suffix, content, times, _counts(rows))


def _counts(rows: Sequence[Row]) -> Mapping[str, int]:
    failed = sum(row.error is not None for row in rows)
    return {"images": len(rows), "failed": failed, "views": sum(row.views for row in rows)}
