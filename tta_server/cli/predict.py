"""`tta-server predict`: images in, a table or JSON out, without a server."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track
from rich.table import Table

from tta_server import load
from tta_server.cli.console import (
    DEFAULT_MODELS,
    MAX_BYTES,
    MAX_PIXELS,
    MAX_WAITING_MB,
    MaxBytesOption,
    MaxPixelsOption,
    MaxWaitingMbOption,
    ModelOption,
    ModelsOption,
    PolicyOption,
    err,
    loading,
    model_folder,
    out,
    picture_file,
    problem,
    read_image,
    save_picture,
    settings_of,
)
from tta_server.errors import InvalidInput, TTAError
from tta_server.serving.answer import Answer
from tta_server.tasks.render.png import from_base64
from tta_server.tasks.render.rendering import DRAWING, lines_of

LINES = 8
"""Of an answer, in the table."""


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: ModelOption,
    models: ModelsOption = DEFAULT_MODELS,
    policy: PolicyOption = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="Milliseconds an image may take; default: the model's longest.")
    ] = None,
    max_views: Annotated[int | None, typer.Option(min=1, help="At most so many views.")] = None,
    merge: Annotated[str | None, typer.Option(help="How predictions merge; default: the model's own.")] = None,
    stop: Annotated[
        str | None,
        typer.Option(
            help="When to stop: all, certain, '{\"epsilon\": 0.01}', '{\"open\": 0.01}', '{\"tolerance\": 0.5}'."
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many classes to list.")] = 3,
    include: Annotated[
        str, typer.Option(help="Comma-separated: views, agreement, probabilities, uncertainty; see the model's own.")
    ] = "",
    draw: Annotated[
        Path | None,
        typer.Option(callback=picture_file, help="Paint the answer on the image and save it here; for one image."),
    ] = None,
    max_bytes: MaxBytesOption = MAX_BYTES,
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    max_waiting_mb: MaxWaitingMbOption = MAX_WAITING_MB,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON answer a line instead of a table.")] = False,
) -> None:
    """Predict images on this machine and print the merged answers.

    Example: tta-server predict photo.jpg --model clothing --policy hflip, or with --model bloodcells --draw out.png
    """
    folder = model_folder(models, model)
    if draw is not None and len(images) > 1:
        raise typer.BadParameter("--draw takes one image", param_hint="--draw")
    limits = settings_of(max_bytes=max_bytes, max_pixels=max_pixels, max_waiting_mb=max_waiting_mb).limits
    if not any(map(os.path.exists, images)):
        raise InvalidInput(f"{images[0]} does not exist")
    failures = 0
    table = Table("image", "answer", "views", "stopped by", "ms")
    with loading(f"loading and warming {model} ..."):
        loaded = load(folder, max_bytes=max_bytes, max_pixels=max_pixels, max_waiting_mb=max_waiting_mb)
    options: dict[str, Any] = {"policy": policy, "max_views": max_views, "merge": merge, "stop": stop, "top_k": top_k}
    options["budget_ms"] = budget_ms
    if draw is not None and DRAWING not in loaded.model.task.includes:
        raise typer.BadParameter(
            f"an answer of {loaded.model.task.name} has no place on the image", param_hint="--draw"
        )
    options["include"] = ",".join(filter(None, [include, DRAWING if draw else ""]))
    with loaded:
        for image in track(images, "predicting", console=err, transient=True, disable=len(images) < 2):
            try:
                answer = loaded.predict(read_image(image, limits), **options)
            except TTAError as error:
                problem(f"{image}: {error}")
                failures += 1
                continue
            if draw is not None:
                _save_drawing(answer, draw)
            if as_json:
                typer.echo(json.dumps({"image": str(image), **answer.to_dict()}))
            else:
                table.add_row(str(image), *_row(answer, lines_of(answer.result, top_k)))
    if table.row_count:
        out.print(table)
    if failures:
        raise typer.Exit(1)


def _row(answer: Answer, lines: Sequence[str]) -> list[str]:
    receipt = answer.receipt
    views = f"{len(receipt.views)} of {receipt.planned}"
    shown = [*lines[:LINES], *([f"and {len(lines) - LINES} more"] if len(lines) > LINES else [])]
    return ["\n".join(shown), views, str(receipt.stop_reason), f"{receipt.elapsed_ms:.1f}"]


def _save_drawing(answer: Answer, to: Path) -> None:
    save_picture(from_base64(answer.prediction.pop(DRAWING)), to)
    err.print(f"{to}: drawn", highlight=False)
