"""A run of `tta-server score` from its first shard to its exit status."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

import typer

from tta_server.cli.console import err, note, problem
from tta_server.cli.score_metrics import Endpoint, ScoreMetrics, serve_metrics
from tta_server.cli.score_progress import ScoreProgress, summary
from tta_server.cli.score_remote import ServerOptions
from tta_server.scoring.cluster.options import Cluster
from tta_server.scoring.failures import FailureLimit
from tta_server.scoring.output import OutputFolder, ShardEntry
from tta_server.scoring.schema import Schema
from tta_server.scoring.shards import Shards

TOO_MANY_FAILED, INTERRUPTED = 3, 130
"""Exit statuses."""


@dataclass(frozen=True, slots=True)
class How:
    """Options of a run that are none of the model's; `where` is the model's folder, or the server that has it.

    `batch`, `threads` and `processes` are None where they depend on where it runs.
    """

    where: Path | ServerOptions
    batch: int | None
    threads: int | None
    processes: int | None
    limit: FailureLimit | None
    metrics: Endpoint | None
    cluster: Cluster | None


class Runner(Protocol):
    """A run, here or on a cluster."""

    entries: dict[int, ShardEntry]

    def run(self) -> None: ...

    def stop(self) -> None:
        """End it after the shards under way."""


Make = Callable[[Mapping[int, ShardEntry], ScoreProgress], Runner]
"""Makes a run of the shards that are written and what it reports to."""


def run_to_end(make: Make, shards: Shards, how: How, schema: Schema) -> None:
    """Run, and print a summary. Raises typer.Exit with status 3 or 130."""
    done, images, limit = shards.output.entries(), shards.images, how.limit
    with ExitStack() as stack:
        progress = stack.enter_context(ScoreProgress(images, done.values()))
        run = make(done, progress)
        progress.on_failure(lambda failed: run.stop() if limit and limit.is_passed(failed, images) else None)
        if how.metrics:
            stack.enter_context(serve_metrics(ScoreMetrics(progress, run.entries), how.metrics))
        interrupted = stack.enter_context(_interruptible(run))
        run.run()
    shards.finish(schema, run.entries)
    err.print(summary(run.entries.values(), progress, shards.output.folder))
    if interrupted:
        note("stopped; the same command goes on from here")
        raise typer.Exit(INTERRUPTED)
    if limit and limit.is_passed(progress.failed, images):
        problem(f"more images failed than --max-failures {limit.text} allows")
        raise typer.Exit(TOO_MANY_FAILED)


def batch_before(output: OutputFolder) -> int | None:
    """The batch size of the run that is resumed."""
    found = (output.read_manifest() or {}).get("batch")
    return found if isinstance(found, int) else None


@contextmanager
def _interruptible(run: Runner) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM ends the run after the shard under way, the second at once."""
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if received:
            os._exit(INTERRUPTED)
        received.append(number)
        run.stop()
        note("ending after the shard under way; once more ends at once")

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
