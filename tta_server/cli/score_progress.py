"""What `tta-server score` prints while it runs and at its end."""

import json
import threading
import time
from collections.abc import Callable, Collection
from datetime import timedelta
from itertools import islice
from types import TracebackType

import typer
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tta_server.cli.console import err
from tta_server.scoring.batches import Scored
from tta_server.scoring.output import ShardEntry
from tta_server.scoring.run import Task
from tta_server.serving.answer import Answer

EVERY_SECONDS = 10.0
"""Between two lines where there is no terminal."""
MOST_NAMED = 5
"""Failures that are listed at the end."""
SAMPLE = 16
"""Images of a forecast."""


class ScoreProgress:
    """A bar on a terminal, elsewhere a line of JSON every 10 s; both on stderr. Thread-safe.

    `total` and `failed` count images of earlier runs too; `failures` are the first of this run.
    """

    def __init__(self, total: int, done: Collection[ShardEntry]) -> None:
        self.total = total
        self._lock = threading.Lock()
        self._started = self._last = time.monotonic()
        self._scored = self._answered = self._views = 0
        self._before = sum(entry.images for entry in done)
        self.failed = sum(entry.failed for entry in done)
        self.failures: list[Scored] = []
        self._on_failure: Callable[[int], None] = _ignore
        self._listeners: list[Callable[[Scored], None]] = []
        self._bar = Progress(
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[counts]}"),
            console=err,
            disable=not err.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=self._before, rate="", counts="")

    def on_failure(self, listener: Callable[[int], None]) -> None:
        """`listener` is called with the number of failed images after each."""
        self._on_failure = listener

    def on_image(self, listener: Callable[[Scored], None]) -> None:
        """`listener` is called with each image that `add` gets."""
        self._listeners.append(listener)

    def add(self, scored: Scored) -> None:
        for listener in self._listeners:
            listener(scored)
        with self._lock:
            self._scored += 1
            if isinstance(scored.outcome, Answer):
                self._answered += 1
                self._views += len(scored.outcome.receipt.views)
            else:
                self.failed += 1
                if len(self.failures) < MOST_NAMED:
                    self.failures.append(scored)
                self._on_failure(self.failed)
            self._show()

    @property
    def rate(self) -> float:
        """Images a second of this run."""
        return self._scored / max(1e-9, time.monotonic() - self._started)

    @property
    def seconds_left(self) -> float | None:
        """Until all images are scored at this rate; None before the first one."""
        left = self.total - self._before - self._scored
        return left / self.rate if self._scored else None

    @property
    def mean_views(self) -> float:
        return self._views / max(1, self._answered)

    def _show(self) -> None:
        counts = f"{self.failed} failed, {self.mean_views:.1f} views" if self.failed else f"{self.mean_views:.1f} views"
        if err.is_terminal:
            self._bar.update(self._task, advance=1, rate=f"{self.rate:.1f}/s", counts=counts)
        elif (now := time.monotonic()) - self._last >= EVERY_SECONDS:
            self._last = now
            line = {"images": self._before + self._scored, "of": self.total, "failed": self.failed}
            figures = {"rate": round(self.rate, 2), "views": round(self.mean_views, 2)}
            typer.echo(json.dumps({**line, **figures, "left_s": round(self.seconds_left or 0)}), err=True)

    def __enter__(self) -> "ScoreProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def _ignore(failed: int) -> None:
    pass


def summary(entries: Collection[ShardEntry], task: Task, progress: ScoreProgress) -> Table:
    """What the folder holds, and the first failures of this run."""
    images, failed = sum(entry.images for entry in entries), sum(entry.failed for entry in entries)
    views = sum(entry.views for entry in entries) / max(1, images - failed)
    table = Table.grid(padding=(0, 2))
    table.add_row("images", f"{images} of {task.images}, {failed} failed")
    table.add_row("views", f"{views:.2f} a scored image")
    if progress.rate:
        table.add_row("rate", f"{progress.rate:.1f} images/s in this run")
    table.add_row("results", str(task.output.folder))
    for scored in progress.failures:
        table.add_row("failed", f"{scored.id}: {scored.outcome}")
    if failed > len(progress.failures) > 0:
        table.add_row("", f"and {failed - len(progress.failures)} more: rows with status failed")
    return table


def forecast(task: Task, batch: int, threads: int) -> Table:
    """Time and bytes of a whole run, from its first images on one thread."""
    images, scorer = list(islice(task.shard_images(0), SAMPLE)), task.scorer(batch)
    list(scorer.score(images[:1]))  # does lazy initialisation
    start = time.monotonic()
    rows = list(scorer.score(images))
    each = (time.monotonic() - start) / len(images)
    nbytes = len(task.encode(0, [task.row(row) for row in rows])) / len(images)
    failed = sum(isinstance(row.outcome, str) for row in rows)
    table = Table.grid(padding=(0, 2))
    table.add_row("images", f"{task.images}, in shards of {task.shard}")
    alone = "one at a time" if task.is_remote else "on one core"
    table.add_row("an image", f"{each * 1e3:.1f} ms {alone}, by {len(images)} of them, of which {failed} failed")
    if task.is_remote:
        table.add_row("all", f"{_duration(each * task.images)} one at a time; less where the server takes more at once")
    else:
        table.add_row("all", f"{_duration(each * task.images / threads)} with {threads} threads")
    table.add_row("results", f"about {decimal(round(nbytes * task.images))}")
    return table


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if seconds >= 1 else "under a second"
