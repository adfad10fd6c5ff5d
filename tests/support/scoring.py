"""Folders of tiny images to score, some of them broken, and what a run leaves."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import pictures
from tests.support.toys import faulty_model
from tta_server.imaging.decoding import Limits
from tta_server.scoring.batches import BatchScorer, InputImage
from tta_server.scoring.formats import FORMATS
from tta_server.scoring.inputs import Inputs, open_inputs
from tta_server.scoring.manifest import digest_inputs, fingerprint
from tta_server.scoring.output import RESULTS, OutputFolder
from tta_server.scoring.processes import Processes, Setup, started
from tta_server.scoring.run import Run, Task
from tta_server.scoring.schema import schema_of
from tta_server.scoring.scorer import Scorer, open_plan, read_scoring_options
from tta_server.scoring.shards import Row, RowMaker

BROKEN = b"no image"
BLACK = (0, 0, 0)
"""`faulty_model` gives NaN for such an image."""


def color_image(color: tuple[int, int, int]) -> bytes:
    return pictures.encoded(np.full((8, 8, 3), color, np.uint8))


def write_images(folder: Path, count: int, broken: Sequence[int] = ()) -> Path:
    """Images 000.png, 001.png, ... each of another shade; those with these numbers are no images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        shade = 20 + number % 200
        content = BROKEN if number in broken else color_image((shade, 255 - shade, number // 200 + 30))
        (folder / f"{number:03d}.png").write_bytes(content)
    return folder


def toy(folder: Path) -> Path:
    return faulty_model(folder / "toy")


def run_scoring(
    model: Path,
    inputs: Inputs | Path,
    out: Path,
    shard: int = 4,
    batch: int = 3,
    threads: int = 2,
    stop_at_first: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - it is frozen
    format_name: str = "jsonl",
    processes: int = 0,
    **options: Any,
) -> Run:
    """Score as the command does, with small shards; by processes where there are any."""
    listed = open_inputs(str(inputs)) if isinstance(inputs, Path) else inputs
    plan = open_plan(model, read_scoring_options(options))
    try:
        task = Task(plan, listed, limits, OutputFolder(out), FORMATS[format_name], shard)
        with task.output.locked():
            made_of = fingerprint(plan, model, batch, format_name, limits)
            task.output.begin({"inputs": digest_inputs(listed.marks()), **made_of})
            done = task.output.entries()
            with ExitStack() as stack:
                workers: int | Processes = threads
                if processes:
                    setup = Setup(model, read_scoring_options(options), limits, format_name, batch)
                    workers = stack.enter_context(started(setup, processes, made_of))
                run = Run(task, batch, workers, done, lambda row: run.stop() if stop_at_first else None)
                run.run()
            task.finish(run.entries)
    finally:
        plan.model.retire()
    return run


def made_rows(model: Path, images: Sequence[bytes]) -> list[Row]:
    """The rows of JSON Lines of these images, whose ids are their numbers."""
    plan = open_plan(model, read_scoring_options({}))
    maker = RowMaker(BatchScorer(plan, 2, Limits()), FORMATS["jsonl"], schema_of(plan))
    try:
        return list(maker.rows([InputImage(str(number), partial(bytes, one)) for number, one in enumerate(images)]))
    finally:
        plan.model.retire()


def rows_of(out: Path) -> list[dict[str, Any]]:
    lines = [line for path in sorted((out / RESULTS).iterdir()) for line in path.read_text("utf-8").split("\n")]
    return [json.loads(line) for line in lines if line]


def content_of(out: Path) -> dict[str, bytes]:
    """All that must be the same in every run: everything but times."""
    files = [*(out / RESULTS).iterdir(), *(path for path in out.iterdir() if path.is_file() and path.name != ".lock")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def shard_of(name: str, model: Path, images: Sequence[Any], first: int = 0, **options: Any) -> bytes:
    """The content of a shard in the named format, whose first image has the number `first`."""
    stored = FORMATS[name]
    with Scorer(model, **{"masks": stored.masks[0]} | options) as scorer:
        found, schema = scorer(images), schema_of(scorer.plan)
    return stored.encode(schema, first, [stored.row(schema, one) for one in found])
