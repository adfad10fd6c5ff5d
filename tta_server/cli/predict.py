"""`tta-server predict`: predicts images in this process and prints a table or JSON."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track
from rich.table import Table

from tta_server import LoadedModel, load
from tta_server.cli.console import err, loading, out, problem, warn
from tta_server.cli.files import model_folder, picture_file, read_image, save_picture
from tta_server.cli.options import (
    MaxBytesOption,
    MaxPixelsOption,
    MaxWaitingMbOption,
    MergeOption,
    ModelOption,
    ModelsOption,
    PolicyOption,
)
from tta_server.cli.sources import read_settings
from tta_server.errors import InvalidInput, TTAError
from tta_server.imaging.decoding import Limits
from tta_server.serving.answer import Answer
from tta_server.tasks.render.png import from_base64
from tta_server.tasks.render.rendering import DRAWING, lines_of

LINES = 8
"""Of an answer, in the table."""

ImagesArgument = Annotated[list[Path], typer.Argument(help="Image files.")]
BudgetOption = Annotated[
    float | None,
    typer.Option("--budget-ms", help="Milliseconds for an image; default: the longest that the model allows."),
]
MaxViewsOption = Annotated[int | None, typer.Option("--max-views", min=1, help="Run at most this many views.")]
StopOption = Annotated[
    str | None,
    typer.Option(
        "--stop",
        help="When to stop before the last view: all (never), certain, '{\"epsilon\": 0.01}', '{\"open\": 0.01}' or "
        "'{\"tolerance\": 0.5}'; default: the model's own rule.",
    ),
]
TopKOption = Annotated[int, typer.Option("--top-k", min=1, help="Number of classes to list.")]
IncludeOption = Annotated[
    str,
    typer.Option(
        "--include",
        help="Further parts of the answer, separated by commas, like views,agreement; `tta-server models --json` lists "
        "those of each model.",
    ),
]
DrawOption = Annotated[
    Path | None,
    typer.Option(
        "--draw", callback=picture_file, help="Draw the answer on the image and save it here; one image only."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print each answer as a line of JSON instead of a table.")]


def predict(
    images: ImagesArgument,
    model: ModelOption,
    models: ModelsOption = None,
    policy: PolicyOption = None,
    budget_ms: BudgetOption = None,
    max_views: MaxViewsOption = None,
    merge: MergeOption = None,
    stop: StopOption = None,
    top_k: TopKOption = 3,
    include: IncludeOption = "",
    draw: DrawOption = None,
    max_bytes: MaxBytesOption = None,
    max_pixels: MaxPixelsOption = None,
    max_waiting_mb: MaxWaitingMbOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict images on this machine, without a server, and print the merged answers.

    Example: tta-server predict photo.jpg --model clothing --policy hflip, or with --model bloodcells --draw out.png
    """
    settings = read_settings(models=models, max_bytes=max_bytes, max_pixels=max_pixels, max_waiting_mb=max_waiting_mb)
    folder = model_folder(settings.models, model)
    if draw is not None and len(images) > 1:
        raise InvalidInput(f"--draw takes one image, not {len(images)}")
    if not any(map(os.path.exists, images)):
        raise InvalidInput(f"{images[0]} does not exist")
    options: dict[str, Any] = {"policy": policy, "budget_ms": budget_ms, "max_views": max_views, "merge": merge}
    options |= {"stop": stop, "top_k": top_k, "include": ",".join(filter(None, [include, DRAWING if draw else ""]))}
    with loading(f"loading and warming {model} ..."):
        loaded = load(folder, **settings.model_dump(include={"max_bytes", "max_pixels", "max_waiting_mb"}))
    with loaded:
        if not _print_answers(loaded, settings.limits, images, options, draw, as_json):
            raise typer.Exit(1)


def _print_answers(
    loaded: LoadedModel,
    limits: Limits,
    images: Sequence[Path],
    options: Mapping[str, Any],
    draw: Path | None,
    as_json: bool,
) -> bool:
    """True if every image has an answer; the others are reported on stderr. Raises InvalidInput."""
    task, failures = loaded.model.task, 0
    if draw is not None and DRAWING not in task.includes:
        raise InvalidInput(f"--draw: an answer of {task.name} has no place on the image")
    table = Table("image", "answer", "views", "stopped by", "ms")
    for image in track(images, "predicting", console=err, transient=True, disable=len(images) < 2):
        try:
            answer = loaded.predict(read_image(image, limits), **options)
        except TTAError as error:
            problem(f"{image}: {error}")
            failures += 1
            continue
        for warning in answer.receipt.warnings:
            warn(f"{image}: {warning}")
        if draw is not None:
            _save_drawing(answer, draw)
        if as_json:
            typer.echo(json.dumps({"image": str(image), **answer.to_dict()}))
        else:
            table.add_row(str(image), *_row(answer, lines_of(answer.result, options["top_k"])))
    if table.row_count:
        out.print(table)
    return not failures


def _row(answer: Answer, lines: Sequence[str]) -> list[str]:
    receipt = answer.receipt
    views = f"{len(receipt.views)} of {receipt.planned}"
    shortened = [*lines[:LINES], *([f"and {len(lines) - LINES} more"] if len(lines) > LINES else [])]
    return ["\n".join(shortened), views, str(receipt.stop_reason), f"{receipt.elapsed_ms:.1f}"]


def _save_drawing(answer: Answer, to: Path) -> None:
    save_picture(from_base64(answer.prediction.pop(DRAWING)), to)
    err.print(f"{to}: drawn")
