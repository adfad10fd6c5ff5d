"""`tta-server inspect`: what a model file states, and what `init` would conclude."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from tta_server.cli.console import out, problem, warn
from tta_server.cli.model_evidence import FromOption, LabelsOption, ModelArgument, SetOption, concluded
from tta_server.errors import shown
from tta_server.onboarding.batch.free import FIXED
from tta_server.onboarding.conclusions import Conclusion
from tta_server.onboarding.model_file import ModelFile, TensorInfo, read_model_file

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def inspect(
    model: ModelArgument,
    source: FromOption = None,
    labels: LabelsOption = None,
    stated: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what an ONNX file states, what `init` would write into its tta.yaml, and why.

    Example: tta-server inspect yolo11n.onnx
    """
    file = read_model_file(model)
    found = concluded(file, source, labels, stated)
    if file.has_fixed_batch:
        found.notes.append(FIXED)
    if as_json:
        typer.echo(json.dumps(_payload(file, found), indent=2, default=str))
        return
    out.print(_tensor_table(file))
    if file.metadata:
        out.print(_metadata_table(file))
    out.print(_fact_table(found))
    for note in found.notes:
        warn(note)
    for refusal in found.refusals:
        problem(refusal)


def _payload(file: ModelFile, found: Conclusion) -> dict[str, Any]:
    return {
        "inputs": [_tensor(each) for each in file.inputs],
        "outputs": [_tensor(each) for each in file.outputs],
        "metadata": dict(file.metadata),
        "facts": [{"key": f.key, "value": f.value, "source": f.source} for f in found.facts.values()],
        "choices": [{"key": choice.key, "allowed": choice.allowed} for choice in found.choices],
        "notes": found.notes,
        "refusals": found.refusals,
    }


def _tensor(found: TensorInfo) -> dict[str, Any]:
    return {"name": found.name, "type": found.type, "shape": list(found.shape)}


def _tensor_table(file: ModelFile) -> Table:
    table = Table("", "name", "type", "shape")
    groups: Sequence[tuple[str, Sequence[TensorInfo]]] = (("input", file.inputs), ("output", file.outputs))
    for kind, tensors in groups:
        for each in tensors:
            table.add_row(kind, each.name, each.type, each.text)
    return table


def _metadata_table(file: ModelFile) -> Table:
    table = Table("metadata", "value")
    for key, value in file.metadata.items():
        table.add_row(key, shown(value)[1:-1])
    return table


def _fact_table(found: Conclusion) -> Table:
    table = Table("key of tta.yaml", "value", "where it comes from")
    for fact in found.facts.values():
        table.add_row(fact.key, shown(fact.value), fact.source)
    for choice in found.choices:
        table.add_row(choice.key, "?", f"not known; allowed: {choice.allowed}")
    return table
