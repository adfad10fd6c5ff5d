"""What `tta-server score` prints while it runs and at its end."""

import json
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tta_server.cli.console import err
from tta_server.scoring.output import ShardEntry
from tta_server.scoring.shards import Listener, Row

EVERY_SECONDS = 10.0
"""Between two lines where there is no terminal."""
MOST_NAMED = 5
"""Failures that are listed at the end."""


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
        self.failures: list[Row] = []
        self._on_failure: Callable[[int], None] = _ignore
        self._image_listeners: list[Listener] = []
        self._listeners: list[Callable[[int, int, int], None]] = []
        self._is_terminal = err.is_terminal  # rich works it out at each look
        self._bar = Progress(
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[counts]}"),
            console=err,
            disable=not self._is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=self._before, rate="", counts="")

    def on_failure(self, listener: Callable[[int], None]) -> None:
        """`listener` is called with the number of failed images after each."""
        self._on_failure = listener

    def on_image(self, listener: Listener) -> None:
        """`listener` is called with each image that `add` gets."""
        self._image_listeners.append(listener)

    def on_images(self, listener: Callable[[int, int, int], None]) -> None:
        """`listener` is called with the numbers of images, views and failed images of each call of `add_images`."""
        self._listeners.append(listener)

    def add(self, row: Row) -> None:
        for listener in self._image_listeners:
            listener(row)
        failures = [] if row.error is None else [row]
        self.add_images(1, row.views, len(failures), failures)

    def add_images(self, images: int, views: int, failed: int, failures: Sequence[Row]) -> None:
        """Add images of which `failed` have failed, the first of them `failures`; `views` were run for the others."""
        for listener in self._listeners:
            listener(images, views, failed)
        with self._lock:
            self._scored += images
            self._answered += images - failed
            self._views += views
            self.failed += failed
            self.failures += failures[: MOST_NAMED - len(self.failures)]
            if failed:
                self._on_failure(self.failed)
            self._show(images)

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

    def _show(self, images: int) -> None:
        counts = f"{self.failed} failed, {self.mean_views:.1f} views" if self.failed else f"{self.mean_views:.1f} views"
        if self._is_terminal:
            self._bar.update(self._task, advance=images, rate=f"{self.rate:.1f}/s", counts=counts)
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


def summary(entries: Collection[ShardEntry], progress: ScoreProgress, folder: Path) -> Table:
    """What the folder holds, and the first failures of this run."""
    images, failed = sum(entry.images for entry in entries), sum(entry.failed for entry in entries)
    views = sum(entry.views for entry in entries) / max(1, images - failed)
    table = Table.grid(padding=(0, 2))
    table.add_row("images", f"{images} of {progress.total}, {failed} failed")
    table.add_row("views", f"{views:.2f} a scored image")
    if progress.rate:
        table.add_row("rate", f"{progress.rate:.1f} images/s in this run")
    table.add_row("results", str(folder))
    for row in progress.failures:
        table.add_row("failed", f"{row.id}: {row.error}")
    if failed > len(progress.failures) > 0:
        table.add_row("", f"and {failed - len(progress.failures)} more: rows with status failed")
    return table
