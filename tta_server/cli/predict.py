"""`tta-server predict`: images in, a table or JSON out, without a server."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track
from rich.table import Table

from tta_server.answer import Answer
from tta_server.app import load
from tta_server.cli.console import (
    DEFAULT_MODELS,
    ModelOption,
    ModelsOption,
    PolicyOption,
    err,
    model_folder,
    out,
    problem,
)
from tta_server.errors import TTAError


def predict(
    images: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Image files.")],
    model: ModelOption,
    models: ModelsOption = DEFAULT_MODELS,
    policy: PolicyOption = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="Milliseconds an image may take; default: the model's longest.")
    ] = None,
    max_views: Annotated[int | None, typer.Option(min=1, help="At most so many views.")] = None,
    merge: Annotated[str | None, typer.Option(help="How predictions merge; default: the model's own.")] = None,
    stop: Annotated[
        str | None, typer.Option(help="When to stop: all, certain, '{\"epsilon\": 0.01}', '{\"open\": 0.01}'.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many classes to list.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON answer a line instead of a table.")] = False,
) -> None:
    """Predict images on this machine and print the merged answers.

    Example: tta-server predict photo.jpg --model clothing --policy hflip
    """
    folder = model_folder(models, model)
    failures = 0
    table = Table("image", "answer", "views", "stopped by", "ms")
    with err.status(f"loading and warming {model} ..."):
        loaded = load(folder)
    options: dict[str, Any] = {"policy": policy, "max_views": max_views, "merge": merge, "stop": stop, "top_k": top_k}
    options["budget_ms"] = loaded.model.config.budget.max_ms if budget_ms is None else budget_ms
    with loaded:
        for image in track(images, "predicting", console=err, transient=True, disable=len(images) < 2):
            try:
                answer = loaded.predict(image, **options)
            except TTAError as error:
                problem(f"{image}: {error}")
                failures += 1
                continue
            if as_json:
                typer.echo(json.dumps({"image": str(image), **answer.to_dict()}))
            else:
                table.add_row(str(image), *_row(answer))
    if table.row_count:
        out.print(table)
    if failures:
        raise typer.Exit(1)


def _row(answer: Answer) -> list[str]:
    receipt = answer.receipt
    views = f"{len(receipt.views)} of {receipt.planned}"
    return [summary(answer.prediction), views, str(receipt.stop_reason), f"{receipt.elapsed_ms:.1f}"]


def summary(prediction: dict[str, Any]) -> str:
    """A prediction in a few words: the top classes, or the share of each class's area."""
    if "top" in prediction:
        return "\n".join(f"{top['label']} {top['probability']:.3f}" for top in prediction["top"])
    whole = prediction["width"] * prediction["height"]
    shares = sorted(prediction["area"].items(), key=lambda entry: -entry[1])
    return "\n".join(f"{label} {pixels / whole:.1%}" for label, pixels in shares if pixels)
