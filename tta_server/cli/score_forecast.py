"""What `tta-server score --plan` says."""

import time
from collections.abc import Mapping
from datetime import timedelta
from itertools import islice

from rich.filesize import decimal
from rich.table import Table

from tta_server.cli.score_workers import Workers
from tta_server.scoring.run import Task

SAMPLE = 16
"""Images of a forecast."""
NODES = (2, 4, 12, 40)
"""Nodes of a cluster that a forecast is made for."""


def forecast(task: Task, batch: int, workers: Workers) -> Table:
    """Time and bytes of a whole run, from its first images on one thread."""
    shards, scorer = task.shards, task.shard_scorer(batch, lambda row: None)
    images = list(islice(shards.images_of(0), SAMPLE))
    scorer.rows(images[:1])  # does lazy initialisation
    start = time.monotonic()
    rows = scorer.rows(images)
    each = (time.monotonic() - start) / len(images)
    nbytes = len(scorer.shard(0, rows).content) / len(images)
    failed = sum(row.error is not None for row in rows)
    table = Table.grid(padding=(0, 2))
    table.add_row("images", f"{shards.images}, in shards of {shards.size}")
    alone = "one at a time" if task.is_remote else "on one core"
    table.add_row("an image", f"{each * 1e3:.1f} ms {alone}, by {len(images)} of them, of which {failed} failed")
    if task.is_remote:
        alone = _duration(each * shards.images)
        table.add_row("all", f"{alone} one at a time; less where the server takes more at once")
    else:
        table.add_row("all", f"{_duration(each * shards.images / workers.count)} with {workers}")
        if nodes := times_on_nodes(each * shards.size, shards.count, workers.count):
            times = ", ".join(f"{_duration(seconds)} on {count}" for count, seconds in nodes.items())
            table.add_row("--ray", f"{times} such machines")
    table.add_row("results", f"about {decimal(round(nbytes * shards.images))}")
    return table


def times_on_nodes(seconds: float, shards: int, actors: int) -> Mapping[int, float]:
    """How long a run takes on some numbers of nodes: each actor scores a shard, of `seconds`, at a time.

    Numbers of nodes that have more actors than there are shards are left out.
    """
    return {nodes: seconds * -(-shards // (nodes * actors)) for nodes in NODES if nodes * actors <= shards}


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if seconds >= 1 else "under a second"
