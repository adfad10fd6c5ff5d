"""`tta-server models` and `tta-server policies`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tta_server.api.describe import describe_failed, describe_model, describe_policies
from tta_server.cli.console import out
from tta_server.cli.notes import print_failures
from tta_server.cli.options import ModelsOption
from tta_server.cli.sources import read_settings
from tta_server.errors import BackendUnavailable, ConfigError
from tta_server.repository.failure import LoadFailure, explain_failure
from tta_server.repository.loader import find_models, load_model
from tta_server.repository.model import Model
from tta_server.views.guarantees import EXAMPLES, OUTPUTS, contract
from tta_server.views.presets import PRESETS, preset
from tta_server.views.spec import PRIMITIVES

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def list_models(models: ModelsOption = None, as_json: JsonOption = False) -> None:
    """List the models of a folder; --json adds their labels, views, merges, stop rules and more.

    No model is run: what test images show to be wrong in a tta.yaml, `serve` and `predict` print. Ends with exit
    status 2 if a model can't be loaded.
    """
    found, failures = _load_all(read_settings(models=models).models)
    if as_json:
        failed = [describe_failed(name, failure.reason) for name, failure in failures.items()]
        typer.echo(json.dumps([describe_model(model) for model in found] + failed, indent=2))
    elif found:
        out.print(_table(found))
    print_failures(failures)
    if failures:
        raise typer.Exit(2)


def _load_all(folder: Path) -> tuple[list[Model], dict[str, LoadFailure]]:
    """The models of a folder, and why others can't be loaded. Raises ConfigError if there are none."""
    loaded, failures = [], dict[str, LoadFailure]()
    for path in find_models(folder):
        try:
            loaded.append(load_model(path))
        except (ConfigError, BackendUnavailable) as error:
            failures[path.name] = explain_failure(path.name, error, [folder])
    return loaded, failures


def _table(models: Sequence[Model]) -> Table:
    table = Table("model", "task", "input", "views", "symmetries", "budget ms")
    for model in models:
        size, budget = model.preprocessing.size, model.config.budget
        table.add_row(
            model.name,
            model.config.task,
            str(size) if size else "any size",
            str(len(model.policy.views)),
            " ".join(model.config.symmetries) or "none",
            f"{budget.default_ms:g}",
        )
    return table


def list_policies(
    as_json: JsonOption = False,
    of_contract: Annotated[
        bool, typer.Option("--contract", help="List how exactly each kind of view is undone on each kind of output.")
    ] = False,
) -> None:
    """List preset policies and the primitives that views are made of; --contract lists how exactly they are undone."""
    if of_contract:
        _print_contract(as_json)
        return
    if as_json:
        typer.echo(json.dumps(describe_policies(), indent=2))
        return
    table = Table("preset", "views", "description")
    for name, (about, _) in PRESETS.items():
        table.add_row(name, str(len(preset(name, crops=True).views)), about)
    out.print(table)
    out.print(f"Primitives of a view: {', '.join(PRIMITIVES)}.")
    out.print(
        'A policy may also be a list, the plain view first: ["identity", {"rotate": 10}, ["hflip", {"zoom": 1.1}]]'
    )


def _print_contract(as_json: bool) -> None:
    """A table of views and kinds of output, or a JSON object for each cell."""
    cells = list(contract())
    if as_json:
        typer.echo(json.dumps([cell.to_dict() for cell in cells], indent=2))
        return
    table = Table("view", *OUTPUTS)
    for view in EXAMPLES:
        table.add_row(
            view, *("exact" if cell.undo == 0 else f"{cell.undo:g} px" for cell in cells if cell.view == view)
        )
    out.print(table)
    out.print(
        "Largest distance of an undone output from the plain view's, in pixels of the model's input; --json adds notes."
    )
